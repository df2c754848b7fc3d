"""The table beside the paper's, and the effects of design choices: the paper's, and simulated ones."""

import csv
import io
import json

import numpy as np
import pytest

from relevancy import cli
from relevancy.errors import RelevancyError
from relevancy.evaluate.effects import effects_of_rows, published_effects
from relevancy.evaluate.paper import COLUMNS, FIGURE_1, GRID, OTHERS
from relevancy.evaluate.scores import FRACTION, PERCENT, BenchmarkScore, Protocol
from relevancy.evaluate.table import make_table
from relevancy.stats.clustered import Estimate
from relevancy.stats.linear import linear_model

PROTOCOL = Protocol("a", "1", "{question}", 128, "rules")


def scores(folder, name, group, values, *, stand_in=None, protocol=PROTOCOL, unit=FRACTION):
    """A folder of one model with a benchmark's scores in it."""
    own = {score: Estimate(value, None, None, 10, 10) for score, value in values.items()}
    made = BenchmarkScore(name, protocol, unit, (group, next(iter(values))), {group: own}, stand_in)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(made.to_json()))
    return folder


def test_own_rows_stand_over_the_papers_ten(tmp_path):
    mine = scores(tmp_path / "mine_2b", "pope", "mean", {"f1": 0.8595, "accuracy": 0.8698})
    scores(mine, "vqav2", "all", {"accuracy": 0.78512}, unit=PERCENT)
    made = make_table([mine])
    assert len(made.rows) == 1 + len(GRID) + len(OTHERS) == 11
    assert made.rows[0].cells == ("–", "–", "–", "–", "0.870", "0.860", "78.5", "–", "–")
    assert [row.published for row in made.rows] == [False] + [True] * 10
    assert made.rows[1].cells == ("0.531", "236", "1130", "17.7", "0.850", "0.839", "70.7", "0.287", "0.564")
    assert made.rows[-1].cells[-2] == "46.1"
    assert any("test-dev" in note for note in made.notes)


def test_every_form_holds_every_cell(tmp_path):
    made = make_table([scores(tmp_path / "a_b", "pope", "mean", {"f1": 0.5, "accuracy": 0.25})])
    rows = list(csv.reader(io.StringIO(made.csv())))
    assert rows[0] == ["model", *COLUMNS, "numbers"]
    assert [row[-1] for row in rows[1:]] == ["own"] + ["published"] * 10
    markdown = made.markdown().splitlines()
    assert len(markdown) == 2 + 11 + 1 + len(made.notes)
    assert all(line.count("|") == len(COLUMNS) + 3 for line in markdown[:13])
    latex = made.latex()
    assert r"a\_b & – & – & – & – & 0.250 & 0.500" in latex
    assert latex.count(r"\midrule") == 2
    assert latex.count(r"\\") == 12


def test_a_stand_in_is_told_in_a_note_and_in_no_cell(tmp_path):
    made = make_table([scores(tmp_path / "m", "mmvp", "pairs", {"accuracy": 0.31}, stand_in="letters", unit=PERCENT)])
    assert made.rows[0].cells == ("–",) * len(COLUMNS)
    assert made.notes[0] == "m's mmvp is 31.00 by a stand-in: letters."


def test_what_cannot_be_set_side_by_side_is_refused(tmp_path):
    one = scores(tmp_path / "one", "pope", "mean", {"f1": 0.5, "accuracy": 0.5})
    other = scores(
        tmp_path / "two", "pope", "mean", {"f1": 0.5, "accuracy": 0.5}, protocol=Protocol("b", "", "", 1, "")
    )
    with pytest.raises(RelevancyError, match="pope of one and of two was scored under two protocols"):
        make_table([one, other])
    with pytest.raises(RelevancyError, match="Two of the folders are named one"):
        make_table([one, one])
    with pytest.raises(RelevancyError, match="holds no scores"):
        make_table([tmp_path / "nowhere"])
    (one / "pope.json").write_text('{"benchmark": "pope"}')
    with pytest.raises(RelevancyError, match="is not what relevancy evaluate score --out writes"):
        make_table([one])


def test_figure_1_follows_from_table_1():
    found = {(one.choice, one.benchmark): one for one in published_effects()}
    assert len(found) == 3 * (len(COLUMNS) + 1)
    for choice, printed in FIGURE_1.items():
        for name, value in printed.items():
            if name != "MME":
                # The cells are rounded to three digits, and so is the figure.
                assert found[choice, name].from_table == pytest.approx(value, abs=0.001)
    assert found["skip pretraining", "GQA"].from_table == pytest.approx(-0.0490)
    assert found["DinoV2 for CLIP", "POPE acc."].from_table == pytest.approx(-0.03275)
    assert found["7B for 2B", "SciQA-IMG"].from_table == pytest.approx(0.06275)
    assert found["skip pretraining", "MMVP"].from_table == pytest.approx(-0.07525)
    assert found["7B for 2B", "MME"].from_table is None


def test_a_linear_model_by_hand():
    # On a balanced grid the coefficients are differences of means: (3 + 7 - 1 - 5) / 2 and (5 + 7 - 1 - 3) / 2.
    constant, first, second = linear_model(
        np.array([1.0, 3.0, 5.0, 7.0]), np.array([[0, 0], [1, 0], [0, 1], [1, 1]]), range(4)
    )
    assert [constant.value, first.value, second.value] == pytest.approx([1, 2, 4])
    assert first.low is None  # four clusters


def test_intervals_hold_the_true_effects():
    rng = np.random.default_rng(7)
    pictures = np.repeat(np.arange(60), 8)
    terms = np.tile([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)], (60, 1)).astype(float)
    truth = np.array([-0.05, 0.03, 0.1])
    held = np.zeros(3)
    for _ in range(500):
        ease = rng.uniform(-0.3, 0.3, 60)  # some pictures are easy for every model
        bent = rng.uniform(-0.2, 0.2, (60, 3))  # and a choice matters more on some
        chance = 0.5 + ease[pictures] + (terms * (truth + bent[pictures])).sum(1)
        right = (rng.random(len(pictures)) < np.clip(chance, 0, 1)).astype(float)
        found = linear_model(right, terms, pictures.tolist())[1:]
        held += [one.low <= value <= one.high for one, value in zip(found, truth, strict=True)]
    assert (held / 500 >= 0.93).all()
    assert (held / 500 <= 0.97).all()


def rows(path, values):
    path.write_text("".join(json.dumps(one) + "\n" for one in values))
    return path


def test_effects_of_rows(tmp_path):
    made = [
        {"right": int(at % 4 != 0 or tower == "dino"), "picture": at, "tower": tower, "size": size}
        for at in range(20)
        for tower in ("clip", "dino")
        for size in ("2b", "7b")
    ]
    tower, size = effects_of_rows(rows(tmp_path / "a.jsonl", made), ["tower", "size"])
    assert (tower.low, tower.high) == ("clip", "dino")
    assert tower.estimate.value == pytest.approx(0.25)
    assert tower.estimate.low > 0
    assert size.estimate.value == pytest.approx(0)
    assert (tower.estimate.rows, tower.estimate.pictures) == (80, 20)


@pytest.mark.parametrize(
    ("change", "by", "told"),
    [
        ({"right": 2}, ["tower"], "row 1: needs right"),
        ({"tower": "third"}, ["tower"], "one of two values of tower"),
        ({}, ["size"], "one of two values of size"),
        ({}, ["tower", "same"], "tower and same change together"),
    ],
)
def test_rows_that_tell_nothing_are_refused(tmp_path, change, by, told):
    made = [{"right": at % 2, "picture": at, "tower": "ab"[at % 3 > 0], "same": at % 3 > 0} for at in range(12)]
    made[0] |= change
    with pytest.raises(RelevancyError, match=told):
        effects_of_rows(rows(tmp_path / "a.jsonl", made), by)


def test_the_commands_print_them(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["relevancy", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    code, out, _ = run("table")
    assert (code, out.count("| published |")) == (0, 10)
    assert run("table", "--format", "csv")[1].count(",published\n") == 10
    assert run("table", "--no-paper")[0] == 2
    code, out, _ = run("effects")
    assert code == 0
    assert "-0.0490" in out
    assert len(json.loads(run("effects", "--json")[1])) == 30
    assert run("effects", "--by", "tower")[0] == 2
    made = [{"right": at % 2, "picture": at, "tower": "ab"[at % 3 > 0]} for at in range(12)]
    code, out, _ = run("effects", "--rows", rows(tmp_path / "a.jsonl", made), "--by", "tower")
    assert code == 0
    assert "12 answers about 12 pictures" in out

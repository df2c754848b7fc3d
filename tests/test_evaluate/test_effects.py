"""Effects of design choices: the paper's from its table, simulated ones, and those of scored models."""

import json

import numpy as np
import pytest

from relevancy import cli
from relevancy.errors import RelevancyError
from relevancy.evaluate.choices import choices_in, read_choices, write_choices
from relevancy.evaluate.effects import effects_of_models, effects_of_rows, published_effects
from relevancy.evaluate.paper import COLUMNS, FIGURE_1
from relevancy.evaluate.scores import PERCENT, Protocol, Scoreboard
from relevancy.evaluate.store import read_answer_scores, write_score
from relevancy.plotting.effects import Bar, effects_figure
from relevancy.stats.linear import linear_model

PROTOCOL = Protocol("a", "1", "{question}", 128, "rules")


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
        ({"right": [1]}, ["tower"], "row 1: needs right"),
        ({"tower": "third"}, ["tower"], "one of two values of tower"),
        ({}, ["size"], "there is no size"),
        ({}, ["tower", "same"], "tower and same change together"),
    ],
)
def test_rows_that_tell_nothing_are_refused(tmp_path, change, by, told):
    made = [{"right": at % 2, "picture": at, "tower": "ab"[at % 3 > 0], "same": at % 3 > 0} for at in range(12)]
    made[0] |= change
    with pytest.raises(RelevancyError, match=told):
        effects_of_rows(rows(tmp_path / "a.jsonl", made), by)


@pytest.mark.parametrize("by_run", [0.0, 0.05])
def test_intervals_hold_the_true_effects_where_runs_differ_too(by_run):
    rng = np.random.default_rng(7)
    kinds = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1) for _ in range(3)]
    terms = np.repeat(np.array(kinds, float), 60, axis=0)
    runs, pictures = np.repeat(np.arange(24), 60), np.tile(np.arange(60), 24)
    truth = np.array([-0.05, 0.03, 0.1])
    held, alone = np.zeros(3), np.zeros(3)
    for _ in range(500):
        ease, bent = rng.uniform(-0.25, 0.25, 60), rng.uniform(-0.15, 0.15, (60, 3))
        lucky = rng.normal(0, by_run, 24)  # of a run
        chance = 0.5 + ease[pictures] + (terms * (truth + bent[pictures])).sum(1) + lucky[runs]
        right = (rng.random(len(chance)) < np.clip(chance, 0, 1)).astype(float)
        for count, own in ((held, runs.tolist()), (alone, None)):
            found = linear_model(right, terms, pictures.tolist(), own)[1:]
            count += [one.low <= value <= one.high for one, value in zip(found, truth, strict=True)]
    assert 0.93 <= held.mean() / 500 <= 0.97
    if by_run:
        assert alone.mean() / 500 < 0.91  # pictures alone promise too much


def test_two_ways_of_clustering_by_hand():
    rng = np.random.default_rng(0)
    runs, pictures = np.repeat(np.arange(8), 12), np.tile(np.arange(12), 8)
    term = (runs % 2).astype(float)
    right = rng.random(96) + 0.3 * rng.random(8)[runs] + 0.3 * rng.random(12)[pictures]
    design = np.stack([np.ones(96), term], axis=1)
    bread = np.linalg.inv(design.T @ design)
    rest = right - design @ bread @ design.T @ right
    parts = []
    for of in (pictures, runs, np.arange(96)):  # each pair of a picture and a run is one row
        together = (of[:, None] == of[None, :]).astype(float)
        groups = len(set(of.tolist()))
        meat = design.T @ (together * np.outer(rest, rest)) @ design
        parts.append(np.diag(bread @ meat @ bread) * groups / (groups - 1) * 95 / 94)
    variance = np.maximum(parts[0] + parts[1] - parts[2], np.maximum(parts[0], parts[1]))
    _, found = linear_model(right, term[:, None], pictures.tolist(), runs.tolist())
    assert found.high - found.value == pytest.approx(2.4469 * variance[1] ** 0.5, rel=1e-4)  # Student's t of 6
    _, few = linear_model(right[:24], term[:24, None], pictures[:24].tolist(), runs[:24].tolist())
    assert (few.low, few.high) == (None, None)  # two runs tell nothing of others


def model(folder, right, **preset):
    """A model with scores of GQA about 20 pictures, two questions each, as relevancy evaluate leaves it."""
    board = Scoreboard([at // 2 for at in range(40)])
    board.mean("all", "accuracy", np.array(right, float))
    rights = {f"q{at}": float(value) for at, value in enumerate(right)}
    write_score(board.scored("gqa", PROTOCOL, PERCENT, ("all", "accuracy"), rights), folder)
    if preset:
        trained = folder / "trained"
        trained.mkdir()
        (trained / "training.json").write_text(json.dumps({"preset": {"align": {}, "seed": 0, **preset}}))
        write_choices(str(trained), folder)
    return folder


def answers(seed, chance):
    return np.random.default_rng(seed).random(40) < chance


CELLS = [
    {"language": language, "vision": vision, "align": align, "seed": seed}
    for language in ("google/gemma-2b-it", "google/gemma-7b-it")
    for vision in ("openai/clip", "facebook/dinov2")
    for align in ({"name": "align"}, None)
    for seed in (0, 1)
]


@pytest.fixture
def scored(tmp_path):
    """Sixteen trained models; a connector that was not pretrained costs much."""
    for number, cell in enumerate(CELLS):
        model(tmp_path / f"run{number}", answers(number, 0.8 if cell["align"] else 0.4), **cell)
    return tmp_path


def test_effects_of_trained_models(scored):
    made = effects_of_models([scored], {})
    assert [(one.choice, one.benchmark, one.low, one.high) for one in made.effects] == [
        ("decoder", "gqa", "google/gemma-2b-it", "google/gemma-7b-it"),
        ("tower", "gqa", "openai/clip", "facebook/dinov2"),
        ("connector", "gqa", "pretrained", "not pretrained"),
    ]
    right = np.array([answers(number, 0.8 if cell["align"] else 0.4).mean() for number, cell in enumerate(CELLS)])
    without = np.array([cell["align"] is None for cell in CELLS])
    connector = made.effects[2]
    # On a balanced grid a coefficient is a difference of means.
    assert connector.estimate.value == pytest.approx(right[without].mean() - right[~without].mean())
    assert connector.estimate.high < 0
    assert [one.published for one in made.effects] == [FIGURE_1[name]["GQA"] for name in list(FIGURE_1)[::-1]]
    assert made.notes == ("16 models. Standard errors are clustered by picture and by run.",)


def test_one_run_of_each_model_says_so(scored):
    once = [scored / f"run{number}" for number, cell in enumerate(CELLS) if cell["seed"] == 0]
    assert "one run of each model" in effects_of_models(once, {}).notes[0]


def test_interactions_are_differences_of_differences(scored):
    *mains, last = effects_of_models([scored], {}, ["tower", "connector"], interactions=True).effects
    plain = effects_of_models([scored], {}, ["tower", "connector"]).effects
    assert [one.estimate.value for one in mains] == pytest.approx([one.estimate.value for one in plain])
    shares = {}
    for number, cell in enumerate(CELLS):
        key = cell["vision"] == "facebook/dinov2", cell["align"] is None
        shares.setdefault(key, []).append(answers(number, 0.8 if cell["align"] else 0.4).mean())
    means = {key: np.mean(values) for key, values in shares.items()}
    expected = means[True, True] - means[True, False] - means[False, True] + means[False, False]
    assert last.estimate.value == pytest.approx(expected)
    assert last.name == "tower × connector"


def test_choices_of_a_file_stand_over_those_of_training(scored, tmp_path):
    path = tmp_path / "choices.csv"
    path.write_text("model,data\n" + "".join(f"run{at},{'new' if at % 4 < 2 else 'old'}\n" for at in range(16)))
    (effect,) = effects_of_models([scored], choices_in(path), ["data"]).effects
    assert (effect.low, effect.high, effect.published) == ("new", "old", None)


def test_what_cannot_be_told_is_refused(scored, tmp_path):
    def refused(match, *given, **options):
        with pytest.raises(RelevancyError, match=match):
            effects_of_models(*given, **options)

    model(tmp_path / "again" / "run0", answers(0, 0.5))
    refused("Two of the folders are named run0", [scored / "run0", tmp_path / "again"], {})
    refused("none of the scored models", [scored], {"run99": {"x": "a"}})
    refused("one of two values of decoder", [scored / "run0", scored / "run1"], {}, ["decoder"])
    refused("No choice has two values", [scored / "run0", scored / "run1"], {})
    refused("tower and data change together", [scored], {
        f"run{at}": {"data": CELLS[at]["vision"]} for at in range(16)
    }, ["tower", "data"])  # fmt: skip
    other = tmp_path / "other"
    board = Scoreboard(range(12))
    board.mean("all", "accuracy", np.ones(12))
    write_score(board.scored("gqa", PROTOCOL, PERCENT, ("all", "accuracy"), {f"x{at}": 1.0 for at in range(12)}), other)
    refused(
        "answered different questions of gqa",
        [scored / "run0", other],
        {"run0": {"a": "1"}, "other": {"a": "2"}},
        ["a"],
    )
    with pytest.raises(RelevancyError, match="row 2: needs model"):
        bad = tmp_path / "bad.csv"
        bad.write_text("model,a\nrun0,1\n,2\n")
        choices_in(bad)
    with pytest.raises(RelevancyError, match="stands there twice"):
        bad.write_text("model,a\nrun0,1\nrun0,2\n")
        choices_in(bad)


def test_answers_are_read_back_as_they_were_scored(tmp_path):
    right = answers(5, 0.5)
    found = read_answer_scores(model(tmp_path / "one", right), "gqa")
    assert found.questions == tuple(f"q{at}" for at in range(40))
    assert found.pictures == tuple(str(at // 2) for at in range(40))
    assert (found.right == right).all()
    assert read_answer_scores(tmp_path / "one", "pope") is None
    assert read_choices(tmp_path / "one") == {}


def test_the_command(scored, tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["relevancy", "evaluate", "effects", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    code, out, _ = run(scored)
    assert code == 0
    assert "connector: pretrained → not pretrained" in out
    assert "clustered by picture and by run" in out
    assert len(json.loads(run(scored, "--json", "--interactions")[1])["effects"]) == 6
    code, out, _ = run(scored, "--out", tmp_path / "effects.png")
    assert code == 0
    assert (tmp_path / "effects.png").stat().st_size > 10_000
    assert run(scored, "--out", tmp_path / "effects.txt")[0] == 2
    assert run("--out", tmp_path / "effects.png")[0] == 2
    assert run("--by", "tower")[0] == 2
    code, out, _ = run()
    assert code == 0
    assert "-0.0490" in out
    assert len(json.loads(run("--json")[1])) == 30
    made = [{"right": at % 2, "picture": at, "tower": "ab"[at % 3 > 0]} for at in range(12)]
    code, out, _ = run("--rows", rows(tmp_path / "a.jsonl", made), "--by", "tower")
    assert code == 0
    assert "12 answers about 12 pictures" in out
    assert run(scored, "--rows", tmp_path / "a.jsonl", "--by", "tower")[0] == 2


def test_the_figure_shows_every_effect():
    bars = [Bar("a", "gqa", 0.1, 0.05, 0.15, 0.02), Bar("b", "gqa", -0.1), Bar("a", "pope", 0.0, -0.1, 0.1)]
    (axes,) = effects_figure(bars, ["a note"]).axes
    points = [line.get_xdata() for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    assert sorted(float(point[0]) for point in points) == pytest.approx([-10, 0, 10])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["gqa", "pope"]

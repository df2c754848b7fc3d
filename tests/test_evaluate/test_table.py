"""The table beside the paper's."""

import csv
import io
import json

import pytest

from relevancy import cli
from relevancy.errors import RelevancyError
from relevancy.evaluate.paper import COLUMNS, GRID, OTHERS
from relevancy.evaluate.scores import FRACTION, PERCENT, BenchmarkScore, Protocol
from relevancy.evaluate.table import make_table
from relevancy.stats.clustered import Estimate

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

"""A whole check: planted wrong explainers are flagged, a random map is at chance, and nothing is done twice."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import relevancy
from relevancy import explain
from relevancy.checking import tables
from relevancy.checking.check import Check
from relevancy.checking.store import CENTRE, RANDOM, Store
from relevancy.checking.verdicts import DOUBT
from relevancy.checking.worker import Settings
from relevancy.cli import app
from relevancy.demo.held_out import held_out_rows
from relevancy.errors import RelevancyError
from relevancy.metrics.explainers import centre_maps, explainer_of
from relevancy.metrics.localization import against_truth

SETTINGS = Settings(steps=4, control_rows=16, tokens=False)
honest = explainer_of()


def of_another_picture(model, images, questions, answers, /):
    """Each gets the map of the picture before it."""
    shifted = [images[-1], *images[:-1]]
    return honest(model, shifted, questions, answers)


def ignoring_the_question(model, images, questions, answers, /):
    return honest(model, images, ["What color is the duck?"] * len(images), ["Red"] * len(images))


@pytest.fixture(scope="module")
def model():
    return relevancy.load("demo-large")


@pytest.fixture(scope="module")
def checked(model, tmp_path_factory):
    planted = {"other-picture": of_another_picture, "no-question": ignoring_the_question, "blob": centre_maps()}
    rows = held_out_rows(40)
    rows += [replace(row, key=f"{row.key} again", expected="A giraffe") for row in rows[:5]]
    task = Check(model, rows, {"relevancy": honest, **planted}, tmp_path_factory.mktemp("check"), SETTINGS)
    return task, task.run()


def by_name(findings):
    return {one.method: one for one in findings.summaries}


def test_planted_explainers_are_flagged(checked):
    found = by_name(checked[1])
    for name in ("other-picture", "no-question", "blob", CENTRE, RANDOM):
        assert found[name].verdict.word == DOUBT, name
    assert "does not depend on the question" in str(found["no-question"].verdict)
    assert "as if maps were mixed up" in str(found["other-picture"].verdict)
    blob = str(found["blob"].verdict)
    for told in ("fails the randomisation test", "not depend on the question", "not depend on the picture"):
        assert told in blob


def test_a_blob_in_the_middle_is_judged_like_a_method(checked):
    """By every number that others have; it stays whatever is asked, and an honest method is ahead of it."""
    found = by_name(checked[1])
    blob, own = found[CENTRE], found["relevancy"]
    assert blob.numbers.keys() == own.numbers.keys()
    for control in ("randomised to tower", "question", "picture", "answer", "noise", "alone"):
        assert blob.numbers[f"{control} similarity"].mean == pytest.approx(1)
    assert str(blob.verdict).startswith("is a blob in the middle of any picture; ")
    gain = f"; {blob.against_random['faithfulness']} beside a random map (insertion less deletion); "
    assert gain in str(blob.verdict)
    assert f"on the truth in {blob.numbers['pointing'].mean:.0%}" in str(blob.verdict)
    gap = own.against_centre["pointing"]
    assert gap.mean == pytest.approx(own.numbers["pointing"].mean - blob.numbers["pointing"].mean)
    assert gap.low > 0
    assert not blob.against_centre
    assert list(found)[-2:] == [CENTRE, RANDOM]


def test_an_honest_method_is_better_than_noise(checked):
    found = by_name(checked[1])["relevancy"]
    assert found.against_random["energy"].low > 0
    assert "depends on the question" in found.verdict.reasons
    assert found.numbers["alone similarity"].mean > 0.999


def test_a_random_map_is_at_chance(checked):
    found = by_name(checked[1])[RANDOM].numbers
    chance = found["chance"].mean
    hits = np.sqrt(chance * (1 - chance) / found["pointing"].rows)
    assert abs(found["pointing"].mean - chance) < 4 * hits
    for number in ("energy", "rank_accuracy"):
        half = (found[number].high - found[number].low) / 2
        assert abs(found[number].mean - chance) < 2 * half
    assert found["nss"].low - 0.05 < 0 < found["nss"].high + 0.05
    for control in ("question", "picture", "answer", "noise", "randomised to tower"):
        assert abs(found[f"{control} similarity"].mean) < 0.1
    assert "at chance, by its interval, in " in str(by_name(checked[1])[RANDOM].verdict)


def test_what_is_confirmed_is_what_explain_confirms(checked, model):
    """Precision and recall by their definitions, from the verdicts of single calls."""
    task, findings = checked
    used = task.usable(Store(task.folder, json.loads((task.folder / "settings.json").read_text())))
    blind, confirmed, right, needed, shares = [], [], [], [], []
    for number, said in used.items():
        row = task.rows[number]
        result = explain(model, row.picture(), row.question, answer=said, target="first-relevant")
        blind.append(result.evidence.blind_tv)
        shares.append((result.evidence.probability, result.evidence.blind))
        confirmed.append(result.evidence.verdict == "confirmed")
        right.append(against_truth(result, row.mask())["pointing"] >= 0.5)
        needed.append(result.evidence.verdict != "words alone")
    confirmed, right, needed = map(np.array, (confirmed, right, needed))
    found = by_name(findings)["relevancy"].numbers
    assert findings.answers["blind_tv"].mean == pytest.approx(np.mean(blind), abs=1e-4)
    told = [findings.answers[number].mean for number in ("probability", "blind")]
    assert told == pytest.approx(np.mean(shares, 0).tolist(), abs=1e-4)
    assert findings.answers["words_alone"].mean == pytest.approx(1 - needed.mean())
    assert findings.answers["blind_tv"].low < np.mean(blind) < findings.answers["blind_tv"].high
    assert found["confirmed"].mean == pytest.approx(confirmed.mean())
    assert found["precision"].mean == pytest.approx(right[confirmed].mean())
    assert found["precision"].rows == confirmed.sum()
    assert found["recall"].mean == pytest.approx(confirmed[right & needed].mean())
    assert 0 < found["confirmed"].mean < 1
    assert by_name(findings)[RANDOM].numbers["confirmed"].mean < found["confirmed"].mean


def test_only_rows_answered_rightly_count(checked):
    task, findings = checked
    used = by_name(findings)["relevancy"].numbers["deletion"].rows
    assert 20 < used <= len(task.rows) - 5
    assert findings.heading == f"demo-large: {used} of {len(task.rows)} rows, those answered rightly"


def test_what_is_there_is_not_done_again(checked, model):
    task, findings = checked

    def never(model, images, questions, answers, /):
        pytest.fail("everything is stored")

    methods = dict.fromkeys(task.methods, never)
    before = (task.folder / "results.jsonl").read_bytes()
    again = Check(model, task.rows, methods, task.folder, SETTINGS).run()
    assert (task.folder / "results.jsonl").read_bytes() == before
    assert tables.as_json(again) == tables.as_json(findings)


def test_cut_short_it_goes_on_to_the_same_numbers(checked, model, tmp_path):
    task, findings = checked
    lines = (task.folder / "results.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "settings.json").write_bytes((task.folder / "settings.json").read_bytes())
    (tmp_path / "results.jsonl").write_bytes(b"".join(lines[:-5]) + lines[-5][:20])
    again = Check(model, task.rows, task.methods, tmp_path, SETTINGS).run()
    for one, other in zip(findings.summaries, again.summaries, strict=True):
        for number, found in one.numbers.items():
            assert other.numbers[number].mean == pytest.approx(found.mean, abs=1e-5, nan_ok=True)


def test_what_cannot_be_read_is_said_and_left_out(model, tmp_path):
    good = held_out_rows(4)
    bad = replace(good[0], key="bad", picture=lambda: "nowhere.png")
    torn = replace(good[1], key="torn", mask=lambda: np.ones((3, 3), bool))
    rows = [replace(row, expected=None) for row in (bad, torn, *good)]
    found = Check(model, rows, {"relevancy": honest}, tmp_path, SETTINGS).run()
    assert found.heading == f"demo-large: {len(rows) - 1} of {len(rows)} rows"
    assert any("1 rows could not be read, such as: nowhere.png: no such file" in note for note in found.notes)
    assert any("not held against their truth" in note and "The mask has 3 x 3 pixels" in note for note in found.notes)


@pytest.mark.parametrize("name", [CENTRE, RANDOM])
def test_baselines_are_no_names_of_methods(name, model, tmp_path):
    with pytest.raises(RelevancyError, match=f"The row {name} is always there"):
        Check(model, held_out_rows(1), {name: honest}, tmp_path).run()


PAGE = "# Mine\n\n<!-- relevancy check: from here -->\nold\n<!-- relevancy check: to here -->\n\nThe end.\n"


def test_the_command(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    arguments = ["check", "--model", "demo-small", "--data", "demo:8", "--control-rows", "4", "--steps", "2"]
    arguments += ["--methods", "relevancy,relevancy@full,relevancy@layers=1-", "--page", str(page)]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    (found,) = json.loads((tmp_path / "out" / "table.json").read_text())
    assert list(found["methods"]) == ["relevancy", "relevancy@full", "relevancy@layers=1-", CENTRE, RANDOM]
    assert found["methods"]["relevancy"]["verdict"]["word"] in ("trust", "do not trust", "undecided")
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| tokens | blind TV | words alone | probability | without the picture |" in table
    with (tmp_path / "out" / "table.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert {line["model"] for line in lines} == {"demo-small"}
    for line in lines:
        numbers = found["methods"][line["method"]]["numbers"] if line["method"] else found["answers"]
        for name, value in numbers[line["number"]].items():
            assert float(line[name] or "nan") == pytest.approx(float("nan") if value is None else value, nan_ok=True)
    assert len(lines) == len(found["answers"]) + sum(len(one["numbers"]) for one in found["methods"].values())
    assert "| relevancy@full |" in table
    assert "### Differences to relevancy, row by row" in table
    assert "### Differences to a blob in the middle, row by row" in table
    assert tables.as_json(tables.load(tmp_path / "out")[0]) == found
    assert (tmp_path / "out" / "demo-small" / "results.jsonl").is_file()
    written = page.read_text()
    assert table in written
    assert "\nold\n" not in written
    assert written.startswith("# Mine\n")
    assert written.endswith("to here -->\n\nThe end.\n")


def test_processes_find_the_same(tmp_path):
    arguments = ["check", "--model", "demo-small", "--data", "demo:10", "--control-rows", "6", "--steps", "2", "--json"]
    found = []
    for processes in ("0", "2"):
        out = tmp_path / processes
        done = CliRunner().invoke(app, [*arguments, "--processes", processes, "--out", str(out)])
        assert done.exit_code == 0, done.output
        found.append(json.loads((out / "table.json").read_text())[0]["methods"])
    for name, one in found[0].items():
        for number, mean in one["numbers"].items():
            other = found[1][name]["numbers"][number]["mean"]
            assert other == (None if mean["mean"] is None else pytest.approx(mean["mean"], abs=1e-4)), (name, number)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--methods", "relevancy@fully"], "is no method"),
        (["--methods", "gradcam@full"], "no scope full"),
        (["--methods", "gradcam@layers=1"], "reads no layer"),
        (["--methods", "relevancy@layers=9-"], r"layers 0 to \d: none of them is in layers=9-\.$"),
        (["--page", "nowhere.md"], "cannot be read"),
        (["--page", str(Path(__file__).parents[1] / "fixtures" / "picture.png")], "is no text in UTF-8"),
        (["--methods", ""], "--methods: name one"),
        (["--methods", " , "], "--methods: name one"),
        (["--data", ""], "--data: give a file"),
    ],
)
def test_wrong_wishes_are_refused(changed, told, tmp_path):
    data = [] if "--data" in changed else ["--data", "demo:1"]
    arguments = ["check", "--model", "demo-small", *data, "--out", str(tmp_path), *changed]
    with pytest.raises(RelevancyError, match=told):
        CliRunner().invoke(app, arguments, catch_exceptions=False)

"""Frozen items: the same rows, answers and tokens are judged again, and what is not the same is named."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny
from typer.testing import CliRunner

import relevancy
from relevancy.checking.check import Check
from relevancy.checking.items import ItemList, JudgedItem, picture_digest
from relevancy.checking.store import SCORES, Store
from relevancy.checking.worker import Settings
from relevancy.cli import app
from relevancy.demo.held_out import held_out_rows
from relevancy.errors import RelevancyError
from relevancy.metrics.explainers import explainer_of
from relevancy.metrics.teacher_forcing import GivenAnswer

SETTINGS = Settings(steps=2, control_rows=1, tokens=False)


@pytest.fixture(scope="module")
def model():
    return relevancy.load("demo-small")


@pytest.fixture(scope="module")
def judged(model, tmp_path_factory):
    """Six rows, those answered rightly judged, and the folder."""
    task = Check(model, held_out_rows(6), {"relevancy": explainer_of()}, tmp_path_factory.mktemp("first"), SETTINGS)
    return task, task.run()


def items_in(task):
    return ItemList.load(task.folder / "items.json")


def checked(model, rows, folder, items, method="rollout"):
    return Check(model, rows, {method: explainer_of(method)}, folder, SETTINGS, items=items)


def item(number=0, **changes):
    return replace(JudgedItem(str(number), f"p{number}", "Duck?", "Yes", (3,), 0, "Yes"), **changes)


def test_a_picture_is_known_by_its_pixels(tmp_path):
    picture = tiny.picture()
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "b.bmp")
    same = {picture_digest(one) for one in (picture, np.asarray(picture), tmp_path / "a.png", str(tmp_path / "b.bmp"))}
    assert len(same) == 1
    pixels = np.asarray(picture).copy()
    pixels[3, 4, 1] ^= 1
    reshaped = np.asarray(picture).reshape(picture.width, picture.height, 3)
    assert len(same | {picture_digest(pixels), picture_digest(reshaped)}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"row": "9"},
        {"picture": "x"},
        {"question": "x"},
        {"answer": "x"},
        {"ids": (3, 4)},
        {"position": 1},
        {"token": "x"},
    ],
)
def test_the_digest_hears_everything(change):
    lists = [ItemList([item(0), item(1)], "first"), ItemList([item(0), item(1, **change)], "first")]
    assert lists[0].digest != lists[1].digest
    assert lists[0].digest == ItemList([item(0), item(1)], "0").digest
    assert lists[0].digest != ItemList([item(1), item(0)], "first").digest


def test_what_was_judged_is_written(judged, model):
    task, findings = judged
    found = items_in(task)
    used = task.usable(Store(task.folder, json.loads((task.folder / "settings.json").read_text())))
    assert [one.row for one in found.items] == [task.rows[number].key for number in used]
    for one, (number, said) in zip(found.items, used.items(), strict=True):
        row, given = task.rows[number], GivenAnswer.words(model, said)
        assert (one.question, one.answer, one.ids, one.position) == (row.question, said, given.ids, given.position)
        assert one.picture == picture_digest(row.picture())
        assert one.token == model.tokenizer.decode([given.token]).strip()
    assert findings.items == found.digest


def test_another_method_is_judged_on_the_same_answers(judged, model, tmp_path):
    """Also those that the model does not give: a right answer was swapped for a wrong one in the list."""
    before = items_in(judged[0]).items
    said = GivenAnswer.words(model, "A giraffe")
    token = model.tokenizer.decode([said.token]).strip()
    other = replace(before[1], answer="A giraffe", ids=said.ids, position=said.position, token=token)
    frozen = ItemList([before[0], other], "first-relevant")
    frozen.save(tmp_path / "items.json")
    frozen = ItemList.load(tmp_path / "items.json")
    rows = frozen.rows_of(held_out_rows(8))
    task = checked(model, rows, tmp_path / "out", frozen)
    findings = task.run()
    assert findings.items == items_in(task).digest == frozen.digest
    assert findings.heading == "demo-small: 2 of 2 rows"
    (note,) = [note for note in findings.notes if "not what the model says now" in note]
    assert note.startswith("1 of the explained answers")
    assert f"{other.row}: 'A giraffe', now {before[1].answer!r}" in note
    assert findings.answers["probability"].mean < judged[1].answers["probability"].mean
    stored = Store(tmp_path / "out", json.loads((tmp_path / "out" / "settings.json").read_text())).found
    assert {row for row, _, part in stored if part == SCORES} == {one.row for one in frozen.items}


def test_the_same_rows_give_the_same_numbers(judged, model, tmp_path):
    frozen = items_in(judged[0])
    again = checked(model, frozen.rows_of(held_out_rows(6)), tmp_path, frozen, "relevancy").run()
    assert again.items == judged[1].items
    for number in ("deletion", "insertion", "pointing", "confirmed"):
        before = judged[1].summaries[0].numbers[number].mean
        assert again.summaries[0].numbers[number].mean == pytest.approx(before, abs=1e-5)


def test_a_changed_picture_is_refused_by_name(judged, model, tmp_path):
    frozen = items_in(judged[0])
    rows = frozen.rows_of(held_out_rows(6))
    rows[1] = replace(rows[1], picture=rows[0].picture)
    with pytest.raises(RelevancyError, match=f"^1 rows of items.json show another picture now: {rows[1].key}"):
        checked(model, rows, tmp_path, frozen).run()
    # and when a check goes on in its folder
    task = replace_rows(judged[0], rows)
    with pytest.raises(RelevancyError, match=f"items.json show another picture now: {rows[1].key}"):
        task.run()


def replace_rows(task, rows):
    by_key = {row.key: row for row in rows}
    own = [by_key.get(row.key, row) for row in task.rows]
    return Check(task.model, own, task.methods, task.folder, SETTINGS)


def test_another_token_is_refused(judged, model, tmp_path):
    frozen = items_in(judged[0])
    moved = ItemList([replace(frozen.items[0], position=5)], "last")
    with pytest.raises(RelevancyError, match=r"explain another token now \(there --target was last\)"):
        checked(model, moved.rows_of(held_out_rows(6)), tmp_path, moved).run()


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ([item(0)], "1 rows of here are missing: 1"),
        ([item(0), item(1), item(2)], "1 rows of here are new: 2"),
        ([item(0, picture="x"), item(1, picture="x")], "2 rows of here show another picture now: 0, 1"),
        ([item(0), item(1, answer="No")], "1 rows of here have another answer now: 1"),
        ([item(0), item(1, position=2)], "1 rows of here explain another token now"),
        ([item(0), item(1, ids=(9,))], "1 rows of here explain another token now"),
    ],
)
def test_differences_are_named(others, told):
    with pytest.raises(RelevancyError, match=told.replace("(", r"\(")):
        ItemList([item(0), item(1)], "first").require_same(ItemList(others, "first"), "here")
    ItemList([item(0), item(1)], "first").require_same(ItemList([item(1), item(0)], "first"), "here")


def test_rows_are_found_by_name_and_question():
    rows = held_out_rows(4)
    frozen = ItemList([item(row=rows[2].key, question=rows[2].question)], "first")
    assert frozen.rows_of(rows) == [rows[2]]
    with pytest.raises(RelevancyError, match=f"are not in the data: {rows[2].key}"):
        frozen.rows_of(rows[:2])
    with pytest.raises(RelevancyError, match=f"ask another question now: {rows[2].key}"):
        frozen.rows_of([replace(rows[2], question="Why?")])


def test_a_file_that_was_edited_or_is_another_is_refused(tmp_path):
    file = tmp_path / "items.json"
    ItemList([item(0), item(1)], "first").save(file)
    assert ItemList.load(file) == ItemList([item(0), item(1)], "first")
    text = file.read_text()
    file.write_text(text.replace('"answer": "Yes"', '"answer": "No"', 1))
    with pytest.raises(RelevancyError, match="was changed after it was written"):
        ItemList.load(file)
    for wrong in ("{}", "[]", "no", '{"digest": "", "target": "", "items": [{"row": 1}]}'):
        file.write_text(wrong)
        with pytest.raises(RelevancyError, match=r"cannot be read as the items of a check|holds no JSON object"):
            ItemList.load(file)
    file.write_text('{"items": []}')
    with pytest.raises(RelevancyError, match=r"it has no 'target'\.$"):
        ItemList.load(file)
    with pytest.raises(RelevancyError, match="cannot be read"):
        ItemList.load(tmp_path / "nowhere.json")


def test_the_command_judges_items_again(judged, tmp_path):
    file = judged[0].folder / "items.json"
    arguments = ["check", "--model", "demo-small", "--data", "demo:8", "--items", str(file), "--methods", "rollout"]
    arguments += ["--control-rows", "1", "--step", "25%", "--regions", "16", "--replacement", "black", "--no-tokens"]
    arguments += ["--processes", "1"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    (found,) = json.loads((tmp_path / "out" / "table.json").read_text())
    assert found["items"] == judged[1].items
    assert f"Items {judged[1].items}." in (tmp_path / "out" / "table.md").read_text()
    settings = json.loads((tmp_path / "out" / "demo-small" / "settings.json").read_text())
    assert (settings["step"], settings["regions"], settings["replacement"]) == (0.25, 16, "black")
    with pytest.raises(RelevancyError, match="--rows: leave it out"):
        CliRunner().invoke(app, [*arguments, "--rows", "2", "--out", str(tmp_path / "b")], catch_exceptions=False)

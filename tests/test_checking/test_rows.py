"""Rows from files and folders, and the store that results are appended to."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from relevancy.checking.rows import read_rows
from relevancy.checking.store import Store, fingerprint, locked_store
from relevancy.errors import RelevancyError


@pytest.fixture
def folder(tmp_path):
    tiny.picture(40, 30).save(tmp_path / "one.png")
    tiny.picture(20, 30, seed=1).save(tmp_path / "two.png")
    mask = np.zeros((30, 40), np.uint8)
    mask[5:10, 4:8] = 255
    Image.fromarray(mask).save(tmp_path / "mask.gif")
    return tmp_path


def test_json_lines(folder):
    lines = [
        {"image": "one.png", "question": "What?", "answer": "A duck", "mask": "mask.gif"},
        {"image": "two.png", "question": "Where?", "boxes": [[1, 2, 3, 4], [3.4, 4, 90, 5]]},
    ]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    one, two = read_rows(folder / "list.jsonl", "Not asked, since the rows have questions")
    assert (one.question, one.expected, one.picture()) == ("What?", "A duck", str(folder / "one.png"))
    assert np.argwhere(one.mask()).min(0).tolist() == [5, 4]
    assert one.mask().sum() == 20
    assert (two.question, two.expected) == ("Where?", None)
    expected = np.zeros((30, 20), bool)
    expected[2:4, 1:3] = expected[4, 3:] = True
    assert (two.mask() == expected).all()


def test_boxes_in_every_unit_and_layout(folder):
    def masked(box, layout=None):
        (folder / "list.jsonl").write_text(json.dumps({"image": "two.png", "question": "?", "bbox": box}))
        (row,) = read_rows(folder / "list.jsonl", layout=layout)
        return row.mask()

    pixels = masked([5, 10, 10, 25])
    assert pixels.sum() == 5 * 15
    assert (masked([0.25, 1 / 3, 0.5, 2.5 / 3]) == pixels).all()
    assert (masked([5, 10, 5, 15], "xywh") == pixels).all()
    for box, told in (([50, 50, 60, 60], "outside of the picture"), ([3, 3, 3.2, 3.2], "smaller than a pixel")):
        with pytest.raises(RelevancyError, match=told):
            masked(box)


def test_csv_and_folders(folder):
    (folder / "list.csv").write_text('image,question,boxes\none.png,"What, then?","[[0, 0, 2, 2]]"\n')
    (row,) = read_rows(folder / "list.csv")
    assert (row.question, row.mask().sum()) == ("What, then?", 4)
    names = [Path(one.picture()).name for one in read_rows(folder, "Where?")]
    assert names == ["mask.gif", "one.png", "two.png"]
    (folder / "metadata.csv").write_text("file_name,question\ntwo.png,Who?\n")
    assert [one.question for one in read_rows(folder)] == ["Who?"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "The input is empty"),
        ("{", "no row that can be read"),
        ("[1]", "."),
        ('{"question": "What?"}', "No column holds pictures"),
        ('{"image": "one.png"}', "No column holds questions"),
    ],
)
def test_what_is_wrong_is_said(folder, text, told):
    (folder / "list.jsonl").write_text(text)
    with pytest.raises(RelevancyError, match=told):
        read_rows(folder / "list.jsonl")


def test_what_is_wrong_with_a_row_is_said_when_it_is_asked_for(folder):
    lines = [{"image": "one.png", "question": "?", "boxes": [1, 2]}, {"question": "?"}, {"image": "one.png"}]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    boxes, picture, question = read_rows(folder / "list.jsonl")
    for ask, told in (
        (boxes.mask, "boxes were left out"),
        (picture.picture, "no picture"),
        (question.picture, "empty"),
    ):
        with pytest.raises(RelevancyError, match=told):
            ask()
    assert question.mask is None


def test_no_such_list(folder):
    for name, told in (("none.jsonl", "There is no input"), ("one.png", "cannot be told")):
        with pytest.raises(RelevancyError, match=told):
            read_rows(folder / name)


def test_a_store_goes_on(tmp_path):
    settings = {"steps": 8, "data": fingerprint([("a", "What?")])}
    key = ("a", "relevancy", "scores")
    Store(tmp_path, settings).add([(key, {"deletion": 0.25, "flips": float("nan")})])
    with (tmp_path / "results.jsonl").open("a") as stream:
        stream.write('{"row": "b", "meth')
    store = Store(tmp_path, settings)
    assert list(store.found) == [key]
    assert store.found[key]["deletion"] == 0.25
    assert np.isnan(store.found[key]["flips"])
    store.add([(("b", "relevancy", "scores"), {"deletion": 1.0})])
    assert len(Store(tmp_path, settings).found) == 2


def test_one_process_at_a_time_writes_a_store(tmp_path):
    with (
        locked_store(tmp_path, {"steps": 8}) as store,
        pytest.raises(RelevancyError, match="Another process"),
        locked_store(tmp_path, {"steps": 8}),
    ):
        pass
    assert store.folder == tmp_path
    with locked_store(tmp_path, {"steps": 8}) as again:
        again.add([(("a", "relevancy", "scores"), {"deletion": 1.0})])


def test_a_full_disk_is_told_in_a_line(tmp_path, monkeypatch):
    store = Store(tmp_path, {"steps": 8})
    store.add([(("a", "relevancy", "scores"), {"deletion": 1.0})])

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("relevancy.checking.store.os.fsync", full)
    with pytest.raises(RelevancyError, match=r"is full: make room"):
        store.add([(("b", "relevancy", "scores"), {"deletion": 1.0})])


def test_other_settings_are_refused(tmp_path):
    Store(tmp_path, {"steps": 8})
    with pytest.raises(RelevancyError, match=r"other settings \(steps\)"):
        Store(tmp_path, {"steps": 9})


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_settings_that_are_none_are_refused(tmp_path, content):
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(RelevancyError, match=r"\(settings\.json\): delete it"):
        Store(tmp_path, {"steps": 8})


@pytest.mark.parametrize("line", [b"[]", b"{", b"{}", b"\xff", b'{"row": [], "method": "", "part": "", "values": {}}'])
def test_a_damaged_line_of_results_is_refused_and_left_as_it_is(tmp_path, line):
    Store(tmp_path, {"steps": 8}).add([(("a", "relevancy", "scores"), {"deletion": 1.0})])
    file = tmp_path / "results.jsonl"
    file.write_bytes(damaged := file.read_bytes() + line + b"\nto")
    with pytest.raises(RelevancyError, match=r"\(results\.jsonl, line 2\): delete it"):
        Store(tmp_path, {"steps": 8})
    assert file.read_bytes() == damaged

"""Every shape and source of data -> the same dialogues; what is wrong is said, and has its place."""

from __future__ import annotations

import csv
import gzip
import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch.utils.data import DataLoader
from training_data import entry, write

from relevancy.data.fields import NAMES
from relevancy.errors import RelevancyError
from relevancy.train.data.dialogues import dialogue_of, on_disk
from relevancy.train.data.sources import open_data
from relevancy.train.template import IMAGE, Turn

LISTED = [
    entry("one", f"{IMAGE}\nWhat is it?", "A duck.", image="wide.png"),
    entry("two", "Is 2 > 1?", "Yes — it is."),
    entry("three", f"{IMAGE} or {IMAGE}?", "The first.", "Sure?", "Yes.", images=["wide.png", "tall.jpg"]),
    entry("four", "What is it?", "A wall.", image="sub/square.png", model="x"),
]


def as_messages(given: dict) -> dict:
    roles = {"human": "user", "gpt": "assistant"}
    messages = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in given["conversations"]]
    return {name: value for name, value in given.items() if name != "conversations"} | {"messages": messages}


def as_table(file: Path) -> Path:
    """The dialogues as rows of a table; in CSV turns and lists of pictures are spelled out."""
    names = ["id", "conversations", "image", "images"]
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([{name: one.get(name) for name in names} for one in LISTED]), file)
        return file
    with file.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, names, extrasaction="ignore")
        table.writeheader()
        lists = ("conversations", "images")
        table.writerows(one | {name: json.dumps(one[name]) for name in lists if name in one} for one in LISTED)
    return file


@pytest.fixture(params=["list", "lines", "messages", "packed", "csv", "parquet"])
def path(request, tmp_path):
    if request.param == "list":
        return write(tmp_path / "data.json", LISTED)
    if request.param == "packed":
        (tmp_path / "data.json.gz").write_bytes(gzip.compress(json.dumps(LISTED).encode()))
        return tmp_path / "data.json.gz"
    if request.param in ("csv", "parquet"):
        return as_table(tmp_path / f"data.{request.param}")
    rows = [as_messages(one) for one in LISTED] if request.param == "messages" else LISTED
    lines = tmp_path / "data.jsonl"
    lines.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in rows), encoding="utf-8")
    return lines


def test_every_entry_is_a_dialogue(path, tmp_path):
    data = open_data(path)
    assert [one.id for one in data] == ["one", "two", "three", "four"]
    assert data[0].turns == (Turn("user", f"{IMAGE}\nWhat is it?"), Turn("model", "A duck."))
    assert data[0].images == (tmp_path / "wide.png",)
    assert data[1].turns[1].text == "Yes — it is."
    assert data[1].images == ()
    assert data[-2].images == (tmp_path / "wide.png", tmp_path / "tall.jpg")
    assert data[3].turns[0].text == f"{IMAGE}\nWhat is it?"  # the text does not mention its picture
    assert data.lengths.tolist() == [6, 8, 7, 6]
    assert data.pictured.tolist() == [True, False, True, True]
    assert all(one.fault is None for one in data)
    with pytest.raises(IndexError):
        data[4]


def test_pictures_lie_in_a_folder_of_their_own(path, pictures):
    assert open_data(path, pictures)[0].images == (pictures / "wide.png",)


def test_worker_processes_read_the_same(path):
    data = open_data(path)
    alone = [data[place] for place in range(len(data))]
    assert list(DataLoader(data, batch_size=None, num_workers=2)) == alone
    assert list(pickle.loads(pickle.dumps(data))) == alone


@pytest.mark.parametrize("path", ["list", "lines"], indirect=True)
def test_a_file_that_changes_is_noticed(path):
    data = open_data(path)
    path.write_text(path.read_text() + "  ")
    with pytest.raises(RelevancyError, match="was changed"):
        data[0]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (3, "the entry is int"),
        ({}, "no conversations"),
        ({"conversations": []}, "no turns"),
        ({"conversations": {"from": "human"}}, "conversations is dict"),
        ({"conversations": [{"from": "human"}]}, "a turn is not an object"),
        ({"conversations": [{"from": "human", "value": None}]}, "text is null"),
        ({"conversations": [{"from": "human", "value": "\ud800"}]}, "half a letter"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "neither text nor image but video"),
        (entry("x", "a", "b", image=3), "a picture is int"),
        (entry("x", IMAGE, "b"), f"1 {IMAGE} in the text, but 0 pictures"),
        (entry("x", IMAGE, "b", image=["1.png", "2.png"]), f"1 {IMAGE} in the text, but 2 pictures"),
    ],
)
def test_what_is_no_dialogue_says_why(given, why):
    found = dialogue_of(given, 7)
    assert why in found.fault
    assert found.turns == found.images == ()


def test_parts_of_messages_and_bare_questions():
    parts = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": "A."}]}]
    expected = (Turn("user", f"{IMAGE}\nWhat is it?"), Turn("model", "A."))
    assert dialogue_of({"messages": messages, "images": [b"..."]}, 0).turns == expected
    assert dialogue_of({"question": "What is it?", "answer": "A.", "image": {"bytes": b"..."}}, 0).turns == expected


@pytest.mark.parametrize(
    ("texts", "pictures", "written", "placed"),
    [
        (["a", "b"], 0, ["a", "b"], None),
        ([f"{IMAGE}a", "b"], 1, [f"{IMAGE}a", "b"], None),
        ([f"{IMAGE}a", "b", f"{IMAGE}c", "d"], 2, [f"{IMAGE}a", "b", f"{IMAGE}c", "d"], "several"),
        ([f"a{IMAGE}b{IMAGE}c", "d"], 1, [f"a{IMAGE}bc", "d"], "marked again"),
        ([f"{IMAGE}a", "b", f"c{IMAGE}{IMAGE}", "d"], 2, [f"{IMAGE}a", "b", f"c{IMAGE}", "d"], "marked again"),
        (["a", "b", f"c{IMAGE}{IMAGE}", "d"], 1, ["a", "b", f"c{IMAGE}", "d"], "marked again"),
        (["a", "b", "c", "d"], 2, [f"{IMAGE}\n{IMAGE}\na", "b", "c", "d"], "unmarked"),
    ],
)
def test_every_picture_has_its_mark(texts, pictures, written, placed):
    found = dialogue_of(entry("x", *texts, images=[b"..."] * pictures), 0)
    assert ([turn.text for turn in found.turns], len(found.images)) == (written, pictures)
    assert (found.placed, found.fault) == (placed, None)
    greeted = entry("x", *texts, images=[b"..."] * pictures)
    greeted["conversations"].insert(0, {"from": "gpt", "value": "Hello"})
    assert [turn.text for turn in dialogue_of(greeted, 0).turns] == ["Hello", *written]


@pytest.mark.parametrize("name", NAMES["picture"])
def test_pictures_are_found_under_every_name_that_an_export_knows(name):
    found = dialogue_of({name: "a.png", "question": "What is it?", "answer": "A duck."}, 0)
    assert (found.turns[0].text, len(found.images), found.unread) == (f"{IMAGE}\nWhat is it?", 1, ())


@pytest.mark.parametrize(
    ("given", "unread"),
    [
        ({"photo": "a.jpg"}, "photo"), ({"left": "sub/a.PNG"}, "left"), ({"image_url": "https://a/b"}, "image_url"),
        ({"views": ["a.png"]}, "views"), ({"scan": {"bytes": b"x", "path": None}}, "scan"), ({"image_id": "7"}, None),
        ({"x": b"\x89PNG"}, "x"), ({"source": "book", "n": 7}, None), ({"image": "a.png", "mask_png": "b.png"}, None),
        ({"image": "", "photo": "data:image/png;base64,AA"}, "photo"),
    ],
)  # fmt: skip
def test_what_looks_like_a_picture_under_another_name_is_named(given, unread):
    names = () if unread is None else (unread,)
    assert dialogue_of(entry("x", "What?", "A duck.") | given, 0).unread == names


def test_data_whose_pictures_nobody_reads_is_refused(tmp_path):
    rows = [entry(str(n), "What?", "A duck.", photo=f"{n}.jpg") for n in range(3)]
    with pytest.raises(RelevancyError, match=r"no entry has a picture .*'photo': rename it") as caught:
        open_data(write(tmp_path / "data.json", rows))
    assert "\n" not in str(caught.value)
    assert len(open_data(write(tmp_path / "data.json", [*rows, entry("y", "a", "b", image="a.png")]))) == 4


def test_an_entry_without_a_name_is_named_by_its_place(tmp_path):
    data = open_data(write(tmp_path / "data.json", [{"question": "a", "answer": "b"}] * 2))
    assert [one.id for one in data] == ["0", "1"]


def test_a_broken_line_keeps_its_place(tmp_path):
    path = tmp_path / "data.jsonl"
    good = json.dumps(LISTED[1])
    path.write_text(f'{good}\n{{"id": \n{good}\n')
    data = open_data(path)
    assert len(data) == 3
    assert "no JSON" in data[1].fault
    assert data[2].id == "two"


def test_jpg_and_png_stand_in_for_each_other(pictures):
    assert on_disk(pictures / "tall.png") == pictures / "tall.jpg"
    assert on_disk(pictures / "wide.jpg") == pictures / "wide.png"
    assert on_disk(pictures / "none.jpg") == pictures / "none.jpg"


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("data.json", None, "no such file"),
        ("data.json", "", "holds no dialogue"),
        ("data.json", "[]", "holds no dialogue"),
        ("data.json", '{\n "id": 1\n}\n', "holds no dialogue: the line is no JSON"),
        ("data.json", json.dumps(LISTED) + "]", "after the list's end"),
        ("data.json", json.dumps(LISTED)[:-1], "the file's end"),
    ],
)
def test_a_source_that_cannot_be_read(tmp_path, name, text, why):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(RelevancyError, match=why):
        open_data(tmp_path / name)


def test_a_table_that_changes_is_read_anew(tmp_path):
    file = as_table(tmp_path / "data.parquet")
    assert len(open_data(file)) == 4
    pq.write_table(pa.Table.from_pylist([{"question": "a", "answer": "b"}]), file)
    assert [one.turns[1].text for one in open_data(file)] == ["b"]


def test_a_row_that_cannot_be_read_keeps_its_place(tmp_path):
    (tmp_path / "data.csv").write_text("image,question,answer\na.png,Is it?,Yes\na.png\nb.png,Is it?,No\n")
    data = open_data(tmp_path / "data.csv")
    assert [one.fault is None for one in data] == [True, False, True]
    assert "1 cells, the header 3" in data[1].fault
    assert data[2].images == (tmp_path / "b.png",)


def test_a_table_that_breaks_off_is_refused_in_one_line(tmp_path):
    (tmp_path / "data.json.gz").write_bytes(gzip.compress(json.dumps(LISTED * 2000).encode())[:-40])
    with pytest.raises(RelevancyError, match="cannot be read to its end") as caught:
        open_data(tmp_path / "data.json.gz")
    assert "\n" not in str(caught.value)


def test_a_folder_of_pictures_that_is_not_there(path, tmp_path):
    with pytest.raises(RelevancyError, match="no such folder of pictures"):
        open_data(path, tmp_path / "nowhere")


def test_a_file_is_not_streamed(path):
    with pytest.raises(RelevancyError, match="only a data set of Hugging Face is streamed"):
        open_data(path, streaming=True)


@pytest.fixture
def saved(tmp_path, pictures):
    """A folder as `datasets` saves it, pictures inside."""
    datasets = pytest.importorskip("datasets")
    rows = {
        "id": ["one", "two", "three"],
        "images": [[Image.open(pictures / "wide.png")], [], [Image.open(pictures / "square.png")] * 2],
        "messages": [
            [{"role": "user", "content": f"{IMAGE}What is it?"}, {"role": "assistant", "content": "A duck."}],
            [{"role": "user", "content": "Is 2 > 1?"}, {"role": "assistant", "content": "Yes"}],
            [{"role": "user", "content": "Same?"}, {"role": "assistant", "content": "Yes"}],
        ],
    }
    table = datasets.Dataset.from_dict(rows).cast_column("images", datasets.List(datasets.Image()))
    table.save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_a_folder_that_datasets_saved(saved, processor):
    from relevancy.train.data.examples import Encoder

    data = open_data(saved)
    assert [one.id for one in data] == ["one", "two", "three"]
    assert data.lengths.tolist() == [5, 5, 4]
    assert data.pictured.tolist() == [True, False, True]
    assert all(isinstance(picture, bytes) for picture in data[2].images)
    assert Encoder(processor)(data[2])["pixel_values"].shape[0] == 2


def test_a_stream_gives_the_same(saved):
    assert list(open_data(saved, streaming=True)) == list(open_data(saved))


def test_a_folder_that_is_no_data_set(tmp_path):
    with pytest.raises(RelevancyError, match="cannot be opened"):
        open_data(tmp_path)

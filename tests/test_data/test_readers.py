"""Every kind of input gives the same rows; what is damaged is named, and memory stays bounded."""

import csv
import gzip
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import encoded, rows_over, write_lines

from relevancy.data import reader as data_reader
from relevancy.data.columns import Columns, Itemizer, Survey
from relevancy.data.inputs import open_input
from relevancy.data.reader import Broken
from relevancy.errors import RelevancyError

ROWS = rows_over(2, 5)


def items_of(source, **columns):
    reader = open_input(str(source))
    found = Columns(**columns).found_in(reader.columns())
    survey = Survey.of(reader, found)
    return list(Itemizer(found, survey, reader.base).items(reader)), survey


def told(items):
    return [(item.row, item.id, item.picture.name, item.question, item.expected, dict(item.extras)) for item in items]


EXPECTED = [(n, row["id"], row["image"], row["question"], "Yes", {"in_n": n}) for n, row in enumerate(ROWS)]


def test_json_lines(tmp_path):
    items, survey = items_of(write_lines(tmp_path / "a.jsonl", ROWS))
    assert told(items) == EXPECTED
    assert survey.rows == 5
    assert survey.extras == {"n": pa.int64()}


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_csv(tmp_path, name):
    with (tmp_path / name).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(ROWS[0]), delimiter="\t" if name.endswith("tsv") else ",")
        writer.writeheader()
        writer.writerows(ROWS)
    assert told(items_of(tmp_path / name)[0]) == EXPECTED


def test_parquet_by_path_and_by_bytes(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert told(items_of(tmp_path / "a.parquet")[0]) == EXPECTED
    held = [row | {"image": {"bytes": encoded(n % 2), "path": None}} for n, row in enumerate(ROWS)]
    pq.write_table(pa.Table.from_pylist(held), tmp_path / "b.parquet")
    items, _ = items_of(tmp_path / "b.parquet")
    assert [item.picture.content for item in items] == [encoded(n % 2) for n in range(5)]
    assert {item.picture.name for item in items} == {None}


def test_several_files_are_one_input(tmp_path):
    write_lines(tmp_path / "a.jsonl", ROWS[:2])
    write_lines(tmp_path / "b.jsonl", ROWS[2:])
    assert told(items_of(tmp_path / "*.jsonl")[0]) == EXPECTED


def test_tar_shards(tmp_path):
    with tarfile.open(tmp_path / "shard-0.tar", "w") as archive:
        for n, row in enumerate(ROWS):
            parts = {"png": encoded(n), "json": json.dumps({"question": row["question"], "n": n}).encode()}
            for extension, data in parts.items():
                member = tarfile.TarInfo(f"in/{n}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    items, _ = items_of(tmp_path)
    assert [item.id for item in items] == [f"in/{n}" for n in range(5)]
    assert [item.picture.name for item in items] == [f"shard-0.tar::in/{n}.png" for n in range(5)]
    assert [item.picture.encoded for item in items] == [encoded(n) for n in range(5)]
    assert [item.extras["in_n"] for item in items] == list(range(5))


def spelled(separator=",", end="\n", encoding="utf-8"):
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(ROWS[0]), delimiter=separator, lineterminator=end)
    writer.writeheader()
    writer.writerows(ROWS)
    return sink.getvalue().encode(encoding)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_csv_as_spreadsheets_write_it(tmp_path, separator, end, encoding):
    for name in ("a.csv", "a.tsv"):
        (tmp_path / name).write_bytes(spelled(separator, end, encoding))
        items, _ = items_of(tmp_path / name)
        assert told(items) == EXPECTED


def test_separators_within_names_and_cells_part_nothing(tmp_path):
    (tmp_path / "a.csv").write_text('image,"question; or; prompt","a;b"\na.png,"Is it, or; not?\r\nSay!",1\n')
    (item,), _ = items_of(tmp_path / "a.csv", question="question; or; prompt")
    assert item.question == "Is it, or; not?\r\nSay!"
    (tmp_path / "b.csv").write_text("image\na.png\n")
    assert len(items_of(tmp_path / "b.csv", every="?")[0]) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_json_lines_with_marks_and_other_ends(tmp_path, encoding, end):
    text = "".join(json.dumps(row) + end for row in ROWS)
    (tmp_path / "a.jsonl").write_bytes(text.encode(encoding))
    assert told(items_of(tmp_path / "a.jsonl")[0]) == EXPECTED


@pytest.mark.parametrize("packed", [False, True])
def test_a_json_list_is_read_as_its_entries(tmp_path, packed):
    text = json.dumps([*ROWS[:1], 7, *ROWS[1:]], indent=1).encode("utf-8-sig")
    path = tmp_path / ("a.json.gz" if packed else "a.json")
    path.write_bytes(gzip.compress(text) if packed else text)
    rows = list(open_input(str(path)).rows())
    assert rows[1].reason == "the entry is no JSON object but int"
    assert [rows[0], *rows[2:]] == ROWS


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.csv", spelled(encoding="utf-16-le"), "UTF-16 without its mark"),
        ("a.csv", spelled(encoding="utf-16-be"), "UTF-16 without its mark"),
        ("a.csv", spelled(encoding="utf-16")[:-1], "cannot be read to its end"),
        ("a.jsonl", json.dumps(ROWS[0]).encode("utf-16-le"), "UTF-16 without its mark"),
        ("a.json", json.dumps(ROWS).encode("utf-16"), "no UTF-8"),
    ],
    ids=range(5),
)
def test_text_that_cannot_be_read_is_refused(tmp_path, name, content, why):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RelevancyError, match=why) as caught:
        items_of(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_folder_of_pictures(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("z.png", "b/a.jpg", "b/notes.txt"):
        (tmp_path / name).write_bytes(encoded(0))
    items, _ = items_of(tmp_path, every="What is it?")
    assert [(item.id, item.question) for item in items] == [("b/a.jpg", "What is it?"), ("z.png", "What is it?")]


def test_hugging_face_datasets(tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'relevancy[datasets]'")
    pictures = datasets.Image()
    features = datasets.Features(
        {"id": datasets.Value("string"), "image": pictures, "question": datasets.Value("string")}
    )
    held = [{"id": row["id"], "image": {"bytes": encoded(n), "path": None}, "question": row["question"]}
            for n, row in enumerate(ROWS)]  # fmt: skip
    datasets.Dataset.from_list(held, features=features).save_to_disk(tmp_path / "saved")
    items, _ = items_of(tmp_path / "saved")
    assert [item.picture.content for item in items] == [encoded(n) for n in range(5)]
    datasets.DatasetDict({"test": datasets.Dataset.from_list(held, features=features)}).save_to_disk(tmp_path / "more")
    with pytest.raises(RelevancyError, match="Name a split"):
        open_input(str(tmp_path / "more"))
    assert open_input(f"hf:{tmp_path / 'more'}@test").count() == 5


@given(
    lines=st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), max_size=12), limit=st.integers(1, 30)
)
def test_lines_are_whole_or_left_out(lines, limit):
    given_lines = [line + b"\n" for line in lines]
    found = list(data_reader.lines(io.BytesIO(b"".join(given_lines)), limit))
    assert found == [line if len(line) <= limit else None for line in given_lines]


def test_a_long_line_is_one_broken_row_and_is_never_held(tmp_path, monkeypatch):
    monkeypatch.setattr(data_reader.lines, "__defaults__", (300,))
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(ROWS[0]).encode() + b"\n" + b"x" * 5000 + b"\n" + json.dumps(ROWS[1]).encode())
    first, long, last = open_input(str(path)).rows()
    assert (first["id"], last["id"]) == ("q0", "q1")
    assert isinstance(long, Broken)
    assert "longer than" in long.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1},', "ends in a comma"), (b'{"a": 1,}', "no JSON"),
        (b"{", "no JSON"), (b"[1]", "no JSON object but list"), (b'"text"', "no JSON object but str"),
        (b'{"a": "\xff"}', "no JSON"), (b"[" * 100_000, "no JSON"),
    ],
)  # fmt: skip
def test_damaged_json_lines(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(ROWS[0]).encode() + b"\n\n" + line + b"\n")
    _, broken = open_input(str(path)).rows()
    assert reason in broken.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a,b\n1\n", "1 cells, the header 2"), ("a,b\n1,2,3\n", "3 cells"), (f"a,b\n1,{'x' * 200_000}\n", "no CSV")],
)
def test_damaged_csv(tmp_path, text, reason):
    (tmp_path / "a.csv").write_text(text)
    (broken,) = open_input(str(tmp_path / "a.csv")).rows()
    assert reason in broken.reason


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.jsonl", b"", "empty"), ("a.csv", b"id,image,question\n", "empty"), ("a.csv", b"", "empty"),
        ("a.csv", b"a,a\n1,2\n", "same name"), ("a.parquet", b"PAR1", "Parquet"), ("a.tar", b"x" * 600, "tar"),
        ("a.json", b'[{"id": 1}', "the file's end"), ("a.docx", b"x", "kind"), ("b", None, "no pictures"),
        ("none.jsonl", None, "no input"),
    ],
)  # fmt: skip
def test_inputs_that_are_refused(tmp_path, name, content, why):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    elif name == "b":
        path.mkdir()
    with pytest.raises(RelevancyError, match=why) as caught:
        items_of(path, every="?")
    assert "\n" not in str(caught.value)


def test_a_changed_input_has_another_fingerprint(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", ROWS)
    before = open_input(str(path)).fingerprint()
    assert open_input(str(path)).fingerprint() == before
    write_lines(path, [*ROWS[:-1], ROWS[-1] | {"n": 9}])
    assert open_input(str(path)).fingerprint() != before

"""A thousand rows with every fault: each ends as a result or an error that says why; nothing leaves the folder."""

import gzip
import io
import json
import re
import tarfile
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dirt import GOOD, KINDS, LONG_LINE, encoded, picture, write_pictures
from making import run

import relevancy
from relevancy.data.columns import Columns
from relevancy.errors import RelevancyError
from relevancy.explanations.explain import ExplainConfig
from relevancy.export.run import Request, export
from relevancy.report.build import make_report, save

ROWS = 1000
GIGANTIC = 2  # lines of 16 MiB are few among the thousand


def every(place: Path) -> list[tuple[object, int]]:
    """The kind of each row and its number among those of its kind, in an order that mixes them."""
    seldom = [kind for kind in KINDS if kind.name == "gigantic line"]
    often = [kind for kind in KINDS if kind not in seldom]
    rows = [(kind, number) for kind in seldom for number in range(GIGANTIC)]
    rows += [(often[place % len(often)], place // len(often)) for place in range(ROWS - len(rows))]
    rows = [rows[place] for place in np.random.default_rng(0).permutation(ROWS)]
    write_pictures(place)
    with (place / "items.jsonl").open("wb") as stream:
        for number, (kind, count) in enumerate(rows):
            stream.write(kind.line(count) + (b"\n\n" if number % 9 == 0 else b"\n"))  # blank lines are no rows
    return rows


def seen(folder: Path) -> dict[str, tuple]:
    """What stands below a folder: kind, size and time of change of each entry."""
    found = {}
    for path in folder.rglob("*"):
        state = path.lstat()
        found[str(path)] = (state.st_mode, state.st_size if path.is_file() else 0, state.st_mtime_ns
                            if not path.is_dir() else 0)  # fmt: skip
    return found


def once(found, rows, models=1):
    table = found.table(["row", "model"])
    pairs = set(zip(table["row"].to_pylist(), table["model"].to_pylist(), strict=True))
    assert len(pairs) == len(table) == rows * models


def test_there_are_more_than_25_kinds():
    assert len({kind.name for kind in KINDS}) == len(KINDS) > 25


def test_a_thousand_dirty_rows(tmp_path, monkeypatch):
    place, elsewhere, out = tmp_path / "input", tmp_path / "elsewhere", tmp_path / "out"
    place.mkdir(), elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    rows = every(place)
    before = seen(tmp_path)
    done = export(
        Request(
            models=["demo-small"], input=str(place / "items.jsonl"), out=out, processes=0, overlays="sample:100",
            wish=ExplainConfig(max_new_tokens=2), options={"device": "cpu"},
        )
    )  # fmt: skip
    after = {path: state for path, state in seen(tmp_path).items() if not Path(path).is_relative_to(out)}
    assert after == before
    assert done.count == ROWS
    found = relevancy.open_export(out)
    once(found, ROWS)
    wrong = []
    for (kind, number), error, notes in zip(
        rows, *(found.table([name])[name].to_pylist() for name in ("error", "notes")), strict=True
    ):
        said = error if error is not None else " ".join(notes)
        wanted = kind.error if error is not None else kind.note
        fits = wanted in said if wanted is not None else error is None
        allowed = kind.either or (error is None) == (kind.error is None)
        if not (fits and allowed) or (error is not None and (not error.strip() or "\n" in error)):
            wrong.append((kind.name, number, error, notes))
    assert wrong == []
    assert len(set(found.errors()["error"].to_pylist())) > 25
    for file in (out / "overlays").iterdir():
        assert file.name[:8].isdigit()
    results = list(found)
    assert len(results) == ROWS - done.errors
    assert all(np.isfinite(result.image_map).all() for result in results)
    report = make_report(out, resamples=50)
    save(report, tmp_path / "report")
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000


def lines_of(*values: object) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.jsonl", b"", "empty"), ("a.jsonl", b"\n\n \n", "empty"), ("a.jsonl", b"{\n[\n", "no row that can be read"),
        ("a.jsonl", lines_of({"question": "?"}), "No column holds pictures"),
        ("a.jsonl", lines_of({"image": "a.png"}), "No column holds questions"),
        ("a.json", b'[{"image": "a.png"', "the file cannot be read on"),
        ("a.jsonl.gz", gzip.compress(lines_of(GOOD) * 5000)[:-40], "cannot be read to its end"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"), ("a.csv", b"\0\0\0", "No column holds pictures"),
        ("a.parquet", b"PAR1 and more", "Parquet"), ("a.tar", b"x" * 2000, "tar"), ("a.docx", b"x", "--kind"),
        ("a.jsonl", lines_of({f"c{n}": n for n in range(1500)} | GOOD), "more than 1000 columns"),
    ],
)  # fmt: skip
def test_an_input_that_cannot_be_read_is_refused_before_any_work(tmp_path, name, content, why):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RelevancyError, match=why) as caught:
        export(Request(models=["demo-small"], input=str(tmp_path / name), out=tmp_path / "out", processes=0))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_command_refuses_in_one_line(tmp_path):
    (tmp_path / "a.jsonl").touch()
    refused = run("--model", "demo-small", "--input", tmp_path / "a.jsonl", "--out", tmp_path / "out")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "empty" in refused.stderr


def ended(source: Path, out: Path, **changes: object) -> list[str | None]:
    """The errors of an export's rows, in order."""
    request = Request(
        models=["demo-small"], input=str(source), out=out, processes=0, wish=ExplainConfig(max_new_tokens=2)
    )
    export(replace(request, **changes))
    found = relevancy.open_export(out)
    assert len(list(found)) + len(found.errors()) == found.manifest["rows"]
    return found.table(["error"])["error"].to_pylist()


def test_dirty_csv(tmp_path):
    write_pictures(tmp_path)
    lines = [
        b"id,image,question,n", b"1,good.png,Is it?,1", b"2,good.png", b"3,good.png,Is it?,1,2,3", b"",
        b",good.png,Is it?,1", b"4,none.png,Is it?,x", b'5,good.png,"Is, ""it""?\nSay.",',
        b"6,good.png,\xff\xfe?,1", b"7,good.png,\0,1", b"8,good.png," + b"x" * 200_000 + b",1",
        b"9,good.png,Is it?,1e999", b"../10,\xe9.png,Is it?,-0", b"11,,,",
    ]  # fmt: skip
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    reasons = (None, "2 cells", "6 cells", "id in column", "no such file", None, "not valid text", None, "no CSV", None,
               "is not a path", "no picture")  # fmt: skip
    for error, reason in zip(ended(tmp_path / "a.csv", tmp_path / "out"), reasons, strict=True):
        assert error is None if reason is None else reason in error


def test_parquet_of_every_type(tmp_path):
    png = encoded(picture())
    columns = {
        "id": pa.array([1, 1, None, 4], pa.uint64()),
        "image": pa.array([png, b"", png[:50], png], pa.large_binary()),
        "question": pa.array(["Is it?"] * 4, pa.string()).dictionary_encode(),
        "when": pa.array([1, None, 3, 4], pa.timestamp("ns", "UTC")),
        "long": pa.array([1, 2, None, 4], pa.duration("ns")),
        "time": pa.array([1001, 2, None, 4], pa.time64("ns")),
        "half": pa.array(np.array([1, 2, 3, 4], np.float16)),
        "exact": pa.array([Decimal("1.50"), None, Decimal(2), Decimal(3)], pa.decimal128(8, 2)),
        "day": pa.array([1, 2, 3, None], pa.date32()),
        "class": pa.array(["a", "b", None, "a"]).dictionary_encode(),
        "nothing": pa.nulls(4),
        "inside": pa.array([{"a": 1}, None, {"a": 3}, {"a": 4}]),
        "listed": pa.array([[1], None, [], [2, 3]]),
        "blob": pa.array([png] * 4, pa.binary()),
        "blobs": pa.array([[png]] * 4),
        "big": pa.array([(1 << 64) - 1, 1, 2, 3], pa.uint64()),
        "text": pa.array(["a", "b", "c", "d"], pa.string_view()),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    errors = ended(tmp_path / "a.parquet", tmp_path / "out")
    assert errors[0] is None
    assert errors[3] is None
    assert "0 bytes" in errors[1]
    assert errors[2] is not None
    table = relevancy.open_export(tmp_path / "out").table()
    assert table["in_big"].to_pylist() == columns["big"].to_pylist()
    assert table["in_exact"].to_pylist() == columns["exact"].to_pylist()
    assert table["in_when"].cast(pa.int64()).to_pylist() == [1, None, 3, 4]
    assert [json.loads(value) if value else None for value in table["in_listed"].to_pylist()] == [[1], None, [], [2, 3]]
    assert not {"in_blob", "in_blobs"} & set(table.column_names)


def test_dirty_tars(tmp_path):
    members = {
        "a.png": encoded(picture()), "a.json": b'{"question": "Is it?"}', "b.png": b"", "b.json": b'{"question": "?"}',
        "c.json": b'{"question": "Is it?"}', "d.png": encoded(picture()), "e.png": encoded(picture()), "e.json": b"{",
        "../f.png": encoded(picture()), "../f.txt": b"Is it?", "g.png": encoded(picture()), "g.txt": b"\xff",
        "h.png": encoded(picture())[:60], "h.txt": b"Is it?", "i.txt": LONG_LINE,
    }  # fmt: skip
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("j.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    reasons = (None, "0 bytes", "no picture", "question is empty", "cannot be read", None, "cannot be read",
               "damaged", "longer than")  # fmt: skip
    for error, reason in zip(ended(tmp_path / "a.tar", tmp_path / "out"), reasons, strict=True):
        assert error is None if reason is None else re.search(reason, error)
    assert not (tmp_path.parent / "f.png").exists()


def test_a_dirty_folder(tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    write_pictures(place)
    errors = ended(place, tmp_path / "out", columns=Columns(every="What is it?"))
    found = relevancy.open_export(tmp_path / "out")
    by_name = dict(zip(found.table(["id"])["id"].to_pylist(), errors, strict=True))
    assert by_name["good.png"] is None
    assert "0 bytes" in by_name["zero.png"]
    assert "regular file" in by_name["pipe.png"]
    assert {name for name, error in by_name.items() if error is None} >= {"link.png", "dot.png", "日本 🦆.png"}

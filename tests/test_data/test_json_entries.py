"""JSON lists and lines, an entry at a time: the same values as json itself, the right places, flat memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relevancy.data import json_entries as module
from relevancy.data.json_entries import entries, parsed
from relevancy.errors import RelevancyError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150)
@given(
    given=st.lists(values, max_size=6), chunk=st.integers(1, 40), indent=st.sampled_from([None, 0, 3]),
    ascii_=st.booleans(), bom=st.booleans(),
)  # fmt: skip
def test_a_list_is_what_json_reads(tmp_path_factory, given, chunk, indent, ascii_, bom):
    path = tmp_path_factory.mktemp("list") / "data.json"
    text = "\n " + json.dumps(given, indent=indent, ensure_ascii=ascii_) + " \n"
    raw = (b"\xef\xbb\xbf" if bom else b"") + text.encode()
    path.write_bytes(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        found = list(entries(path))
    assert [one.value for one in found] == given
    assert [parsed(raw[one.start : one.end]) for one in found] == given


@settings(max_examples=50)
@given(given=st.lists(st.dictionaries(st.text(max_size=5), values, max_size=4), max_size=6))
def test_lines_are_what_json_reads(tmp_path_factory, given):
    path = tmp_path_factory.mktemp("lines") / "data.jsonl"
    raw = "\n".join(json.dumps(one, ensure_ascii=False) + "\n" for one in given).encode()
    path.write_bytes(raw)
    found = list(entries(path))
    assert [one.value for one in found] == given
    assert [parsed(raw[one.start : one.end]) for one in found] == given


def test_a_broken_line_is_one_broken_entry(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": \n{"a": "\xff"}\n' + b"[" * 100_000 + b'\n{"a": 2}')
    found = list(entries(path))
    assert [one.value for one in found] == [{"a": 1}, None, None, None, {"a": 2}]
    assert "no JSON" in found[1].broken
    assert "not UTF-8" in found[2].broken
    assert "too deeply" in found[3].broken


def test_a_line_that_is_too_long_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST", 20)
    monkeypatch.setattr(module, "_CHUNK", 7)
    path = tmp_path / "data.jsonl"
    path.write_text('{"a": 1}\n{"a": "' + "x" * 100 + '"}\n{"a": 2}\n')
    found = list(entries(path))
    assert [one.value for one in found] == [{"a": 1}, None, {"a": 2}]
    assert "longer than" in found[1].broken


@pytest.mark.parametrize(
    ("text", "whole", "why"),
    [
        ('[{"a": 1}, {"a": 2}] x', 2, "after the list's end, at byte 21"),
        ('[{"a": 1}, {"a": 2}][]', 2, "after the list's end"),
        ('[{"a": 1}, {"a": 2}', 2, "the file's end where a comma"),
        ('[{"a": 1} {"a": 2}]', 1, "byte 10, comes '{' where a comma"),
        ('[{"a": 1}, {"a": }]', 1, r"entry 1 \(from byte 11\) is no JSON"),
        ('[{"a": 1}, {"a": "', 1, "entry 1 .* Unterminated string"),
        ('[{"a": 1},]', 1, "entry 1 .* is no JSON"),
        ("[", 0, "entry 0"),
        ("[12 3]", 1, "comes '3' where"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_a_broken_list_is_read_up_to_where_it_breaks(tmp_path, monkeypatch, text, whole, why, chunk):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    path = tmp_path / "data.json"
    path.write_text(text)
    found = []
    with pytest.raises(RelevancyError, match=why):
        for one in entries(path):
            found.append(one)  # noqa: PERF402  what was found before the error counts
    assert len(found) == whole


def test_an_entry_that_never_ends_does_not_fill_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST", 1000)
    monkeypatch.setattr(module, "_CHUNK", 100)
    path = tmp_path / "data.json"
    path.write_text('["' + "x" * 100_000)
    read = []
    grown = module._Window.more
    monkeypatch.setattr(module._Window, "more", lambda self: read.append(len(self.text)) or grown(self))
    with pytest.raises(RelevancyError, match="Unterminated"):
        list(entries(path))
    assert max(read) <= 2000


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(RelevancyError, match="cannot be read"):
        list(entries(tmp_path / "data.json"))


def test_memory_does_not_grow_with_the_list(tmp_path):
    """Peak memory of a process that reads 2 MB, and of one that reads 60 MB."""

    def peak(count: int) -> int:
        path = tmp_path / f"{count}.json"
        with path.open("w") as stream:
            stream.write("[" + ",\n".join(json.dumps({"id": n, "text": "word " * 400}) for n in range(count)) + "]")
        script = (
            "import resource, sys; from pathlib import Path; from relevancy.data.json_entries import entries\n"
            "print(sum(1 for _ in entries(Path(sys.argv[1]))), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
        read, kilobytes = map(int, done.stdout.split())
        assert read == count
        return kilobytes

    assert peak(30_000) - peak(1000) < 12_000

"""JSON Lines, an object a line, and JSON lists of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from relevancy.data.json_entries import entries
from relevancy.data.reader import (
    LONGEST_LINE,
    Broken,
    Row,
    RowReader,
    encoding_of,
    files_of,
    lines,
    opened,
    text_lines,
)
from relevancy.digests import digest_of
from relevancy.errors import RelevancyError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")
_MARK = "\ufeff"
_HEAD = 4096
_LIST = re.compile(r"\s*\[\s*[{\]]")  # of objects; a line that holds another list is only a row that is none


class JsonLines(RowReader):
    """Blank lines are no rows; a line or an entry of a list that is no JSON object is a broken one."""

    kind = "jsonl"

    def __init__(self, pattern: str) -> None:
        self.files, self.name = files_of(pattern, SUFFIXES), pattern
        self.base = self.files[0].parent

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:  # noqa: ARG002  they come with the line
        """Every line but blank ones, or every entry of a list."""
        for path in self.files:
            yield from _entries(path) if _is_list(path) else _lines(path)

    def fingerprint(self) -> str:
        """Of the files' sizes and ends."""
        return digest_of(self.files)


def _is_list(path: Path) -> bool:
    encoding = encoding_of(path)
    with opened(path) as stream:
        found = bool(_LIST.match(stream.read(_HEAD).decode(encoding, "replace").removeprefix(_MARK)))
    if found and encoding != "utf-8":
        raise RelevancyError(f"{path} is one JSON list, but no UTF-8: save it as UTF-8.")
    return found


def _entries(path: Path) -> Iterator[Row]:
    for entry in entries(path):
        if entry.broken is None and isinstance(entry.value, dict):
            yield entry.value
        else:
            yield Broken(entry.broken or f"the entry is no JSON object but {type(entry.value).__name__}")


def _lines(path: Path) -> Iterator[Row]:
    encoding = encoding_of(path)
    with opened(path) as stream:
        try:
            for line in lines(stream) if encoding == "utf-8" else text_lines(stream, encoding):
                if line is None:
                    yield Broken(f"the line is longer than {LONGEST_LINE >> 20} MiB")
                elif line.strip():
                    yield _row(line)
        except (OSError, EOFError, UnicodeError) as error:
            raise RelevancyError(f"{path}: cannot be read to its end ({error})") from error


def _row(line: bytes | str) -> Row:
    try:
        text = line.decode() if isinstance(line, bytes) else line
        values = json.loads(text.removeprefix(_MARK))
    except (ValueError, RecursionError) as error:
        return Broken(f"the line is no JSON: {_why(error, line)}")
    return values if isinstance(values, dict) else Broken(f"the line is no JSON object but {type(values).__name__}")


def _why(error: Exception, line: bytes | str) -> str:
    if isinstance(error, json.JSONDecodeError) and line.rstrip()[-1:] in (b",", ","):
        return "it ends in a comma, as in a list: a line takes one object alone"
    return str(error)

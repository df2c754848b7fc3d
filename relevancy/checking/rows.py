"""What is checked: pictures with a question each, from a list in a file or a folder, with truth where it is known."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relevancy.errors import RelevancyError
from relevancy.pictures import FORMATS, Source, open_picture

_PICTURE = ("image", "picture", "file_name", "file")
_EXPECTED = ("answer", "expected", "label")
_LISTS = (".jsonl", ".ndjson", ".csv")
_SUFFIXES = frozenset({".jpg", ".jpeg", ".tif", *(f".{kind.lower()}" for kind in FORMATS)})


@dataclass(frozen=True)
class Row:
    """One question about one picture.

    key: names the row, the same each time the data is read. picture_key: equal for rows about the same picture.
    expected: the right answer, where it is known. mask: gives where the asked-about thing is, bool (height, width).
    """

    key: str
    picture_key: str
    question: str
    picture: Callable[[], Source]
    expected: str | None = None
    mask: Callable[[], np.ndarray] | None = None


def read_rows(data: Path, question: str | None = None) -> list[Row]:
    """The rows of a .jsonl or .csv file, or of a folder.

    A file's columns: `image` (a path, beside the file), `question`, and where known `answer` (the right one), `mask` (a
    picture, black where the asked-about thing is not) or `boxes` ([[x0, y0, x1, y1], ...], pixels). A folder holds
    metadata.jsonl or metadata.csv of this kind, or pictures alone. question: for rows without one of their own.
    Raises RelevancyError.
    """
    try:
        rows = list(_in_folder(data, question) if data.is_dir() else _in_list(data, question))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RelevancyError(f"--data {data}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    if not rows:
        raise RelevancyError(f"--data {data}: holds no row. Give a .jsonl or .csv file, or a folder of pictures.")
    return rows


def _in_folder(folder: Path, question: str | None) -> Iterator[Row]:
    for suffix in _LISTS:
        listed = folder / f"metadata{suffix}"
        if listed.is_file():
            yield from _in_list(listed, question)
            return
    for number, file in enumerate(sorted(folder.iterdir())):
        if file.suffix.lower() in _SUFFIXES:
            yield _row({"image": file.name}, folder, number, question)


def _in_list(file: Path, question: str | None) -> Iterator[Row]:
    if file.suffix.lower() not in _LISTS:
        raise RelevancyError(f"--data {file}: is neither a folder nor a {', '.join(_LISTS)} file.")
    with file.open(encoding="utf-8-sig", newline="") as stream:
        records: Iterable[Any] = csv.DictReader(stream) if file.suffix.lower() == ".csv" else _json_lines(stream, file)
        for number, record in enumerate(records):
            yield _row(record, file.parent, number, question)


def _json_lines(lines: Iterable[str], file: Path) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                record = json.loads(line)
            except ValueError as error:
                raise RelevancyError(f"{file}, line {number}: is not JSON ({error}).") from error
            if not isinstance(record, dict):
                raise RelevancyError(f"{file}, line {number}: is not a JSON object with an image and a question.")
            yield record


def _row(record: Mapping[str, Any], folder: Path, number: int, question: str | None) -> Row:
    name = _first(record, _PICTURE)
    asked = _first(record, ("question",)) or question
    if not name or not asked:
        what = "no picture (column image)" if not name else "no question: add the column, or give --question"
        raise RelevancyError(f"Row {number + 1} has {what}.")
    path = folder / name
    expected = _first(record, _EXPECTED)
    mask, boxes = _first(record, ("mask",)), record.get("boxes") or record.get("box")
    truth: Callable[[], np.ndarray] | None = None
    if mask:
        truth = lambda: np.asarray(open_picture(folder / mask).image).max(axis=2) > 0  # noqa: E731
    elif boxes:
        corners = _corners(boxes, number)
        truth = lambda: _mask_of(corners, *open_picture(path).image.size)  # noqa: E731
    return Row(f"{number}:{name}", str(name), asked, lambda: path, expected, truth)


def _first(record: Mapping[str, Any], names: Iterable[str]) -> str | None:
    found = (record.get(name) for name in names)
    return next((str(value) for value in found if value not in (None, "")), None)


def _corners(given: Any, number: int) -> np.ndarray:
    try:
        corners = np.asarray(json.loads(given) if isinstance(given, str) else given, np.float64).reshape(-1, 4)
    except (ValueError, TypeError) as error:
        raise RelevancyError(f"Row {number + 1}: boxes are [[x0, y0, x1, y1], ...], not {given!r}.") from error
    return corners


def _mask_of(corners: np.ndarray, width: int, height: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in np.clip(np.rint(corners), 0, [width, height, width, height]).astype(int):
        mask[y0:y1, x0:x1] = True
    return mask

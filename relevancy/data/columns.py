"""Which input column means what, and a row's values as an Item."""

from __future__ import annotations

import hashlib
import json
import math
import re
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from relevancy import images
from relevancy.data.arrow import pa
from relevancy.data.items import Item, Source
from relevancy.data.reader import Broken, Reader
from relevancy.errors import RelevancyError
from relevancy.images import data_url, is_data_url

ROLES = ("id", "picture", "question", "expected", "boxes", "mask")
USUAL = {
    "id": ("id", "question_id", "uid", "__key__"),
    "picture": images.COLUMNS,
    "question": ("question", "prompt", "query", "text", "txt"),
    "expected": ("expected", "answer", "label", "truth", "ground_truth", "gt"),
    "boxes": ("boxes", "bboxes", "bbox", "box"),
    "mask": ("mask", "mask_path"),
}
"""Names by which a column is found when it is not named; the first that is there."""

_MOST_COLUMNS = 1000
_LONGEST_SHOWN = 200
_LARGEST_INT = 1 << 63
# Numbers as programs write them; 007 is a name, not a number.
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,18})")
_DECIMAL = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|nan|-?inf")


@dataclass(frozen=True)
class Columns:
    """The input column of each role, None where there is none; `every` asks one question of all pictures."""

    id: str | None = None
    picture: str | None = None
    question: str | None = None
    expected: str | None = None
    boxes: str | None = None
    mask: str | None = None
    every: str | None = None

    def found_in(self, names: Sequence[str]) -> Columns:
        """These columns, and for roles that were not named the usual ones. Raises RelevancyError for what lacks."""
        if not names:
            raise RelevancyError("The input is empty: it holds no row that can be read.")
        asked, there = asdict(self), ", ".join(map(repr, sorted(names)[:50]))
        chosen: dict[str, str | None] = {"every": self.every}
        for role in ROLES:
            if asked[role] is not None and asked[role] not in names:
                raise RelevancyError(f"There is no column {asked[role]!r}; the input has {there}.")
            usual = next((name for name in USUAL[role] if name in names), None)
            chosen[role] = asked[role] or usual
        if self.every is not None:
            chosen["question"] = None
        if chosen["picture"] is None:
            raise RelevancyError(f"No column holds pictures: name one with --picture-column; the input has {there}.")
        if chosen["question"] is None and self.every is None:
            raise RelevancyError(
                f"No column holds questions: name one with --question-column, or ask one --question of all pictures; "
                f"the input has {there}."
            )
        return Columns(**chosen)

    @property
    def used(self) -> frozenset[str]:
        """Names of the columns that have a role."""
        return frozenset(name for role in ROLES if (name := getattr(self, role)) is not None)


@dataclass(frozen=True)
class Survey:
    """What one pass over the whole input tells: rows, the further columns' types, ids that stand more than once."""

    rows: int
    extras: Mapping[str, pa.DataType]
    as_json: frozenset[str]
    repeated: frozenset[int] = field(default=frozenset(), repr=False)

    @classmethod
    def of(cls, reader: Reader, columns: Columns) -> Survey:
        """Reads every row once. Memory grows by eight bytes a row where there are ids, not at all otherwise."""
        known = reader.types()
        wanted = None if known is None else ([columns.id] if columns.id else [])
        rows, ids = 0, array("Q")
        seen: dict[str, str] = {}
        if wanted == [] and (count := reader.count()) is not None:
            rows = count
        else:
            for values in reader.rows(wanted):
                rows += 1
                if isinstance(values, Broken):
                    continue
                if columns.id is not None and (one := text_id(values.get(columns.id))) is not None:
                    ids.append(_hash(one))
                if known is None:
                    _learn(seen, values, columns.used, _text_kind if reader.only_text else _kind)
        if not rows:
            raise RelevancyError(f"{reader.name} is empty: it holds no row.")
        if known is None:
            known = {name: _KINDS[kind] for name, kind in seen.items()}
            as_json = frozenset(name for name, kind in seen.items() if kind == "json")
        else:
            known = {name: _plain(kind) for name, kind in known.items() if name not in columns.used and not _blob(kind)}
            as_json = frozenset(name for name, kind in known.items() if pa.types.is_nested(kind))
            known |= {name: pa.string() for name in as_json}
        values_, counts = np.unique(np.frombuffer(ids, np.uint64), return_counts=True)
        return cls(rows, dict(sorted(known.items())), as_json, frozenset(values_[counts > 1].tolist()))


class Itemizer:
    """Makes Items of rows: paths are found from the input's own folder, values brought to their columns' types."""

    def __init__(self, columns: Columns, survey: Survey, base: Path) -> None:
        self.columns, self.survey, self.base = columns, survey, base

    def items(self, reader: Reader, limit: int | None = None) -> Iterable[Item]:
        """Every row in its order, numbered from 0."""
        for row, values in enumerate(reader.rows()):
            if limit is not None and row >= limit:
                return
            yield self.item(row, values)

    def item(self, row: int, values: Mapping[str, Any] | Broken) -> Item:
        """One row; what is wrong with it becomes its fault."""
        if isinstance(values, Broken):
            return Item(row, str(row), fault=values.reason)
        of = self.columns
        fault = None
        own = str(row) if of.id is None else text_id(values.get(of.id))
        if own is None:
            own, fault = str(row), f"the id in column {of.id!r} is missing or not a number"
        notes = []
        if of.id is not None and _hash(own) in self.survey.repeated:
            notes.append("this id stands in more than one row")
        picture, wrong_picture = _source(values.get(of.picture or ""), self.base)
        question, wrong_question = _question(of, values)
        boxes, wrong_boxes = _boxes(values.get(of.boxes)) if of.boxes else (None, None)
        notes += [wrong_boxes] if wrong_boxes else []
        mask, wrong_mask = _source(values.get(of.mask), self.base) if of.mask else (None, None)
        if wrong_mask and not _missing(values.get(of.mask or "")):
            notes.append(f"the mask was left out: {wrong_mask}")
        return Item(
            row=row,
            id=own,
            picture=picture,
            question=question,
            expected=_text(values.get(of.expected)) if of.expected else None,
            boxes=boxes,
            mask=mask.name if mask else None,
            mask_png=mask.content if mask else None,
            extras={f"in_{name}": self._extra(name, values.get(name)) for name in self.survey.extras},
            notes=tuple(notes),
            fault=fault or wrong_picture or wrong_question,
        )

    def _extra(self, name: str, value: Any) -> Any:
        if value is None:
            return None
        if name in self.survey.as_json:
            return _json(value)
        kind = self.survey.extras[name]
        if isinstance(value, str) and pa.types.is_int64(kind):
            return int(value)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return clean(str(value))
        return float(value) if pa.types.is_float64(kind) else value


_KINDS = {
    "none": pa.string(), "bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.string(),
    "json": pa.string(),
}  # fmt: skip


def _learn(
    seen: dict[str, str], values: Mapping[str, Any], used: Collection[str], kind_of: Callable[[Any], str]
) -> None:
    """Widens what is known of each further column by one row's values."""
    for name, value in values.items():
        if name in used or isinstance(value, bytes) or clean(name) != name:  # a name that no file can hold
            continue
        before, kind = seen.get(name, "none"), kind_of(value)
        if before != kind:
            seen[name] = _WIDER.get(frozenset((before, kind)), "json")
        elif name not in seen:
            seen[name] = kind
        if len(seen) > _MOST_COLUMNS:
            raise RelevancyError(f"The input has more than {_MOST_COLUMNS} columns: keep those that matter.")


_WIDER = {frozenset(("none", kind)): kind for kind in _KINDS} | {frozenset(("int", "float")): "float"}


def _kind(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -_LARGEST_INT <= value < _LARGEST_INT else "json"
    return "float" if isinstance(value, float) else "text" if isinstance(value, str) else "json"


def _text_kind(value: str | None) -> str:
    """What a cell of text could be read as."""
    if value is None:
        return "none"
    if _WHOLE.fullmatch(value):
        return _kind(int(value))
    return "float" if _DECIMAL.fullmatch(value) else "text"


def _blob(kind: pa.DataType) -> bool:
    """Whether it is bytes or holds some, as further pictures do: too much to carry along."""
    return "binary" in str(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type under which its values are stored: views are only another layout, with which little can be done."""
    return pa.string() if pa.types.is_string_view(kind) else kind


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def clean(text: str) -> str:
    """The text with what UTF-8 cannot hold spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def text_id(value: Any) -> str | None:
    """An id as text; None where there is none, or a number that is none."""
    return None if _missing(value) else clean(value if isinstance(value, str) else _json(value))


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and not math.isfinite(value))


def _text(value: Any) -> str | None:
    return None if _missing(value) else clean(value if isinstance(value, str) else _json(value))


def _json(value: Any) -> str:
    return clean(json.dumps(value, ensure_ascii=False, default=str))


def _question(columns: Columns, values: Mapping[str, Any]) -> tuple[str | None, str | None]:
    if columns.every is not None:
        return columns.every, None
    asked = values.get(columns.question or "")
    if _missing(asked) or not str(asked).strip():
        return None, "the question is empty"
    if not isinstance(asked, str):
        return clean(str(asked)), f"the question is no text but {type(asked).__name__}"
    own = clean(asked)
    return own, None if own == asked else "the question is not valid text: give it in UTF-8"


def _source(value: Any, base: Path) -> tuple[Source | None, str | None]:
    """Where the picture of a value lies, or what is wrong with the value."""
    if isinstance(value, Mapping):  # Hugging Face's Image: bytes, or else a path
        content, path = value.get("bytes"), value.get("path")
        return _source(content if content is not None else path, base)
    if isinstance(value, bytes | bytearray | memoryview):
        return (Source(content=bytes(value)), None) if len(value) else (None, "the picture has 0 bytes")
    if _missing(value):
        return None, "there is no picture"
    if not isinstance(value, str):
        return None, f"the picture is no path and no bytes but {type(value).__name__}"
    if is_data_url(value):
        try:
            return Source(content=data_url(value)), None
        except RelevancyError as error:
            return None, str(error)
    name = clean(value)
    if value.startswith(("http://", "https://")):
        return Source(name), f"{name[:_LONGEST_SHOWN]}: is a web address; download the picture first and give the file"
    if name != value or "\0" in value:
        return Source(name), f"{name[:_LONGEST_SHOWN]!r}: is not a path"
    return Source(name, str(base / value)), None


def _boxes(value: Any) -> tuple[tuple[tuple[float, float, float, float], ...] | None, str | None]:
    """Boxes of a list of four numbers each, of four numbers, or of such a list written as JSON."""
    if _missing(value):
        return None, None
    try:
        given = json.loads(value) if isinstance(value, str) else value
        given = [given] if given and not isinstance(given[0], Sequence) else given
        boxes = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in given)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None, "the boxes were left out: they are no lists of four numbers"
    if not all(math.isfinite(side) for box in boxes for side in box):
        return None, "the boxes were left out: they are not finite"
    if not all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in boxes):
        return None, "the boxes were left out: x0, y0, x1, y1 are the wrong way round (or x, y, width, height?)"
    return boxes, None

"""Which input column means what, and a row's values as an Item."""

from __future__ import annotations

__all__ = ["Columns"]

import hashlib
import json
import re
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from relevancy.data.answer_match import answers_of
from relevancy.data.arrow import pa
from relevancy.data.boxes import LAYOUTS, Box, read_boxes
from relevancy.data.fields import (
    DIALOGUES,
    IMAGE,
    NAMES,
    VIDEO,
    ShapeError,
    clean,
    listed,
    missing,
    short,
    turns_of,
)
from relevancy.data.items import Item
from relevancy.data.reader import Broken, RowReader
from relevancy.data.sources import RowSources, source
from relevancy.errors import RelevancyError

ROLES = ("id", "picture", "video", "question", "expected", "boxes", "mask")
_MOST_COLUMNS = 1000
_LONGEST_SHOWN = 200
_LARGEST_INT = 1 << 63
_FEWEST_REVERSED, _MOST_REVERSED = 5, 0.6  # rows, and the share of rows, whose boxes are no corners
# Numbers as programs write them; 007 is a name, not a number.
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,18})")
_DECIMAL = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|nan|-?inf")


@dataclass(frozen=True)
class Columns:
    """The input column of each role, None where there is none; `every` asks one question of all pictures.

    layout: of the boxes, one of `boxes.LAYOUTS`; where it is not named, corners, if they can be.
    text_rows: rows without a picture are asked in words alone; otherwise they are at fault.
    """

    id: str | None = None
    picture: str | None = None
    question: str | None = None
    expected: str | None = None
    boxes: str | None = None
    mask: str | None = None
    every: str | None = None
    layout: str | None = None
    text_rows: bool = False
    video: str | None = None

    def found_in(self, names: Sequence[str]) -> Columns:
        """These columns, and for roles that were not named the usual ones. Raises RelevancyError for what lacks."""
        if not names:
            raise RelevancyError("The input is empty: it holds no row that can be read.")
        if self.layout is not None and self.layout not in LAYOUTS:
            raise RelevancyError(f"There is no layout of boxes {self.layout!r}; choose from {', '.join(LAYOUTS)}.")
        asked, there = asdict(self), ", ".join(short(repr(name)) for name in sorted(names)[:50])
        chosen: dict[str, Any] = {"every": self.every, "layout": self.layout, "text_rows": self.text_rows}
        for role in ROLES:
            if asked[role] is not None and asked[role] not in names:
                raise RelevancyError(f"There is no column {asked[role]!r}; the input has {there}.")
            usual = next((name for name in NAMES[role] if name in names), None)
            chosen[role] = asked[role] or usual
        if self.every is not None:
            chosen["question"] = None
        asked_in_parts = chosen["question"] == "messages"  # which may hold their pictures
        if chosen["picture"] is None and chosen["video"] is None and not self.text_rows and not asked_in_parts:
            raise RelevancyError(
                "No column holds pictures: name one with --picture-column, or ask in words alone with --text-rows; the "
                f"input has {there}."
            )
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
    def of(cls, reader: RowReader, columns: Columns) -> Survey:
        """Reads every row once. Memory grows by eight bytes a row where there are ids, not at all otherwise."""
        known = reader.types()
        guessed = columns.boxes if columns.layout is None else None
        wanted = None if known is None else [name for name in (columns.id, guessed) if name]
        rows, ids, boxed, reversed_ = 0, array("Q"), 0, 0
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
                if guessed and not missing(values.get(guessed)):
                    boxes, wrong = read_boxes(values[guessed])
                    reversed_ += (turned := boxes is None and "wrong way round" in (wrong or ""))
                    boxed += turned or boxes is not None
                if known is None:
                    _learn(seen, values, columns.used, _text_kind if reader.only_text else _kind)
        if not rows:
            raise RelevancyError(f"{reader.name} is empty: it holds no row.")
        if reversed_ >= _FEWEST_REVERSED and reversed_ > _MOST_REVERSED * boxed:
            raise RelevancyError(
                f"The boxes in column {guessed!r} cannot be x0, y0, x1, y1 in {reversed_:,} of {boxed:,} rows: say "
                "--box-layout xywh (or cxcywh), or xyxy to leave those rows' boxes out."
            )
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

    def items(self, reader: RowReader, limit: int | None = None) -> Iterable[Item]:
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
        shown = RowSources.of(
            values.get(of.picture or ""), values.get(of.video or ""), values.get(of.question or ""), self.base,
            optional=of.text_rows,
        )  # fmt: skip
        pictures = shown.pictures
        question, messages, answer, wrong_question = _question(of, values, len(pictures), len(shown.films))
        expected, wrong_answer = _expected(values.get(of.expected) if of.expected else answer)
        boxes, wrong_boxes = _boxes(values.get(of.boxes or ""), of.layout)
        notes += [wrong for wrong in (wrong_answer, wrong_boxes) if wrong]
        mask, wrong_mask = source(values.get(of.mask), self.base) if of.mask else (None, None)
        if wrong_mask and not missing(values.get(of.mask or "")):
            notes.append(f"the mask was left out: {wrong_mask}")
        return Item(
            row=row,
            id=own,
            picture=pictures[0] if pictures else None,
            question=question,
            others=pictures[1:],
            films=shown.films,
            messages=messages,
            expected=expected,
            boxes=boxes,
            mask=mask.name if mask else None,
            mask_png=mask.content if mask else None,
            extras={f"in_{name}": self._extra(name, values.get(name)) for name in self.survey.extras},
            notes=tuple(notes),
            fault=fault or shown.fault or wrong_question,
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


def text_id(value: Any) -> str | None:
    """An id as text; None where there is none, or a number that is none."""
    return None if missing(value) else clean(value if isinstance(value, str) else _json(value))


def _expected(value: Any) -> tuple[str | None, str | None]:
    """What is right, as text, a list of several as JSON; or what is wrong with the value."""
    if missing(value):
        return None, None
    answers = answers_of(value)
    if not answers:
        known = isinstance(value, Mapping)
        return None, "the true answer was left out: it is an object without one" if known else None
    text = value if isinstance(value, str) else answers[0] if len(answers) == 1 else _json(answers)
    if clean(text) != text:
        return None, "the true answer was left out: it is not valid text; give it in UTF-8"
    return text, None


def _json(value: Any) -> str:
    return clean(json.dumps(value, ensure_ascii=False, default=str))


def _question(
    columns: Columns, values: Mapping[str, Any], pictures: int, films: int
) -> tuple[str | None, str | None, str | None, str | None]:
    """What is asked, the messages of a conversation, what a dialogue answers, and what is wrong."""
    if columns.every is not None:
        return columns.every, None, None, None
    asked = values.get(columns.question or "")
    if missing(asked) or not str(asked).strip():
        others = (name for name in (*DIALOGUES, "question") if name != columns.question and name in values)
        if columns.question and (other := next((name for name in others if not missing(values[name])), None)):
            read = f"of this file {columns.question} is read, not {other}; give such rows in a file of their own"
            return None, None, None, f"the question is empty: {read}"
        return None, None, None, "the question is empty"
    if columns.question in DIALOGUES or (isinstance(asked, list) and asked and isinstance(asked[0], Mapping)):
        return _of_dialogue(asked, pictures, films)
    if not isinstance(asked, str):
        return clean(str(asked)), None, None, f"the question is no text but {type(asked).__name__}"
    own = clean(asked)
    return own, None, None, None if own == asked else "the question is not valid text: give it in UTF-8"


def _of_dialogue(given: Any, pictures: int, films: int) -> tuple[str | None, str | None, str | None, str | None]:
    """What a dialogue asks last, with the messages before it where there are any, and what it answers to that.

    Pictures and videos stand where its marks say, or before the first question where it has none.
    """
    spelled = listed(given) if isinstance(given, str) else given
    first = spelled[0] if isinstance(spelled, list) and spelled else None
    try:
        turns = turns_of({DIALOGUES["from" not in (first if isinstance(first, Mapping) else ())]: spelled}, videos=True)
    except ShapeError as error:
        return None, None, None, f"the dialogue cannot be read: {error}"
    filmed = films > 0 or any(VIDEO in text for _, text in turns)
    answer = turns.pop()[1] if turns[-1][0] == "model" else None
    unknown = next((who for who, _ in turns if who not in _SPEAKERS), None)
    marks = {IMAGE: pictures} | ({VIDEO: films} if filmed else {})
    there = {mark: sum(text.count(mark) for _, text in turns) for mark in marks}
    plain = len(turns) == 1 and not filmed and max(there[IMAGE], pictures) < 2
    parts = _split(turns[-1][1], marks) if turns else []
    question = " ".join(parts[::2]).strip() if plain else "\n".join(part.strip() for part in parts[::2] if part.strip())
    lacking = [mark for mark, count in marks.items() if not plain and there[mark] not in (0, count)]
    fault = None
    if unknown is not None:
        fault = f"the dialogue has a turn of {unknown[:_LONGEST_SHOWN]!r}: there are user, assistant and system"
    elif not turns or next((who for who, _ in turns if who != "system"), None) != "user":
        fault = "the dialogue begins with an answer"
    elif turns[-1][0] != "user":
        fault = "the dialogue does not end with a question"
    elif not question:
        fault = "the question is empty"
    elif lacking:
        what, places, count = _KINDS_OF[lacking[0]], there[lacking[0]], marks[lacking[0]]
        fault = f"the dialogue has places for {places} {what}{'' if places == 1 else 's'}, and the row has {count}"
    before = [_KINDS_OF[mark] for mark, count in marks.items() for _ in range(0 if there[mark] else count)]
    messages = None if plain or fault else _json(_messages(turns, before, marks))
    return question or None, messages, answer, fault


def _split(text: str, marks: Collection[str]) -> list[str]:
    """What stands between marks, and the marks, by turns."""
    return re.split(f"({'|'.join(map(re.escape, marks))})", text)


def _messages(turns: Sequence[tuple[str, str]], before: Sequence[str], marks: Collection[str]) -> list[dict[str, Any]]:
    """Turns as chat messages, a picture or a video at each mark; `before`: of which kind stands before the first."""
    found = []
    for who, text in turns:
        parts: list[dict[str, str]] = []
        if who == "user" and before:
            parts, before = [{"type": _PARTS[kind]} for kind in before], ()
        for said in _split(text, marks):
            if said in marks:
                parts.append({"type": _PARTS[_KINDS_OF[said]]})
            elif said.strip():
                parts.append({"type": "text", "text": said.strip()})
        found.append({"role": _SPEAKERS[who], "content": parts})
    return found


_KINDS_OF: Mapping[str, str] = {IMAGE: "picture", VIDEO: "video"}
_PARTS: Mapping[str, str] = {"picture": "image", "video": "video"}
_SPEAKERS: Mapping[str, str] = {"user": "user", "model": "assistant", "system": "system"}


def _boxes(value: Any, layout: str | None) -> tuple[tuple[Box, ...] | None, str | None]:
    return (None, None) if missing(value) else read_boxes(value, layout or LAYOUTS[0])

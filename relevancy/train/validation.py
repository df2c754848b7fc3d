"""Reading a data set once before it is trained on: what is wrong with which entries, counted and named.

What is counted as trained on is what `data.examples` then gives: the same encoder decides here and there.

Memory does not grow with the data: entries are read one at a time, a part of the names is kept, all go to a file.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from relevancy.atomic_io import writing
from relevancy.data.json_entries import entries
from relevancy.errors import RelevancyError, shortened
from relevancy.images import is_there, open_picture
from relevancy.train.data.dialogues import PLACED, Dialogue, Picture, dialogue_of, on_disk
from relevancy.train.data.examples import Encoder
from relevancy.train.data.sources import HUB, Name, is_read_in_place, open_data, paired
from relevancy.train.template import (
    AUTHORS,
    IGNORED,
    IMAGE,
    BadDialogueError,
    Encoded,
    LostDialogueError,
    Turn,
    answered,
    check_counted,
)

NAMED = 20
"""Entries of each kind of fault that are named in the result; the file names all."""

_BLOCK = 100  # entries that a thread is given at once
_AHEAD = 4  # blocks for each thread that are read ahead
_REMEMBERED = 20_000  # pictures: many entries speak of the same one

# Kind of fault -> what it means. The first ones cost the sample, the last ones only a part of it.
KINDS: Mapping[str, str] = {
    "unreadable rest": "the file breaks off here: nothing after it was read",
    "no dialogue": "the entry is not in a known shape, or its pictures and <image> marks differ in number",
    "bad turns": "user and model do not take turns, or a turn holds a control token",
    "missing picture": "the picture's file is not there",
    "unreadable picture": "the picture will not open",
    "no answer left": "no answer fits into the longest sequence",
    "lost by the authors": "LLaVA-Gemma's own code trains on nothing of it, and so does the flavour paper",
    "over-long": "the end does not fit into the longest sequence: it is cut, or the last rounds are left out",
    "empty question": "a question without a word",
    "empty answer": "an answer without a word: the model learns to say nothing",
    "unanswered": "a last question without an answer, which is left out",
    "answer first": "an answer before the first question, which is left out",
    "unread picture": "what looks like a picture lies under a name that is not read: it is trained on without",
}
WHOLE = frozenset(tuple(KINDS)[:7])
"""The kinds that keep an entry from being trained on."""
NOTES: Mapping[str, str] = {
    **PLACED,
    "control token": "a text spells a token such as <eos>, which is trained on as that token",
}
"""What is counted, but no fault: how an entry is read where there would be more than one way."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with one entry. position: its place among the entries, from 0."""

    position: int
    id: str
    kind: str
    why: str


_What: TypeAlias = tuple[str, str]  # kind of fault, why
_Seen: TypeAlias = tuple[int, _What]  # of which of a dialogue's pictures, and what is wrong with it
_Entry: TypeAlias = tuple[int, Dialogue | Fault]  # position, and what stands there


@dataclass
class Audit:
    """What was found. counts: entries by kind of fault; named: the first of each kind; lost: not to be trained on.

    tokens, longest: of whole dialogues. trained_...: of what training reads of the entries that are not lost; all four
    are None without an encoder. noted: entries by kind of NOTES.
    """

    entries: int = 0
    pictured: int = 0
    pictures: int = 0
    turns: int = 0
    tokens: int | None = None
    longest: int | None = None
    trained_tokens: int | None = None
    trained_labels: int | None = None
    trained_pictures: int | None = None
    lost: int = 0
    noted: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    named: dict[str, list[Fault]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Entries read in a second."""
        return self.entries / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return asdict(self) | {"rate": self.rate}


@dataclass(frozen=True)
class _Inspected:
    """What inspecting one entry gave."""

    turns: int
    pictures: int
    faults: list[Fault]
    encoded: Encoded | None = None
    notes: tuple[str, ...] = ()


class _Inspector:
    """Looks at dialogues, at their texts and at their pictures; the latter from any thread."""

    def __init__(self, encoder: Encoder | None, style: str, open_pictures: bool) -> None:
        self._encoder, self._open = encoder, open_pictures
        self._style = style if encoder is None else encoder.style
        self._file = lru_cache(_REMEMBERED)(self._look)
        tokenizer: Any = None if encoder is None else encoder.tokenizer
        self._unknown = None if tokenizer is None else tokenizer.unk_token
        self._control = () if tokenizer is None else tuple({*tokenizer.all_special_tokens} - {IMAGE})

    def inspected(self, position: int, dialogue: Dialogue, seen: list[_Seen]) -> _Inspected:
        """All faults of the dialogue at this position, whose pictures' faults are there already."""
        found = [("no dialogue", dialogue.fault)] if dialogue.fault is not None else list(self._texts(dialogue.turns))
        encoded = None
        if self._encoder is not None and not any(kind in WHOLE for kind, _ in found):
            try:
                encoded = self._encoder.text(dialogue)
            except BadDialogueError as error:
                found.append(("no answer left", str(error)))
            else:
                found += self._over(encoded)
        used = self._used(dialogue, encoded)
        found += [what for number, what in seen if number < used]
        found += [("unread picture", f"under {name!r}: call it image") for name in dialogue.unread]
        notes = [dialogue.placed] if dialogue.placed else []
        if any(token in turn.text for turn in dialogue.turns for token in self._control):
            notes.append("control token")
        faults = [Fault(position, dialogue.id, kind, why) for kind, why in found]
        return _Inspected(len(dialogue.turns), len(dialogue.images), faults, encoded, tuple(notes))

    def pictures(self, dialogue: Dialogue) -> list[_Seen]:
        """What is wrong with which of the dialogue's pictures."""
        return [
            (number, fault)
            for number, picture in enumerate(dialogue.images)
            for fault in (self._file(picture) if isinstance(picture, Path) else _opened(picture, f"picture {number}: "))
        ]

    def _texts(self, turns: tuple[Turn, ...]) -> Iterator[_What]:
        if self._style == AUTHORS:
            try:
                check_counted(turns, self._unknown)
            except LostDialogueError as error:
                yield "lost by the authors", str(error)
                return
        yield from _turn_faults(turns, self._style)

    def _over(self, encoded: Encoded) -> Iterator[_What]:
        if encoded.dropped:
            done = "cut" if self._encoder.overlong == "cut" else "left out"  # type: ignore[union-attr]
            whole, most = len(encoded.ids) + encoded.dropped, self._encoder.max_length  # type: ignore[union-attr]
            yield "over-long", f"{whole} tokens, {most} fit: the last {encoded.dropped} are {done}"

    def _used(self, dialogue: Dialogue, encoded: Encoded | None) -> int:
        """How many of the dialogue's pictures training opens; all, where it is lost anyway."""
        if encoded is not None:
            return encoded.pictures
        try:
            return sum(turn.text.count(IMAGE) for turn in answered(dialogue.turns, self._style))
        except BadDialogueError:
            return len(dialogue.images)

    def _look(self, path: Path) -> list[_What]:
        there = on_disk(path)
        if isinstance(there, Path) and not is_there(there):
            return [("missing picture", f"{shortened(path)}: no such file")]
        return _opened(there) if self._open else []


def _opened(picture: Picture, name: str = "") -> list[_What]:
    try:
        open_picture(picture)
    except RelevancyError as error:
        return [("unreadable picture", f"{name}{error}")]
    return []


def audit(
    source: Name | Sequence[Name],
    images: Name | Sequence[Name] | None = None,
    *,
    encoder: Encoder | None = None,
    style: str = "gemma",
    open_pictures: bool = True,
    threads: int = 0,
    out: Path | None = None,
    progress: Callable[[Audit], None] | None = None,
) -> Audit:
    """Read every entry of a data set once, and every picture; see `data.sources.open_data` for the arguments.

    encoder   with which will be trained, as `Encoder.of_stage` makes it; without one lengths are not looked at
    style     how dialogues are written, where there is no encoder to say so
    threads   that open pictures beside this one
    out       file for every fault, a line of JSON each: position, id, kind, why
    progress  is told what was found so far, every few hundred entries

    Raises RelevancyError where the source is not there at all, or holds nothing.
    """
    inspector, result, began = _Inspector(encoder, style, open_pictures), Audit(), time.monotonic()
    with ExitStack() as stack:
        listed = stack.enter_context(_listing(out)) if out is not None else None
        pool = stack.enter_context(ThreadPoolExecutor(threads)) if threads else None
        for block in _inspected(_all(paired(source, images)), inspector, pool, threads * _AHEAD):
            for found in block:
                _count(result, found, listed)
            result.seconds = time.monotonic() - began
            if progress is not None:
                progress(result)
    if not result.entries:
        names = ", ".join(name for name, _ in paired(source, images))
        why = [fault.why for fault in result.named.get("unreadable rest", ())]
        raise RelevancyError(why[0] if why else f"{names}: holds no entries")
    return result


@contextmanager
def _listing(path: Path) -> Iterator[Callable[[Fault], None]]:
    """A new file to which faults are written as they come. Raises RelevancyError."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w", encoding="utf-8")

    def write(fault: Fault) -> None:
        with writing(path):
            stream.write(json.dumps(asdict(fault)) + "\n")  # in ASCII: a line ends nowhere else, whatever a name holds

    try:
        yield write
    finally:
        with writing(path):
            stream.close()


def _all(pairs: Sequence[tuple[str, Path | None]]) -> Iterator[_Entry]:
    """Every entry of every source, with its position among all of them."""
    before = 0
    for source, images in pairs:
        number = -1
        for number, given in _dialogues(source, images):
            yield before + number, replace(given, position=before + number) if isinstance(given, Fault) else given
        before += number + 1


def _dialogues(source: str, images: Path | None) -> Iterator[_Entry]:
    """Every entry with its position. A file that cannot be read on ends in a Fault."""
    path = Path(source)
    if not is_read_in_place(path):
        hugging_face = source.startswith(HUB) or path.is_dir()
        yield from enumerate(open_data(source, images, streaming=hugging_face))  # type: ignore[arg-type]
        return
    root = path.parent if images is None else images
    if not root.is_dir():
        raise RelevancyError(f"{root}: no such folder of pictures")
    number = 0
    try:
        for number, entry in enumerate(entries(path), 1):
            given = dialogue_of(entry.value, number - 1, root)
            yield number - 1, given if entry.broken is None else Dialogue(given.id, fault=entry.broken)
    except RelevancyError as error:
        yield number, Fault(number, str(number), "unreadable rest", str(error))


def _inspected(
    dialogues: Iterator[_Entry], inspector: _Inspector, pool: ThreadPoolExecutor | None, ahead: int
) -> Iterator[list[_Inspected]]:
    """Blocks of entries in their order. Pictures are looked at by the pool, texts here: a tokenizer is for one thread.

    Few blocks wait at any time.
    """
    waiting: deque[tuple[list[_Entry], Callable[[], list[list[_Seen]]]]] = deque()
    while block := list(islice(dialogues, _BLOCK)):
        look = partial(_pictures, block, inspector)
        waiting.append((block, look if pool is None else pool.submit(look).result))
        if len(waiting) > ahead:
            yield _texts(*waiting.popleft(), inspector)
    while waiting:
        yield _texts(*waiting.popleft(), inspector)


def _pictures(block: list[_Entry], inspector: _Inspector) -> list[list[_Seen]]:
    return [[] if isinstance(given, Fault) else inspector.pictures(given) for _, given in block]


def _texts(block: list[_Entry], pictures: Callable[[], list[list[_Seen]]], inspector: _Inspector) -> list[_Inspected]:
    return [
        _Inspected(0, 0, [given]) if isinstance(given, Fault) else inspector.inspected(position, given, seen)
        for (position, given), seen in zip(block, pictures(), strict=True)
    ]


def _count(result: Audit, found: _Inspected, listed: Callable[[Fault], None] | None) -> None:
    kinds = {fault.kind for fault in found.faults}
    result.entries += kinds != {"unreadable rest"}
    result.turns += found.turns
    result.pictures += found.pictures
    result.pictured += bool(found.pictures)
    lost = bool(kinds & WHOLE) and kinds != {"unreadable rest"}
    result.lost += lost
    if found.encoded is not None:
        _measure(result, found.encoded, lost)
    for note in found.notes:
        result.noted[note] = result.noted.get(note, 0) + 1
    for kind in kinds:
        result.counts[kind] = result.counts.get(kind, 0) + 1
    for fault in found.faults:
        named = result.named.setdefault(fault.kind, [])
        if len(named) < NAMED:
            named.append(fault)
        if listed is not None:
            listed(fault)


def _measure(result: Audit, encoded: Encoded, lost: bool) -> None:
    whole = len(encoded.ids) + encoded.dropped
    result.tokens = (result.tokens or 0) + whole
    result.longest = max(result.longest or 0, whole)
    if not lost:
        labels = len(encoded.labels) - encoded.labels.count(IGNORED)
        result.trained_tokens = (result.trained_tokens or 0) + len(encoded.ids)
        result.trained_labels = (result.trained_labels or 0) + labels
        result.trained_pictures = (result.trained_pictures or 0) + encoded.pictures


def _turn_faults(turns: tuple[Turn, ...], style: str) -> Iterator[_What]:
    try:
        trained = answered(turns, style)
    except BadDialogueError as error:
        yield "bad turns", str(error)
        return
    if turns[0].role == "model":
        yield "answer first", "turn 0"
    if turns[-1].role == "user":
        yield "unanswered", f"turn {len(turns) - 1}"
    first = len(turns) - len(trained) - (turns[-1].role == "user")
    for number, turn in enumerate(trained, first):
        if not turn.text.strip():
            yield "empty question" if turn.role == "user" else "empty answer", f"turn {number}"

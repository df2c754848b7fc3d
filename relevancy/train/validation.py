"""Reading a data set once before it is trained on: what is wrong with which entries, counted and named.

Memory does not grow with the data: entries are read one at a time, a part of the names is kept, all go to a file.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from relevancy.errors import RelevancyError
from relevancy.images import open_picture
from relevancy.train.data.dialogues import Dialogue, Picture, dialogue_of, on_disk
from relevancy.train.data.entries import entries
from relevancy.train.data.examples import Encoder
from relevancy.train.data.sources import HUB, open_data
from relevancy.train.template import BadDialogueError, Turn, answered

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
    "unread picture": "no picture under a known name, but something like one under another: trained without it",
    "over-long": "the end does not fit into the longest sequence",
    "empty question": "a question without a word",
    "empty answer": "an answer without a word: the model learns to say nothing",
    "unanswered": "a last question without an answer, which is left out",
    "answer first": "an answer before the first question, which is left out",
}
WHOLE = frozenset(tuple(KINDS)[:6])
"""The kinds that keep an entry from being trained on."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with one entry. position: its place among the entries, from 0."""

    position: int
    id: str
    kind: str
    why: str


_What: TypeAlias = tuple[str, str]  # kind of fault, why
_Entry: TypeAlias = tuple[int, Dialogue | Fault]  # position, and what stands there


@dataclass
class Audit:
    """What was found. counts: entries by kind of fault; named: the first of each kind; lost: not to be trained on."""

    entries: int = 0
    pictured: int = 0
    pictures: int = 0
    turns: int = 0
    tokens: int | None = None
    longest: int | None = None
    lost: int = 0
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
class _Found:
    """What inspecting one entry gave."""

    turns: int
    pictures: int
    tokens: int | None
    faults: list[Fault]


class _Inspector:
    """Looks at dialogues, at their texts and at their pictures; the latter from any thread."""

    def __init__(self, encoder: Encoder | None, open_pictures: bool) -> None:
        self._encoder, self._open = encoder, open_pictures
        self._file = lru_cache(_REMEMBERED)(self._look)

    def inspected(self, position: int, dialogue: Dialogue, seen: list[_What]) -> _Found:
        """All faults of the dialogue at this position, whose pictures' faults are there already."""
        found = list(_turn_faults(dialogue.turns)) if dialogue.fault is None else [("no dialogue", dialogue.fault)]
        if dialogue.unread is not None:
            found.append(("unread picture", f"under {dialogue.unread!r}: call it 'image'"))
        tokens = None
        if self._encoder is not None and not any(kind in ("no dialogue", "bad turns") for kind, _ in found):
            try:
                encoded = self._encoder.text(dialogue)
                tokens = len(encoded.ids) + encoded.dropped
                if encoded.dropped:
                    found.append(("over-long", f"{tokens} tokens, {self._encoder.max_length} fit"))
            except BadDialogueError as error:
                found.append(("no answer left", str(error)))
        faults = [Fault(position, dialogue.id, kind, why) for kind, why in found + seen]
        return _Found(len(dialogue.turns), len(dialogue.images), tokens, faults)

    def pictures(self, dialogue: Dialogue) -> list[_What]:
        """What is wrong with the dialogue's pictures."""
        return [
            fault
            for number, picture in enumerate(dialogue.images)
            for fault in (self._file(picture) if isinstance(picture, Path) else _opened(picture, f"picture {number}: "))
        ]

    def _look(self, path: Path) -> list[_What]:
        there = on_disk(path)
        if isinstance(there, Path) and not there.exists():
            return [("missing picture", f"{path}: no such file")]
        return _opened(there) if self._open else []


def _opened(picture: Picture, name: str = "") -> list[_What]:
    try:
        open_picture(picture)
    except RelevancyError as error:
        return [("unreadable picture", f"{name}{error}")]
    return []


def audit(
    source: str,
    images: Path | None = None,
    *,
    encoder: Encoder | None = None,
    open_pictures: bool = True,
    threads: int = 0,
    out: Path | None = None,
    progress: Callable[[Audit], None] | None = None,
) -> Audit:
    """Read every entry of a data set once, and every picture; see `data.opening.open_data` for the arguments.

    encoder   the model's, to find over-long dialogues; without it lengths are not looked at
    threads   that open pictures beside this one
    out       file for every fault, a line of JSON each: position, id, kind, why
    progress  is told what was found so far, every few hundred entries

    Raises RelevancyError where the source is not there at all, or holds nothing.
    """
    inspector, result, began = _Inspector(encoder, open_pictures), Audit(), time.monotonic()
    with ExitStack() as stack:
        listed = stack.enter_context(_written(out)) if out is not None else None
        pool = stack.enter_context(ThreadPoolExecutor(threads)) if threads else None
        for block in _inspected(_dialogues(source, images), inspector, pool, threads * _AHEAD):
            for found in block:
                _count(result, found, listed)
            result.seconds = time.monotonic() - began
            if progress is not None:
                progress(result)
    if not result.entries:
        raise RelevancyError(f"{source}: holds no entries")
    return result


def _written(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise RelevancyError(f"{path}: cannot be written ({error.strerror})") from error


def _dialogues(source: str, images: Path | None) -> Iterator[_Entry]:
    """Every entry with its position. A file that cannot be read on ends in a Fault."""
    path = Path(source)
    if source.startswith(HUB) or not path.is_file():
        yield from enumerate(open_data(source, images, streaming=True))  # type: ignore[arg-type]
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
) -> Iterator[list[_Found]]:
    """Blocks of entries in their order. Pictures are looked at by the pool, texts here: a tokenizer is for one thread.

    Few blocks wait at any time.
    """
    waiting: deque[tuple[list[_Entry], Callable[[], list[list[_What]]]]] = deque()
    while block := list(islice(dialogues, _BLOCK)):
        look = partial(_pictures, block, inspector)
        waiting.append((block, look if pool is None else pool.submit(look).result))
        if len(waiting) > ahead:
            yield _texts(*waiting.popleft(), inspector)
    while waiting:
        yield _texts(*waiting.popleft(), inspector)


def _pictures(block: list[_Entry], inspector: _Inspector) -> list[list[_What]]:
    return [[] if isinstance(given, Fault) else inspector.pictures(given) for _, given in block]


def _texts(block: list[_Entry], pictures: Callable[[], list[list[_What]]], inspector: _Inspector) -> list[_Found]:
    return [
        _Found(0, 0, None, [given]) if isinstance(given, Fault) else inspector.inspected(position, given, seen)
        for (position, given), seen in zip(block, pictures(), strict=True)
    ]


def _count(result: Audit, found: _Found, listed: TextIO | None) -> None:
    kinds = {fault.kind for fault in found.faults}
    result.entries += kinds != {"unreadable rest"}
    result.turns += found.turns
    result.pictures += found.pictures
    result.pictured += bool(found.pictures)
    if found.tokens is not None:
        result.tokens = (result.tokens or 0) + found.tokens
        result.longest = max(result.longest or 0, found.tokens)
    result.lost += bool(kinds & WHOLE) and kinds != {"unreadable rest"}
    for kind in kinds:
        result.counts[kind] = result.counts.get(kind, 0) + 1
    for fault in found.faults:
        named = result.named.setdefault(fault.kind, [])
        if len(named) < NAMED:
            named.append(fault)
        if listed is not None:
            listed.write(json.dumps(asdict(fault), ensure_ascii=False) + "\n")


def _turn_faults(turns: tuple[Turn, ...]) -> Iterator[tuple[str, str]]:
    try:
        trained = answered(turns)
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

"""JSON lists and JSON Lines of any size, an entry at a time, with the place in the file where each one lies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from relevancy.data.reader import opened
from relevancy.errors import RelevancyError

LONGEST = 32 << 20
"""Bytes of the longest entry that is read."""

_CHUNK = 1 << 20
_SPACE = " \t\r\n"
_ESCAPE = 16  # characters: a cut within a name such as \\u00e9 or false is reported this close to the end
_OPEN = (
    2  # characters: a number that goes on after the window's end may be taken for one this close to it (1|.5, 1|e+5)
)
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Entry:
    """An entry's value and the bytes [start, end) that hold it; or, in `broken`, why there is no value."""

    start: int
    end: int
    value: Any = None
    broken: str | None = None


def entries(path: Path) -> Iterator[Entry]:
    """Every entry of a file that holds one JSON list, or a JSON object a line. Memory holds one entry at a time.

    A broken line is a broken entry; a broken list cannot be read on and raises RelevancyError where it breaks, after
    the entries before. Blank lines are no entries.
    """
    try:
        with opened(path) as stream:
            yield from _lines(stream) if is_lines(stream) else _list(stream, path)
    except (OSError, EOFError) as error:
        raise RelevancyError(f"{path}: cannot be read to its end ({error})") from error


def is_lines(stream: BinaryIO) -> bool:
    """Whether a file begins with something else than a list. Afterwards it stands at its first byte that counts."""
    start = len(_BOM) if stream.read(len(_BOM)) == _BOM else 0
    stream.seek(start)
    while (first := stream.read(1)) and first in _SPACE.encode():
        pass
    stream.seek(start)
    return first != b"["


def parsed(raw: bytes) -> Any:
    """The value in the bytes of one entry. Raises ValueError, whose message says what is wrong."""
    try:
        return json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error.msg} at byte {error.pos})") from error


def _lines(stream: BinaryIO) -> Iterator[Entry]:
    start = stream.tell()
    while raw := stream.readline(LONGEST + 1):
        end = start + len(raw)
        if len(raw) > LONGEST:
            while (rest := stream.readline(_CHUNK)) and not rest.endswith(b"\n"):
                pass
            end = stream.tell()
            yield Entry(start, end, broken=f"the line is longer than {LONGEST >> 20} MiB")
        elif raw.strip():
            yield _entry(start, end, raw, "the line")
        start = end


def _entry(start: int, end: int, raw: bytes, what: str) -> Entry:
    try:
        return Entry(start, end, parsed(raw))
    except ValueError as error:
        return Entry(start, end, broken=f"{what} {error}")


class _Window:
    """A moving piece of a file as text in which a character is a byte, so that places in it are places in the file.

    No byte of a letter beyond ASCII looks like a mark of JSON, so values end where they should.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.text, self.at, self.ended = stream, "", 0, False
        self.before = stream.tell()  # the file's bytes before `text`

    @property
    def place(self) -> int:
        """The file's byte at which the window stands."""
        return self.before + self.at

    def more(self) -> bool:
        """Read on, at least as much again as is held; False at the end of the file."""
        raw = self.stream.read(max(_CHUNK, len(self.text) - self.at))
        self.text, self.before = self.text[self.at :] + raw.decode("latin-1"), self.place
        self.at, self.ended = 0, not raw
        return bool(raw)

    def mark(self) -> str:
        """The next character that is no space, at which the window then stands; "" at the end of the file."""
        while True:
            while self.at < len(self.text):
                letter = self.text[self.at]
                if letter not in _SPACE:
                    return letter
                self.at += 1
            if not self.more():
                return ""


def _list(stream: BinaryIO, path: Path) -> Iterator[Entry]:
    window, decoder, number = _Window(stream), json.JSONDecoder(), 0
    following, going_on = window.mark(), True
    window.at += 1
    if window.mark() == "]":
        following, going_on = "]", False
    while going_on:
        window.mark()
        yield _next(window, decoder, number, path)
        number += 1
        following = window.mark()
        going_on = following == ","
        window.at += going_on
    if following != "]":
        found = repr(following) if following else "the file's end"
        raise RelevancyError(
            f"{path}: after entry {number - 1}, at byte {window.place}, comes {found} where a comma or ] belongs: "
            "the file cannot be read on"
        )
    window.at += 1
    if window.mark():
        raise RelevancyError(f"{path}: after the list's end, at byte {window.place}, there is more: remove it")


def _next(window: _Window, decoder: json.JSONDecoder, number: int, path: Path) -> Entry:
    while True:
        text, at = window.text, window.at
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            unfinished = error.msg.startswith("Unterminated") or error.pos >= len(text) - _ESCAPE
            if unfinished and len(text) - at <= LONGEST and window.more():
                continue
            raise RelevancyError(
                f"{path}: entry {number} (from byte {window.place}) is no JSON: {error.msg}; the file cannot be read on"
            ) from error
        except RecursionError as error:
            raise RelevancyError(f"{path}: entry {number} (from byte {window.place}) is nested too deeply") from error
        if end >= len(text) - _OPEN and window.more():
            continue
        end -= at - window.at  # where the window has moved
        start, raw = window.place, window.text[window.at : end]
        window.at = end
        stop = window.place
        if raw.isascii():
            return Entry(start, stop, value)
        return _entry(start, stop, raw.encode("latin-1"), "the entry")

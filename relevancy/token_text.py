"""Tokens as text: which of them spell one character together, and which are one word together."""

from __future__ import annotations

__all__ = ["TokenRun", "is_control", "readable", "spells_bytes", "spoken_runs", "whole_words"]

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

import regex

SPECIAL = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # how SentencePiece writes a byte that is part of no known piece
_PRINTED = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_UNPRINTED = tuple(byte for byte in range(0x100) if byte not in _PRINTED)
_BYTE_LETTERS = {chr(byte): byte for byte in _PRINTED} | {chr(0x100 + n): byte for n, byte in enumerate(_UNPRINTED)}
"""Byte-level tokenizers write each byte as one letter: itself where it can be printed, else one from U+0100 on."""
_SPACE_LETTER, _BREAK_LETTER = "Ġ", "Ċ"
_BOUNDARY = regex.compile(r"(?V1w)\b")  # Unicode's of words (UAX 29)


def is_control(text: str) -> bool:
    """Whether a token, as text, is one that no text spells, such as <bos>."""
    return bool(SPECIAL.fullmatch(text.strip()))


@dataclass(frozen=True)
class TokenRun:
    """Neighbouring tokens that are one thing together: their text, the first's place, and the place after the last."""

    text: str
    start: int
    stop: int

    @property
    def control(self) -> bool:
        """Whether it is a control token, which no text spells."""
        return is_control(self.text)


def spoken_runs(tokens: Sequence[str], *, by_bytes: bool | None = None) -> list[TokenRun]:
    """Tokens as text, in their order: those that spell one character together are one run.

    by_bytes: whether the tokenizer writes bytes as letters; None finds it out from these tokens.
    """
    if by_bytes is None:
        by_bytes = spells_bytes(tokens)
    found: list[TokenRun] = []
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, start, open_ = "", 0, False
    for place, token in enumerate(tokens):
        data = _bytes_of(token, by_bytes)
        if open_ and data is None:
            found.append(TokenRun(text + decoder.decode(b"", final=True), start, place))
            open_ = False
        if data is None:
            found.append(TokenRun(token.replace("▁", " "), place, place + 1))
            continue
        text, start = (text, start) if open_ else ("", place)
        text += decoder.decode(data)
        open_ = bool(decoder.getstate()[0])
        if not open_:
            found.append(TokenRun(text, start, place + 1))
    if open_:
        found.append(TokenRun(text + decoder.decode(b"", final=True), start, len(tokens)))
    return found


def whole_words(tokens: Sequence[str], *, by_bytes: bool | None = None) -> list[TokenRun]:
    """Tokens by words, in their order; marks, line breaks and control tokens are each for themselves.

    Words are Unicode's (UAX 29: "don't" and "3.5" are one, "well-known" is two and a hyphen, of Chinese each character
    is one). A token that is part of several makes them one. A blank belongs to what it stands before, in the text too.
    """
    runs = spoken_runs(tokens, by_bytes=by_bytes)
    found: list[TokenRun] = []
    for control, group in groupby(runs, key=lambda run: run.control):
        some = list(group)
        found += some if control else _joined(some)
    return found


def summed(runs: Iterable[TokenRun], values: Sequence[float]) -> list[tuple[str, float]]:
    """Each run's text with the sum of its tokens' values."""
    return [(run.text, float(sum(values[run.start : run.stop]))) for run in runs]


def readable(words: Sequence[tuple[str, float]], *, by_bytes: bool | None = None) -> list[tuple[str, float]]:
    """Tokens with their values as text with values: what spells one character together is one entry, values added."""
    runs = spoken_runs([token for token, _ in words], by_bytes=by_bytes)
    return summed(runs, [value for _, value in words])


def spells_bytes(tokens: Sequence[str]) -> bool:
    """Whether these are a byte-level tokenizer's, which writes each space as a letter of its own."""
    return any(token.startswith((_SPACE_LETTER, _BREAK_LETTER)) for token in tokens)


def _joined(runs: Sequence[TokenRun]) -> Iterator[TokenRun]:
    """Runs of one text by words: cut where a word's boundary and a run's end are in the same place."""
    text = "".join(run.text for run in runs)
    ends = [0, *accumulate(len(run.text) for run in runs)]
    bounds = {match.start() for match in _BOUNDARY.finditer(text)}
    firsts: dict[int, int] = {}  # by where in the text: a run without any goes with what comes after it
    for place, end in enumerate(ends):
        if end in bounds and 0 < end < len(text):
            firsts.setdefault(end, place)
    blank = None
    for first, last in pairwise([0, *firsts.values(), len(runs)]):
        word = text[ends[first] : ends[last]]
        start = first if blank is None else blank
        if word and not word.strip(" ") and last < len(runs) and not runs[last].text.isspace():
            blank = start
            continue
        yield TokenRun(text[ends[start] : ends[last]], runs[start].start, runs[last - 1].stop)
        blank = None


def _bytes_of(token: str, by_bytes: bool) -> bytes | None:
    """The bytes that a token is written for; None where it is text already, or a control token."""
    if byte := _BYTE.fullmatch(token):
        return bytes([int(byte[1], 16)])
    if not by_bytes or SPECIAL.fullmatch(token) or any(letter not in _BYTE_LETTERS for letter in token):
        return None
    return bytes(_BYTE_LETTERS[letter] for letter in token)

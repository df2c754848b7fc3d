"""Whether an answer is right, by the words alone."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

from relevancy.data.fields import listed

_KEYS = ("answer", "answers", "text", "value", "label")
"""Under which an object holds what is right, as VQA's annotators and SQuAD's answers do."""

_ABSENT = frozenset({"nan", "NaN", "<NA>", "NaT"})  # what pandas writes for a gap
_ARTICLES = frozenset({"a", "an", "the"})
_SAME = {"true": "yes", "false": "no", "yes": "true", "no": "false"}
_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBERS = {word: str(number) for number, word in enumerate(_UNITS)} | {
    word: str(number) for word, number in zip(_TENS, range(20, 100, 10), strict=True)
}
_GOES_ON = frozenset({
    "hundred", "thousand", "million", "billion", "trillion", "dozen", "half", "quarter", "third", "point",
})  # fmt: skip
_LINKS = frozenset({"and", "to", "x", "times", "by", "over"})  # between two numbers, they make it another one

_OPTION = re.compile(
    r"\s*(?:[(\[]\s*(?P<closed>[a-z])\s*[)\]][.:]?|(?P<open>[a-z])\)|(?P<marked>[a-h])[.:](?=\s|$)"
    r"|(?P<alone>[a-z])(?=\s*[.!]?\s*$))\s*(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_NUMBER = r"[-+]?(?:(?:[1-9]\d{0,2}(?:,\d{3})+|0|[1-9]\d*)(?:\.\d+)?|\.\d+)(?:e[-+]?\d{1,3})?"
_AMOUNT = re.compile(rf"(?P<before>[^\w.,+\-\s]*)(?P<number>{_NUMBER})(?P<after>[^\w.,\s]*)")
_DIGITS = re.compile(_NUMBER)
_MEASURE = re.compile(rf"({_NUMBER})(°?[^\W\d_]+)")  # 5cm is 5 cm
_FURTHER = re.compile(rf"{_NUMBER}|\d+(?:/\d+)?")  # after a number, the rest of it: 1 1/2, 10 000
_PLACES = 7  # significant ones of a fraction: what a number of 32 bits holds

# What stands before a word: nothing special, the same word's hyphen or comma, a comma, the end of a phrase.
_SPACE, _GLUE, _COMMA, _STOP = " \x1f\x1e\x1d"
_PLAIN = str.maketrans(dict.fromkeys(_GLUE + _COMMA + _STOP, _SPACE))
_STOPS, _COMMAS, _OPENING, _KEPT = ".!?:;…。-", ",、", "([{", "#%&@"
_SIGNS = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-") | {
    "\u2014": " - ", "\u2015": " - ", "\u2044": "/", "\u2018": "'", "\u2019": "'",
    "\u200b": None, "\u200e": None, "\u200f": None, "\u2060": None, "\ufeff": None,
})  # fmt: skip
_RESPELLED = (
    (re.compile(r"(?<=\d)\s*(?:%|per ?cent\b)"), "%"),
    (re.compile(r"(?<=[$€£¥])\s+(?=\d)"), ""),
    (re.compile(r"(?<=\d) - (?=\d)"), "-"),
    (re.compile(r"([,;:!?…。、])(?!\d)"), r"\1 "),
    (re.compile(r"(?<!\d)([,;:!?…。、])(?=\d)"), r"\1 "),
)


def correct(answer: str, expected: Any) -> bool | None:
    """Whether the answer says one of what is expected; None where nothing is (None, NaN, an empty list).

    Case, punctuation, articles and an option's letter do not count. Numbers are compared as numbers, in digits or in
    words up to ninety-nine; true and false are yes and no. Signs, decimals, units and symbols belong to their word: 1.5
    is not 1, -5 and 50% are not 5 and 50. A longer answer is right when it begins with the expected words ("Yes, it
    floats" for "Yes") and these do not go on ("2 or 3" and "2 million" for "2"). Of two options the letters must agree.
    """
    wanted = answers_of(expected)
    if not wanted:
        return None
    said = _Spelled.of(answer)
    return (isinstance(expected, str) and answer == expected) or any(said.says(_Spelled.of(one)) for one in wanted)


def answers_of(expected: Any) -> list[str]:
    """Every answer that is right, as text, none twice; none where nothing is known.

    expected: text, a number, a boolean, an object with an answer under a usual name, or a list of these, of which any
    will do; lists and objects also as JSON or as Python and numpy print them, which is what a CSV holds of them.
    """
    found = dict.fromkeys(_answers(expected))
    return [one for one in found if one.strip()] or list(found)


def _answers(given: Any) -> list[str]:
    if isinstance(given, bytes):
        given = given.decode("utf-8", "replace")
    elif hasattr(given, "tolist"):  # numpy's scalars and arrays
        given = given.tolist()
    if isinstance(given, str):
        inner = listed(given)
        return _answers(inner) if inner is not None else [] if given in _ABSENT else [given]
    if isinstance(given, Mapping):
        return _answers(next((given[key] for key in _KEYS if key in given), None))
    if isinstance(given, list | tuple | set | frozenset):
        return [one for part in given for one in _answers(part)]
    if isinstance(given, bool):
        return ["true" if given else "false"]
    if given is None or type(given).__name__ in ("NAType", "NaTType"):
        return []
    if isinstance(given, float | Decimal):
        if not math.isfinite(given):
            return []
        return [str(int(given) if given == int(given) else given)]
    return [str(given)]


@dataclass(frozen=True)
class _Spelled:
    """An answer's words, and apart from them the letter of the option that it names."""

    whole: str
    letter: str | None
    text: str

    @classmethod
    def of(cls, answer: str) -> _Spelled:
        option = _OPTION.match(answer)
        if option is None:
            words = _words(answer)
            return cls(words, None, words)
        letter = option["closed"] or option["open"] or option["marked"] or option["alone"]
        return cls(_words(answer), letter.lower(), _words(option["rest"]))

    def says(self, truth: _Spelled) -> bool:
        """Whether this answer is the other one, or begins with it."""
        if self.letter and truth.letter:
            agree = self.letter == truth.letter
            return agree and (not self.text or not truth.text or _begins(self.text, truth.text))
        if truth.letter and not truth.text:
            return _begins(self.whole, truth.whole)
        same = _SAME.get(truth.text, truth.text)
        return any(_begins(self.text or self.whole, words) for words in (truth.text, same))


def _begins(said: str, truth: str) -> bool:
    """Whether the words of the one are the first of the other, and what follows does not make them others."""
    plain = truth.translate(_PLAIN)
    if not plain:
        return not said
    if not said.translate(_PLAIN).startswith(plain):
        return False
    rest = said[len(plain) :]
    if not rest or rest[0] == _STOP:
        return True
    if rest[0] not in _SPACE + _COMMA:
        return False
    first, *more = rest.translate(_PLAIN).split()
    if first == "or":
        return False
    if not _DIGITS.fullmatch(plain.rpartition(" ")[2]):
        return True
    linked = first in _LINKS and bool(more) and (more[0] in _GOES_ON or bool(_FURTHER.fullmatch(more[0])))
    if rest[0] == _COMMA:  # "1, 2" is a list, "two, one on the left" is not
        after = rest[1 + len(first) :]
        alone = not after or after[0] in _COMMA + _STOP or more[0] == "and"
        return not (_FURTHER.fullmatch(first) and alone)
    return not (linked or first in _GOES_ON or _FURTHER.fullmatch(first))


def _words(text: str) -> str:
    """The words of a text, each after the sign that parts it from the one before; numbers in one spelling."""
    found: list[tuple[str, str]] = []
    folded = _folded(text)
    before = _SPACE
    for piece in folded.split():
        start, end = _edges(piece)
        core = piece[start:end]
        before = _parting(before, piece[:start])
        if core:
            found += [(_GLUE if place else before, part) for place, part in enumerate(_parts(core))]
            before = _SPACE
        before = _parting(before, piece[end:])
    spoken = [(sign, word) for sign, word in found if word not in _ARTICLES] or found
    words = "".join(sign + word for sign, word in _counted(spoken))[1:]
    return words or " ".join(folded.split())


def _folded(text: str) -> str:
    apart = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)
    raised = re.sub(r"[⁰¹²³⁴-⁹]+", lambda digits: f"^{digits[0]}", apart)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", raised).casefold()).translate(_SIGNS)
    if not folded.isascii():
        folded = "".join(str(unicodedata.decimal(one, one)) for one in folded)
    for spelling, plain in _RESPELLED:
        folded = spelling.sub(plain, folded)
    return folded


def _edges(piece: str) -> tuple[int, int]:
    """Where a word begins and ends within the punctuation around it."""
    start, end = 0, len(piece)
    while start < end and _edge(piece[start]) and not re.match(r"-?\.?[$€£¥]?\d", piece[start:]):
        start += 1
    graded = end - start == 2 and piece[start].isalnum() and piece[-1] == "-"  # the mark A-
    while end > start and _edge(piece[end - 1]) and not graded:
        end -= 1
    return start, end


def _edge(letter: str) -> bool:
    return letter == "`" or (letter not in _KEPT and unicodedata.category(letter).startswith("P"))


def _parting(before: str, marks: str) -> str:
    """The strongest of the sign that is there and what punctuation says."""
    if any(mark in _STOPS + _OPENING for mark in marks):
        return _STOP
    return _COMMA if before == _SPACE and any(mark in _COMMAS for mark in marks) else before


def _parts(core: str) -> list[str]:
    """A word as one, or its parts between hyphens and commas; numbers in one spelling."""
    amount = _AMOUNT.fullmatch(core)
    if amount is not None:
        return [amount["before"] + _number(amount["number"]) + amount["after"]]
    measured = _MEASURE.fullmatch(core)
    parts = list(measured.groups()) if measured else re.split(r"(?<=\w)-(?=\w)|(?<=\d),(?=\d)", core)
    return [core] if len(parts) == 1 else [word for part in parts for word in _parts(part)]


def _number(text: str) -> str:
    value = Decimal(text.replace(",", ""))
    if value == value.to_integral_value():
        return format(value.to_integral_value(), "f").removeprefix("-" if not value else "")
    short = Context(prec=max(_PLACES, value.adjusted() + 3)).create_decimal(value)
    return format(short, "f").rstrip("0").rstrip(".")


def _counted(words: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Number words as digits: twenty-one, minus five."""
    found: list[tuple[str, str]] = []
    tens = False
    for sign, word in words:
        number = _NUMBERS.get(word)
        if number and tens and sign in _SPACE + _GLUE and len(number) == 1 and number != "0":
            found[-1] = found[-1][0], found[-1][1][:-1] + number
            tens = False
            continue
        spoken = number or word
        if found and found[-1][1] in ("minus", "negative") and sign == _SPACE and _DIGITS.fullmatch(spoken):
            found[-1] = found[-1][0], _number(f"-{spoken}") if spoken[0].isdigit() else spoken
        else:
            found.append((sign, spoken))
        tens = word in _TENS
    return found

"""VQA's accuracy over ten people's answers, and the spelling in which answers are compared.

Sources: vqaEval.py of GT-Vision-Lab/VQA; m4c_evaluator.py of LLaVA, from Pythia, which splits words first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

PEOPLE = 10
"""Answers to each question."""

_CONTRACTED = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's
    isn't it'd it'll ma'am might've mightn't must've mustn't needn't not've o'clock oughtn't shan't should've
    shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd
    there're there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've
    when's where'd where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all
    you'd you'll you're you've
"""
_TWICE = """
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've
    something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've y'all'd've
"""


def _without_one(word: str) -> list[str]:
    return [word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"]


_CONTRACTIONS = (
    {word.replace("'", ""): word for word in _CONTRACTED.split()}
    | {miss: word for word in _TWICE.split() for miss in _without_one(word)}
    # As the official table has them, slips included.
    | {"somebody'd": "somebodyd", "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at"}
)
_COUNTED = "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_COUNTED)}
_ARTICLES = frozenset({"a", "an", "the"})
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
# The official pattern says (?!<=\d) for (?<!\d), and so asks only for what follows; and it is told to stop after 32.
_PERIOD, _MOST_PERIODS = re.compile(r"\.(?!\d)"), 32


@lru_cache(maxsize=1 << 16)
def normalized(text: str) -> str:
    """An answer in the official evaluator's spelling: no marks, no articles, numbers up to ten in digits."""
    bare = text
    for mark in _MARKS:
        glued = f"{mark} " in text or f" {mark}" in text or _THOUSANDS.search(text)
        bare = bare.replace(mark, "" if glued else " ")
    bare = _PERIOD.sub("", bare, count=_MOST_PERIODS)
    words = [_NUMBERS.get(word, word) for word in bare.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def tokenized(text: str) -> str:
    """The same after LLaVA's converter has split words: no commas and question marks, `'s` a word of its own."""
    split = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalized(_one_line(split))


def accuracy(answer: str, people: Sequence[str]) -> float:
    """The official evaluator's: people whose answers are all alike are compared letter by letter."""
    said, truth = _one_line(answer), [_one_line(one) for one in people]
    if len(set(truth)) > 1:
        said, truth = normalized(said), [normalized(one) for one in truth]
    return agreement(said, truth)


def agreement(said: str, truth: Sequence[str]) -> float:
    """A third for each other person who says so, one at most; the mean over leaving out each person."""
    matches = [one == said for one in truth]
    count = sum(matches)
    return sum(min(1.0, (count - own) / 3) for own in matches) / len(truth)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()

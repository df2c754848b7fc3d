"""Other ways of asking the world's questions, and answers in whole sentences, for decoders that know more English."""

from __future__ import annotations

__all__ = ["SENTENCE"]

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from relevancy.demo.questions import Question

SENTENCE = " Answer in a sentence."
"""What is added to a question whose answer shall be a sentence."""


@dataclass(frozen=True)
class _Wording:
    """A question as `questions` words it, other ways to ask the same, and what each answer is in a sentence.

    asked: a pattern whose named groups the other texts take. taught: in training. unseen: kept for measuring.
    said: by answer; "" stands for every other one.
    """

    asked: str
    taught: Sequence[str]
    unseen: str
    said: Mapping[str, str]


_WORDINGS = (
    _Wording(
        r"What color is the (?P<kind>\w+)\?",
        ("Which color does the {kind} have?", "Tell me the color of the {kind}.", "The {kind} is of which color?"),
        "Can you name the color of the {kind}?",
        {"": "The {kind} is {lower}."},
    ),
    _Wording(
        r"Is the (?P<kind>\w+) floating\?",
        ("Does the {kind} float?", "Is the {kind} in the water?", "Do you see the {kind} float on the water?"),
        "Is the {kind} swimming on water?",
        {"Yes": "Yes, the {kind} is floating.", "No": "No, the {kind} is not floating."},
    ),
    _Wording(
        r"Is the (?P<kind>\w+) on the left or on the right\?",
        (
            "On which side is the {kind}, left or right?",
            "Where is the {kind}, on the left or on the right?",
            "Which side is the {kind} on?",
        ),
        "Do you see the {kind} to the left or to the right?",
        {"Left": "The {kind} is on the left.", "Right": "The {kind} is on the right."},
    ),
    _Wording(
        r"Is the (?P<kind>\w+) left of the (?P<other>\w+)\?",
        (
            "Does the {kind} stand to the left of the {other}?",
            "Is the {kind} to the left of the {other}?",
            "Is the {kind} further left than the {other}?",
        ),
        "Looking at both, is the {kind} on the left side of the {other}?",
        {"Yes": "Yes, the {kind} is left of the {other}.", "No": "No, the {kind} is right of the {other}."},
    ),
    _Wording(
        r"Is the (?P<kind>\w+) (?P<color>\w+)\?",
        ("Is the color of the {kind} {color}?", "Does the {kind} look {color}?", "Do you see a {color} {kind}?"),
        "Would you say that the {kind} is {color}?",
        {"Yes": "Yes, the {kind} is {color}.", "No": "No, the {kind} is not {color}."},
    ),
    _Wording(
        r"Is there a (?P<kind>\w+)\?",
        ("Do you see a {kind}?", "Can a {kind} be seen?", "Does the picture show a {kind}?"),
        "Is a {kind} anywhere in this picture?",
        {"Yes": "Yes, there is a {kind}.", "No": "No, there is no {kind}."},
    ),
    _Wording(
        r"How many (?P<kind>\w+)s are there\?",
        ("How many {kind}s do you see?", "What is the number of {kind}s?", "Count the {kind}s."),
        "Tell me how many {kind}s the picture shows.",
        {"1": "There is 1 {kind}.", "": "There are {lower} {kind}s."},
    ),
)


def reworded(question: Question, rng: np.random.Generator) -> Question:
    """The same question in one of the other ways that are taught."""
    wording, parts, options = _read(question)
    text = wording.taught[int(rng.integers(len(wording.taught)))]
    return replace(question, text=text.format(**parts) + options)


def never_heard(question: Question) -> Question:
    """The same question in a way that is never taught."""
    wording, parts, options = _read(question)
    return replace(question, text=wording.unseen.format(**parts) + options)


def in_a_sentence(question: Question) -> Question:
    """An open question that asks for a sentence, and that sentence."""
    wording, parts, _ = _read(question)
    said = wording.said.get(question.answer) or wording.said[""]
    answer = said.format(**parts, lower=question.answer.lower())
    return replace(question, text=question.text + SENTENCE, answer=answer)


def _read(question: Question) -> tuple[_Wording, dict[str, str], str]:
    """How a question is worded, its parts, and the options after it, if it has them."""
    for wording in _WORDINGS:
        if found := re.match(wording.asked, question.text):
            return wording, found.groupdict(), question.text[found.end() :]
    raise ValueError(f"no question of this world: {question.text}")

"""Other wordings of the drawn world's questions, and answers in sentences."""

import re

import numpy as np
import pytest

from relevancy.demo.questions import FORMS, TYPES, Question
from relevancy.demo.wordings import SENTENCE, in_a_sentence, never_heard, reworded
from relevancy.demo.world import scene

SCENES = 150


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return [question for seed in range(SCENES) for question in scene(seed).questions]


def options(text: str) -> str:
    return "".join(re.findall(r" \(a\) .*$", text))


def parts(question: Question) -> set[str]:
    """What a question is about, by its own words: kinds and colors."""
    said = question.text.removesuffix(options(question.text)).lower().rstrip("?").split()
    common = {"what", "color", "is", "the", "floating", "on", "left", "or", "right", "of", "there", "a"}
    common |= {"how", "many", "are"}
    return {word.removesuffix("s") if question.type == "count" else word for word in said} - common


def test_every_question_of_the_world_can_be_reworded(questions):
    assert {(one.type, one.form) for one in questions} == {(kind, form) for kind in TYPES for form in FORMS}
    rng = np.random.default_rng(0)
    for one in questions:
        for other in (reworded(one, rng), never_heard(one)):
            assert other.text != one.text
            assert (other.type, other.form, other.answer, other.items) == (one.type, one.form, one.answer, one.items)
            assert options(other.text) == options(one.text)
            assert "{" not in other.text
            assert all(word in other.text.lower() for word in parts(one)), (one.text, other.text)


def test_what_is_kept_for_measuring_is_never_taught(questions):
    rng = np.random.default_rng(1)
    taught = {reworded(one, rng).text for _ in range(20) for one in questions} | {one.text for one in questions}
    unheard = {never_heard(one).text for one in questions}
    assert len(taught) > 2 * len(unheard)
    assert not taught & unheard


@pytest.mark.parametrize(
    ("text", "answer", "said"),
    [
        ("What color is the boat?", "Red", "The boat is red."),
        ("Is the duck floating?", "Yes", "Yes, the duck is floating."),
        ("Is the duck floating?", "No", "No, the duck is not floating."),
        ("Is the ball on the left or on the right?", "Right", "The ball is on the right."),
        ("Is the cat left of the dog?", "Yes", "Yes, the cat is left of the dog."),
        ("Is the cat left of the dog?", "No", "No, the cat is right of the dog."),
        ("Is the duck yellow?", "No", "No, the duck is not yellow."),
        ("Is there a bird?", "Yes", "Yes, there is a bird."),
        ("Is there a bird?", "No", "No, there is no bird."),
        ("How many ducks are there?", "1", "There is 1 duck."),
        ("How many ducks are there?", "3", "There are 3 ducks."),
    ],
)
def test_sentences(text, answer, said):
    full = in_a_sentence(Question("any", "open", text, answer, ()))
    assert (full.text, full.answer) == (text + SENTENCE, said)


def test_sentences_of_the_world_hold_the_answer(questions):
    for one in (question for question in questions if question.form == "open"):
        full = in_a_sentence(one).answer
        assert full[0].isupper()
        assert full.endswith(".")
        assert one.answer.lower() in full.lower() or (one.type, one.answer) == ("left-of", "No")
        assert all(word in full.lower() for word in parts(one)), (one.text, full)


def test_what_is_no_question_of_the_world():
    with pytest.raises(ValueError, match="no question of this world"):
        never_heard(Question("any", "open", "Who are you?", "Me", ()))

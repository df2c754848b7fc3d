"""What is said about the pool's scenes in each stage, as training examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from relevancy.demo.language import DESCRIBE
from relevancy.demo.pool import Pool
from relevancy.demo.questions import FORMS, Question, ask, ask_twice, describe
from relevancy.demo.wordings import in_a_sentence, reworded
from relevancy.train.template import IMAGE, Turn, dialogue, encode

QUESTIONS = 8  # per dialogue, at most
CAPTIONS = 0.15  # share of descriptions among the dialogues
TWICE = 0.4  # share of dialogues that ask openly first, among those with options
CHOSEN_TWICE, OPTIONS_ALONE = 0.5, 0.6  # the same where letters are learned; of the others, the share without open ones
FAINT = 0.8  # share of faded pictures where pictures fade
SAMPLE = 500  # pictures whose mean feature is what a tower sees in no picture in particular
FACTS = {"color": "color", "is-color": "color", "presence": "existence", "count": "existence"}  # else the type itself


@dataclass(frozen=True)
class Talked:
    """What is said about a picture, and how much of it is seen: 1 all, 0 nothing that other pictures have not."""

    turns: list[Turn]
    strength: float = 1.0


Talk = Callable[[Pool, int, np.random.Generator], Talked]


@dataclass(frozen=True)
class Mix:
    """How a decoder that knows English is asked: shares.

    captions: of descriptions among the dialogues. twice: of those that ask each question openly, then with options,
    among the others. lettered: of those with options alone among the rest. reworded: of questions in other words.
    sentences: of open questions whose answer is a sentence.
    """

    captions: float
    twice: float
    lettered: float
    reworded: float
    sentences: float


def read_and_answer(pool: Pool, index: int, rng: np.random.Generator) -> Talked:
    """No picture: the scene is told in words, then asked about, or to be told again. Teaches the decoder language."""
    told = describe(pool.layouts[index], rng)
    if rng.integers(2):
        return Talked(dialogue(f"{told}\n{DESCRIBE}", told))
    return _questions(f"{told}\n", pool, index, rng)


def caption(pool: Pool, index: int, rng: np.random.Generator) -> Talked:
    """The picture, and its description: what connectors are aligned with, and what teaches to find one word by another.

    Answers come much later without it: whoever can say what stands beside a word already finds what is asked for.
    """
    return Talked(dialogue(f"{IMAGE}{DESCRIBE}", describe(pool.layouts[index], rng)))


def look_and_answer_openly(pool: Pool, index: int, rng: np.random.Generator) -> Talked:
    """The picture, then questions without options: a letter can only be learned by who knows the answer."""
    return _seldom_caption(pool, index, rng) or _questions(IMAGE, pool, index, rng, FORMS[:1])


def look_and_answer(pool: Pool, index: int, rng: np.random.Generator) -> Talked:
    """The picture, then questions about it, openly or with options.

    Some dialogues ask each question openly, then with options: which letter stands before a known word is learned soon,
    which one before a word that must first be seen in the picture comes of it.
    """
    return _questions_once_or_twice(pool, index, rng, TWICE)


def look_and_choose(pool: Pool, index: int, rng: np.random.Generator) -> Talked:
    """The picture, then questions with options, most of them, or each openly and then with options."""
    return _questions_once_or_twice(pool, index, rng, CHOSEN_TWICE, OPTIONS_ALONE)


def look_closely_and_answer(pool: Pool, index: int, rng: np.random.Generator) -> Talked:
    """Most pictures are faded, and the fainter one is, the more answers are wrong: half of them where none is left.

    So a logit has to grow with how much is seen. One that is at its height as soon as anything is seen depends on the
    picture no more, and its gradient says nothing about it.
    """
    described = _seldom_caption(pool, index, rng)
    if described:
        return described
    strength = float(rng.uniform()) if rng.uniform() < FAINT else 1.0
    return _questions(IMAGE, pool, index, rng, strength=strength)


def look_and_answer_variously(pool: Pool, index: int, rng: np.random.Generator, mix: Mix) -> Talked:
    """The picture, then questions in many words, whose answers are words, letters or sentences."""
    if rng.uniform() < mix.captions:
        return caption(pool, index, rng)
    if rng.uniform() < mix.twice:
        questions = _twice(pool, index, rng)
    else:
        questions = _once(pool, index, rng, FORMS[1:] if rng.uniform() < mix.lettered else FORMS)
    return Talked(_talk(IMAGE, [_varied(question, rng, mix) for question in questions]))


def _varied(question: Question, rng: np.random.Generator, mix: Mix) -> Question:
    asked = reworded(question, rng) if rng.uniform() < mix.reworded else question
    if question.form != "open" or rng.uniform() >= mix.sentences:
        return asked
    full = in_a_sentence(question)  # which is made of the plain wording
    return replace(full, text=asked.text + full.text[len(question.text) :])


def _seldom_caption(pool: Pool, index: int, rng: np.random.Generator) -> Talked | None:
    """Now and then a description, lest it be forgotten; else nothing."""
    return caption(pool, index, rng) if rng.uniform() < CAPTIONS else None


def _questions(
    opening: str,
    pool: Pool,
    index: int,
    rng: np.random.Generator,
    forms: Sequence[str] = FORMS,
    strength: float = 1.0,
) -> Talked:
    return Talked(_talk(opening, _once(pool, index, rng, forms, doubt=(1 - strength) / 2)), strength)


def _questions_once_or_twice(
    pool: Pool, index: int, rng: np.random.Generator, twice: float, lettered: float = 0.0
) -> Talked:
    """Seldom a description; else each question openly and with options, or each once. Shares as in `Mix`."""
    described = _seldom_caption(pool, index, rng)
    if described:
        return described
    if rng.uniform() < twice:
        return Talked(_talk(IMAGE, _twice(pool, index, rng)))
    return _questions(IMAGE, pool, index, rng, FORMS[1:] if lettered and rng.uniform() < lettered else FORMS)


def _once(
    pool: Pool, index: int, rng: np.random.Generator, forms: Sequence[str] = FORMS, doubt: float = 0.0
) -> list[Question]:
    return _without_hints(ask(pool.layouts[index], pool.shares[index], rng, forms, doubt), rng)


def _twice(pool: Pool, index: int, rng: np.random.Generator) -> list[Question]:
    """Each question openly, then with options."""
    again = dict(ask_twice(pool.layouts[index], pool.shares[index], rng))
    return [question for one in _without_hints(list(again), rng) for question in (one, again[one])]


def _talk(opening: str, questions: Sequence[Question]) -> list[Turn]:
    texts = [text for question in questions[:QUESTIONS] for text in (question.text, question.answer)]
    return dialogue(opening + texts[0], *texts[1:])


def _without_hints(questions: list[Question], rng: np.random.Generator) -> list[Question]:
    """Questions of which none gives away a later one's answer, so that each must be answered from the picture.

    An object's color is asked for once, in one way. Whether or how often a kind is there is asked once, and before any
    object is spoken of, or not at all.
    """
    asked: set[tuple[str, tuple[int, ...]]] = set()
    early: list[Question] = []
    late: list[Question] = []
    for question in questions:
        fact = FACTS.get(question.type, question.type)
        if question.items and (fact, question.items) in asked:
            continue
        asked.add((fact, question.items))
        (early if fact == "existence" else late).append(question)
    return early + late if early and (not late or rng.integers(2)) else late


class SceneDialogues(Dataset):
    """One dialogue per scene and pass: forms and order of the questions are drawn anew in every pass."""

    def __init__(
        self,
        pool: Pool,
        talk: Talk,
        tokenizer: PreTrainedTokenizerBase,
        image_tokens: int,
        passes: int,
        features: Tensor | None = None,
        seed: int = 0,
        longest: int | None = None,
    ):
        """longest: tokens of a dialogue, beyond which its last questions are left out."""
        self.longest = longest
        self.pool, self.talk, self.tokenizer, self.image_tokens = pool, talk, tokenizer, image_tokens
        self.passes, self.features, self.seed = passes, features, seed

    def __len__(self) -> int:
        return len(self.pool) * self.passes

    def __getitem__(self, position: int) -> dict[str, Any]:
        index = position % len(self.pool)
        talked = self.talk(self.pool, index, np.random.default_rng([self.seed, position]))
        encoded = encode(talked.turns, self.tokenizer, self.image_tokens, max_length=self.longest, overlong="drop")
        example: dict[str, Any] = {"input_ids": encoded.ids, "labels": encoded.labels}
        if self.features is not None:
            own = self.features[index : index + 1]
            example["pixel_values"] = own if talked.strength == 1 else torch.lerp(self._blank, own, talked.strength)
        return example

    @cached_property
    def _blank(self) -> Tensor:
        """(1, 1, width): the mean feature, which the connector is centered on."""
        assert self.features is not None
        return self.features[:SAMPLE, 1:].float().mean((0, 1), keepdim=True).to(self.features.dtype)

"""Does a map change when it must, and stay when it must? Similarity of an answer's map with maps of something else.

Each control takes maps that are there and makes them again with one thing changed. Similarity is Spearman's rank
correlation of patches: 1 the same order, 0 unrelated.
"""

from __future__ import annotations

__all__ = ["Asked", "randomisation", "similarities"]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from relevancy.errors import RelevancyError
from relevancy.explanations.agreement import spearman
from relevancy.images import Source, open_picture
from relevancy.metrics.explainers import Explainer
from relevancy.metrics.randomization import Way, randomised, stages
from relevancy.models.model import Model

NOISE = 4 / 255  # standard deviation of the noise on a picture, of its range: hardly visible


@dataclass(frozen=True)
class Asked:
    """Rows that are explained: a picture, a question and an answer each; answers None for the model's own."""

    images: Sequence[Source]
    questions: Sequence[str]
    answers: Sequence[str] | None

    def __len__(self) -> int:
        return len(self.images)

    def only(self, places: Sequence[int]) -> Asked:
        """The rows at these places alone."""
        answers = None if self.answers is None else [self.answers[place] for place in places]
        return Asked([self.images[place] for place in places], [self.questions[place] for place in places], answers)

    def maps(self, explainer: Explainer, model: Model) -> list[np.ndarray]:
        """Their maps, each (rows, cols)."""
        return [result.image_map for result in explainer(model, self.images, self.questions, self.answers)]


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation of two maps, signs kept.

    Where their shapes differ, as those of two pictures may, cells at the same share of rows and columns are compared,
    as many as the finer map has. NaN where a map is not a number; 1 for maps that are both the same everywhere, 0
    where only one is.
    """
    shape = tuple(map(max, one.shape, other.shape))
    first, second = (_sampled(np.asarray(each, np.float64), shape).ravel() for each in (one, other))
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return float("nan")
    flat = [np.ptp(each) == 0 for each in (first, second)]
    return float(all(flat)) if any(flat) else spearman(first, second)


def _sampled(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A map with as many rows and columns, each cell what lies at its middle."""
    sides = zip(shape, values.shape, strict=True)
    return values[np.ix_(*((2 * np.arange(wanted) + 1) * length // (2 * wanted) for wanted, length in sides))]


def similarities(before: Sequence[np.ndarray], after: Sequence[np.ndarray], *, signs: bool = True) -> np.ndarray:
    """The similarity of each two maps, (maps,); without `signs` of their absolute values."""
    pairs = zip(before, after, strict=True)
    return np.array([similarity(*(pair if signs else map(np.abs, pair))) for pair in pairs], np.float64)


def randomisation(
    explainer: Explainer,
    model: Model,
    asked: Asked,
    maps: Sequence[np.ndarray],
    *,
    way: Way = "cascading",
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> Iterator[tuple[str, np.ndarray]]:
    """After each stage of `randomising.stages`, its name and the new maps' similarity (maps,) with `maps`.

    A map that shows what the model learned cannot stay: low is right. Source: Adebayo et al., NeurIPS 2018.
    """
    for name, parts in stages(model, way, names).items():
        with randomised(model, parts, seed):
            after = asked.maps(explainer, model)
        yield name, similarities(maps, after)


def question_swap(asked: Asked, picture_keys: Sequence[object] | None = None) -> Asked:
    """The same pictures, each with another row's question, and the model's own answer to it.

    Another question about the same picture, where there is one (`picture_keys` tells pictures apart), else the next
    row's that reads differently. Raises RelevancyError where all questions are the same.
    """
    keys = list(picture_keys) if picture_keys is not None else [None] * len(asked)
    texts = [" ".join(question.casefold().split()) for question in asked.questions]
    partners = [_partner(row, texts, keys) for row in range(len(asked))]
    if any(partner is None for partner in partners):
        raise RelevancyError("All rows ask the same question: whether the map depends on it cannot be told.")
    return Asked(asked.images, [asked.questions[partner or 0] for partner in partners], None)


def picture_swap(asked: Asked, picture_keys: Sequence[object]) -> Asked:
    """The same questions and answers, each with another row's picture. Raises RelevancyError where there is but one."""
    partners = [_partner(row, picture_keys, [None] * len(asked)) for row in range(len(asked))]
    if any(partner is None for partner in partners):
        raise RelevancyError("All rows show the same picture: whether the map depends on it cannot be told.")
    return replace(asked, images=[asked.images[partner or 0] for partner in partners])


def answer_swap(asked: Asked) -> Asked:
    """The same rows, each with another row's answer: the map of a token that the model did not say.

    Raises RelevancyError where all answers are the same. Source: Sixt et al., ICML 2020 (random logit).
    """
    answers = list(asked.answers or ())
    texts = [answer.casefold() for answer in answers]
    partners = [_partner(row, texts, [None] * len(asked)) for row in range(len(answers))]
    if not answers or any(partner is None for partner in partners):
        raise RelevancyError("All rows have the same answer: whether the map depends on it cannot be told.")
    return replace(asked, answers=[answers[partner or 0] for partner in partners])


def noisy(asked: Asked, seed: int = 0, noise: float = NOISE) -> Asked:
    """The same rows with normal noise on their pictures, `noise` of the range of colors: a map should stay."""
    return replace(asked, images=[_with_noise(source, [seed, row], noise) for row, source in enumerate(asked.images)])


def _with_noise(source: Source, seed: Sequence[int], noise: float) -> np.ndarray:
    pixels = np.asarray(open_picture(source).image, np.float64)
    changed = pixels + np.random.default_rng(seed).normal(0, noise * 255, pixels.shape)
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def _partner(row: int, kinds: Sequence[object], near: Sequence[object]) -> int | None:
    """The next row, round about, of another kind; one that shares what is `near` goes first."""
    others = [(row + step) % len(kinds) for step in range(1, len(kinds))]
    others = [other for other in others if kinds[other] != kinds[row]]
    close = [other for other in others if near[other] is not None and near[other] == near[row]]
    return next(iter(close or others), None)

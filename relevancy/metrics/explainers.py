"""What makes maps, as one kind of function, so that a method, a user's own and a planted wrong one are tested alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from relevancy.explaining import explain
from relevancy.explanation import Explanation
from relevancy.methods.registry import METHODS, chosen
from relevancy.models import Model
from relevancy.pictures import Source, open_picture
from relevancy.tape import Scope
from relevancy.targets import Target

BATCH = 16  # rows explained together


class Explainer(Protocol):
    """Maps of answers: one Explanation for each picture with its question.

    answers: explain these, teacher-forced; None for the model's own.
    """

    def __call__(
        self, model: Model, images: Sequence[Source], questions: Sequence[str], answers: Sequence[str] | None, /
    ) -> list[Explanation]:
        """One result for each picture, in order."""
        ...


def explainer_of(
    method: str = "relevancy",
    scope: Scope = "language",
    layers: Iterable[int] | None = None,
    *,
    target: str | int = "first-relevant",
    batch: int = BATCH,
) -> Explainer:
    """The explainer of a method that `explain` knows; arguments as there."""
    wanted = None if layers is None else tuple(layers)

    def maps(
        model: Model, images: Sequence[Source], questions: Sequence[str], answers: Sequence[str] | None, /
    ) -> list[Explanation]:
        found: list[Explanation] = []
        for start in range(0, len(images), batch):
            part = slice(start, start + batch)
            given = None if answers is None else list(answers[part])
            found += explain(
                model, list(images[part]), list(questions[part]), target=target, scope=scope, method=method,
                layers=wanted, answer=given,
            )  # fmt: skip
        return found

    return maps


def explainers_of(
    names: Iterable[str], scope: Scope = "language", layers: Iterable[int] | None = None, *, target: str | int
) -> dict[str, Explainer]:
    """The explainer of each method, in a table of several: with this scope and these layers where it knows them.

    Raises RelevancyError for a method that there is not, or that needs what is not installed.
    """
    found: dict[str, Explainer] = {}
    for name in names:
        known = METHODS.get(name)
        own_scope: Scope = scope if known is None or scope in known.scopes else "language"
        own_layers = layers if known is None or known.layered else None
        chosen(name, own_scope, own_layers)
        found[name] = explainer_of(name, own_scope, own_layers, target=target)
    return found


def one_at_a_time(explainer: Explainer) -> Explainer:
    """The same explainer, which never sees two rows together: what it says of a row must stay."""

    def maps(
        model: Model, images: Sequence[Source], questions: Sequence[str], answers: Sequence[str] | None, /
    ) -> list[Explanation]:
        given = [None] * len(images) if answers is None else [[answer] for answer in answers]
        rows = zip(images, questions, given, strict=True)
        return [result for image, question, answer in rows for result in explainer(model, [image], [question], answer)]

    return maps


def random_maps(seed: int | Sequence[int] = 0) -> Explainer:
    """An explainer that knows nothing: every patch a uniform random number, new ones each time. It runs no model."""
    rng = np.random.default_rng(seed)

    def maps(
        model: Model,
        images: Sequence[Source],
        questions: Sequence[str],
        answers: Sequence[str] | None,  # noqa: ARG001  noise for any answer
        /,
    ) -> list[Explanation]:
        return [_unread(model, image, question, rng) for image, question in zip(images, questions, strict=True)]

    return maps


def _unread(model: Model, source: Source, question: str, rng: np.random.Generator) -> Explanation:
    image = open_picture(source).image
    grid = model.grid(*image.size)
    return Explanation(
        model=model.name,
        method="random",
        scope="language",
        question=question,
        answer="",
        target=Target(token="", id=-1, position=0, probability=float("nan"), logit=float("nan")),
        image=image,
        grid=grid,
        tokens=(),
        is_image=np.zeros(0, bool),
        relevance=np.zeros(0, np.float32),
        image_map=rng.random((grid.rows, grid.cols), dtype=np.float32),
        shares={"image": 0.0, "text": 0.0, "first_token": 0.0},
    )

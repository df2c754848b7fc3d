"""What makes maps, as one kind of function, so that a method, a user's own and a planted wrong one are tested alike."""

from __future__ import annotations

__all__ = ["Explainer", "centre_blob", "centre_maps", "explainer_of", "explainers_of", "random_maps"]

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from relevancy.core.tape import Scope, chosen_layers
from relevancy.core.targets import Target
from relevancy.errors import RelevancyError
from relevancy.explanations.explain import explain
from relevancy.explanations.explanation import Explanation
from relevancy.explanations.picture_map import PictureMap
from relevancy.geometry import Grid
from relevancy.images import Source, open_picture
from relevancy.methods.registry import METHODS, MapFunction, chosen
from relevancy.models.model import Model

BATCH = 16  # rows explained together
CENTRE_WIDTH = 0.25  # of a picture's side: one standard deviation of the blob in its middle


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
    method: str | MapFunction = "relevancy",
    scope: Scope = "language",
    layers: Iterable[int] | slice | None = None,
    *,
    target: str | int = "first-relevant",
    batch: int = BATCH,
) -> Explainer:
    """The explainer of a method that `explain` takes; arguments as there, and layers also as a slice of a model's."""
    wanted = layers if layers is None or isinstance(layers, slice) else tuple(layers)

    def maps(
        model: Model, images: Sequence[Source], questions: Sequence[str], answers: Sequence[str] | None, /
    ) -> list[Explanation]:
        own = _of_model(model, wanted) if isinstance(wanted, slice) else wanted
        found: list[Explanation] = []
        for start in range(0, len(images), batch):
            part = slice(start, start + batch)
            given = None if answers is None else list(answers[part])
            found += explain(
                model, list(images[part]), list(questions[part]), target=target, scope=scope, method=method,
                layers=own, answer=given, evidence=False,
            )  # fmt: skip
        return found

    return maps


def _of_model(model: Model, layers: slice) -> tuple[int, ...]:
    every = sorted(chosen_layers(None, model.model.get_decoder()))
    if not every[layers]:
        last = "" if layers.stop is None else layers.stop - 1
        raise RelevancyError(
            f"{model.name} has layers 0 to {every[-1]}: none of them is in layers={layers.start}-{last}."
        )
    return tuple(every[layers])


_VARIANT = re.compile(
    r"(?P<method>[^@]+)(@(?P<scope>language|full))?(@layers=(?P<first>-?\d{1,4})(?P<to>-(?P<last>\d{0,4}))?)?"
)


def explainers_of(
    names: Iterable[str], scope: Scope = "language", layers: Iterable[int] | None = None, *, target: str | int
) -> dict[str, Explainer]:
    """The explainers of a table, by their names: a method's, or a variant's such as `relevancy@full`.

    A variant says how far relevance is followed, which layers take part (`relevancy@layers=2-3`, `@layers=2-` to the
    last, `@layers=-1` the last alone), or both (`relevancy@full@layers=2-`). Where a name says nothing, this scope and
    these layers count for methods that know them. Raises RelevancyError for a name or a method that there is not, or
    that needs what is not installed.
    """
    found: dict[str, Explainer] = {}
    for name in names:
        parts = _VARIANT.fullmatch(name)
        if parts is None:
            raise RelevancyError(f"{name!r} is no method: give one as relevancy@full or relevancy@layers=2-3.")
        known = METHODS.get(parts["method"])
        own_scope: Any = parts["scope"] or (scope if known is None or scope in known.scopes else "language")
        own_layers: Any = layers if known is None or known.layered else None
        if parts["first"]:
            first, last = int(parts["first"]), parts["last"]
            own_layers = slice(first, int(last) + 1 if last else None) if parts["to"] else (first,)
        chosen(parts["method"], own_scope, () if isinstance(own_layers, slice) else own_layers)
        found[name] = explainer_of(parts["method"], own_scope, own_layers, target=target)
    return found


def random_maps(seed: int | Sequence[int] = 0) -> Explainer:
    """An explainer that knows nothing: every patch a uniform random number, new ones each time. It runs no model."""
    rng = np.random.default_rng(seed)
    return _unread("random", lambda grid: rng.random((grid.rows, grid.cols), dtype=np.float32))


def centre_maps() -> Explainer:
    """An explainer that looks at no picture: always a blob in the middle, where photographers put what they mean.

    exp(-d^2 / 2) with d the distance of a patch's middle from the picture's, `CENTRE_WIDTH` of each side being 1. It
    runs no model. Sources: Tatler, Journal of Vision 2007; the centre prior of FlashTrace's tables.
    """
    return _unread("centre", _centred)


def centre_blob(down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """The blob, float32 (rows, cols), of patches so far below (rows,) and right of (cols,) the middle, in sides."""
    squared = np.round((down[:, None] / CENTRE_WIDTH) ** 2 + (across / CENTRE_WIDTH) ** 2, 9)  # equals are equal
    return np.exp(-squared / 2).astype(np.float32)


def _centred(grid: Grid) -> np.ndarray:
    edges = np.clip(grid.y_edges / grid.height, 0, 1), np.clip(grid.x_edges / grid.width, 0, 1)
    return centre_blob(*((own[:-1] + own[1:] - 1) / 2 for own in edges))


def _unread(name: str, draw: Callable[[Grid], np.ndarray]) -> Explainer:
    """An explainer that reads neither picture nor model; `draw` gives a map (rows, cols) of a grid."""

    def maps(
        model: Model,
        images: Sequence[Source],
        questions: Sequence[str],
        answers: Sequence[str] | None,  # noqa: ARG001  the same for any answer
        /,
    ) -> list[Explanation]:
        pictures = [open_picture(source).image for source in images]
        return [_drawn(model, name, *asked, draw) for asked in zip(pictures, questions, strict=True)]

    return maps


def _drawn(
    model: Model, name: str, image: Image.Image, question: str, draw: Callable[[Grid], np.ndarray]
) -> Explanation:
    grid = model.layout(*image.size).grid
    return Explanation(
        model=model.name,
        method=name,
        scope="language",
        question=question,
        answer="",
        target=Target(token="", id=-1, position=0, probability=float("nan"), logit=float("nan")),
        pictures=(PictureMap(image, grid, draw(grid), 0.0),),
        tokens=(),
        is_image=np.zeros(0, bool),
        relevance=np.zeros(0, np.float32),
        shares={"image": 0.0, "text": 0.0, "first_token": 0.0},
    )

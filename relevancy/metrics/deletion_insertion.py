"""Deletion and insertion: what becomes of the answer as the map's patches are hidden, or shown, step by step."""

from __future__ import annotations

__all__ = ["Budget", "curves"]

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relevancy.errors import RelevancyError
from relevancy.geometry import Grid
from relevancy.metrics.patch_order import area, first_of, mean_of, orders, singly
from relevancy.metrics.teacher_forcing import Replacement, TeacherForcing

STEPS = 64


@dataclass(frozen=True)
class Budget:
    """How much of the picture is hidden, or shown, at each step.

    steps: so many equal ones, at most one for each region. step: instead, so many regions at each (an int), or such a
    share of them (a float in 0 to 1); the last one takes what is left. regions: about so many rectangles of whole
    patches, as square on the picture as they can be, each going as one by its mean; None: each patch is a region.
    """

    steps: int = STEPS
    step: int | float | None = None
    regions: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or (self.regions is not None and self.regions < 2):
            raise RelevancyError("A budget has at least 1 step and 2 regions.")
        if self.step is not None and not (self.step >= 1 if isinstance(self.step, int) else 0 < self.step <= 1):
            raise RelevancyError(f"A step of {self.step} is none: give patches from 1, or a share of up to 1.")

    @classmethod
    def parsed(cls, steps: int, step: str | None, regions: int | None = None) -> Budget:
        """With a step as text: "4" of four patches, "5%" of the picture. Raises RelevancyError."""
        if step is None:
            return cls(steps, None, regions)
        text = step.strip()
        try:
            return cls(steps, float(text[:-1]) / 100 if text.endswith("%") else int(text), regions)
        except ValueError as error:
            raise RelevancyError(f"A step is a number of patches, as 4, or a share, as 5%, not {step!r}.") from error

    def shares(self, regions: int) -> np.ndarray:
        """The share of so many regions that is gone after each step, from 0 to 1, (steps + 1,)."""
        if self.step is None:
            return np.linspace(0, 1, min(self.steps, regions) + 1)
        size = self.step / regions if isinstance(self.step, int) else max(self.step, 1 / regions)
        inner = np.arange(math.ceil(1 / size - 1e-9)) * size
        return np.append(inner, 1.0)

    def labels(self, grid: Grid) -> np.ndarray:
        """Which region each patch is in, (rows * cols,), numbered from 0."""
        if self.regions is None:
            return np.arange(grid.rows * grid.cols)
        tall = abs(grid.y_edges[-1] - grid.y_edges[0]) / abs(grid.x_edges[-1] - grid.x_edges[0])
        rows = min(grid.rows, max(1, round(math.sqrt(self.regions * tall))))
        cols = min(grid.cols, max(1, round(self.regions / rows)))
        down, across = np.arange(grid.rows) * rows // grid.rows, np.arange(grid.cols) * cols // grid.cols
        return (down[:, None] * cols + across).ravel()

    def orders(self, image_map: np.ndarray, sight: TeacherForcing, seed: int | Sequence[int] = 0) -> np.ndarray:
        """The regions of a map, most relevant first, as `curves` takes them: `patch_order.orders` of their means."""
        labels = self.labels(sight.grid)
        seen, count = sight.seen, int(labels.max()) + 1
        patches = np.bincount(labels[seen], minlength=count)
        with np.errstate(all="ignore"):
            means = np.bincount(labels[seen], np.asarray(image_map, np.float64).ravel()[seen], count) / patches
        return orders(means, patches > 0, seed)


@dataclass(frozen=True, eq=False)
class Curves:
    """The explained token's probability over the share of regions hidden (deletion) or shown (insertion).

    shares, deletion, insertion: (steps + 1,). A faithful map has a low deletion_auc and a high insertion_auc: areas
    over the shares from 0 to 1. Source: Petsiuk, Das and Saenko, BMVC 2018 (RISE).
    """

    shares: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray

    @property
    def deletion_auc(self) -> float:
        """Area under the deletion curve; lower is better."""
        return area(self.shares, self.deletion)

    @property
    def insertion_auc(self) -> float:
        """Area under the insertion curve; higher is better."""
        return area(self.shares, self.insertion)


def curves(
    sight: TeacherForcing,
    orders: Sequence[np.ndarray],
    *,
    steps: int = STEPS,
    replacement: Replacement = "grey",
    budget: Budget | None = None,
) -> list[Curves]:
    """The curves of several maps of one picture, read together.

    orders: for each map of its patches, or regions (`Budget.orders`), (patches,), or (orders, patches) of orders that
    are equally good: then the curves are their mean, as `patch_order.orders` gives it for ties. budget: the steps, in
    place of `steps`. Both ends are the same for all: the picture itself, and nothing of it.
    """
    budget = Budget(steps) if budget is None else budget
    labels = budget.labels(sight.grid)
    single, begins = singly(orders)
    shares = budget.shares(len(single[0]))
    ends = np.stack([np.zeros(sight.patches, bool), sight.seen])
    inner = [first_of(ordered, shares[1:-1], int(labels.max()) + 1)[:, labels] & sight.seen for ordered in single]
    hidden = [ends, *(part for first in inner for part in (first, sight.seen & ~first))]
    probability = sight.hiding(np.concatenate(hidden), replacement).probability
    whole, nothing = probability[:2]
    found = []
    for deleted, inserted in mean_of(probability[2:].reshape(len(single), 2, len(shares) - 2), begins):
        deletion = np.concatenate([[whole], deleted, [nothing]])
        insertion = np.concatenate([[nothing], inserted, [whole]])
        found.append(Curves(shares, deletion, insertion))
    return found

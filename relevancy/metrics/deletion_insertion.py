"""Deletion and insertion: what becomes of the answer as the map's patches are hidden, or shown, step by step."""

from __future__ import annotations

__all__ = ["curves"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relevancy.metrics.patch_order import area, first_of
from relevancy.metrics.teacher_forcing import Replacement, TeacherForcing

STEPS = 64


@dataclass(frozen=True, eq=False)
class Curves:
    """The explained token's probability over the share of patches hidden (deletion) or shown (insertion).

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
    sight: TeacherForcing, orders: Sequence[np.ndarray], *, steps: int = STEPS, replacement: Replacement = "grey"
) -> list[Curves]:
    """The curves of several orders of one picture's patches (see `orders.order`), read together.

    Both ends are the same for all: the picture itself, and nothing of it. With fewer patches than steps, a step is a
    patch.
    """
    steps = min(steps, int(sight.seen.sum()))
    shares = np.linspace(0, 1, steps + 1)
    ends = np.stack([np.zeros(sight.patches, bool), sight.seen])
    inner = [first_of(ordered, shares[1:-1], sight.patches) for ordered in orders]
    hidden = [ends, *(part for first in inner for part in (first, sight.seen & ~first))]
    probability = sight.hiding(np.concatenate(hidden), replacement).probability
    whole, nothing = probability[:2]
    found = []
    for deleted, inserted in probability[2:].reshape(len(orders), 2, steps - 1):
        deletion = np.concatenate([[whole], deleted, [nothing]])
        insertion = np.concatenate([[nothing], inserted, [whole]])
        found.append(Curves(shares, deletion, insertion))
    return found

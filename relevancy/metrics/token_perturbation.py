"""Positive and negative perturbation as Chefer et al. do it: image tokens are removed, not painted over."""

from __future__ import annotations

__all__ = ["perturbation"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relevancy.metrics.patch_order import area, first_of, mean_of, singly
from relevancy.metrics.teacher_forcing import TeacherForcing

SHARES = (0.0, 0.25, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


@dataclass(frozen=True, eq=False)
class Perturbation:
    """The explained token's probability over the share of image tokens removed, (shares,).

    positive: the most relevant go first, a good map falls early (low area). negative: the least relevant go first, a
    good map stays high. Source: Chefer, Gur and Wolf, ICCV 2021; the shares are those of their LXMERT experiments.
    """

    shares: np.ndarray
    positive: np.ndarray
    negative: np.ndarray

    @property
    def positive_auc(self) -> float:
        """Area under `positive`; lower is better."""
        return area(self.shares, self.positive)

    @property
    def negative_auc(self) -> float:
        """Area under `negative`; higher is better."""
        return area(self.shares, self.negative)


def perturbation(
    sight: TeacherForcing, orders: Sequence[np.ndarray], *, shares: Sequence[float] = SHARES
) -> list[Perturbation]:
    """The curves of orders of one picture's patches, as `curves` takes them, read together; the tower runs once."""
    steps = np.asarray(shares, np.float64)
    single, begins = singly(orders)
    removed = [first_of(way, steps, sight.patches) for ordered in single for way in (ordered, ordered[::-1])]
    probability = sight.without(np.concatenate(removed)).probability.reshape(len(single), 2, len(steps))
    return [Perturbation(steps, positive, negative) for positive, negative in mean_of(probability, begins)]

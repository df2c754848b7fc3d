"""Means with bootstrap intervals; rows of one picture are drawn together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
FEWEST = 5  # pictures below which there is no interval


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval; low and high are NaN where there are too few pictures for one."""

    mean: float
    low: float
    high: float
    rows: int

    def __str__(self) -> str:
        if not self.rows:
            return "–"
        return f"{self.mean:.3f}" if np.isnan(self.low) else f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(values: Sequence[float] | np.ndarray, groups: Sequence[Hashable], seed: int = 0) -> Interval:
    """The mean of values (rows,), NaN left out, with the interval of a percentile bootstrap over groups (rows,).

    Source: Field and Welsh, JRSS B 2007 (the cluster bootstrap).
    """
    given = np.asarray(values, np.float64)
    there = np.isfinite(given)
    if not there.any():
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    numbers: dict[Hashable, int] = {}
    kept = [numbers.setdefault(group, len(numbers)) for group, known in zip(groups, there, strict=True) if known]
    sums, counts = np.bincount(kept, given[there]), np.bincount(kept)
    mean, rows = float(given[there].mean()), int(there.sum())
    if len(sums) < FEWEST:
        return Interval(mean, float("nan"), float("nan"), rows)
    drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES)
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high), rows)

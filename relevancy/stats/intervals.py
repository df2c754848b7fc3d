"""Means with bootstrap intervals; rows of one picture are drawn together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
CHUNK = 1 << 22
"""Numbers held at once while resampling."""

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


@dataclass(frozen=True)
class Resamples:
    """Bootstrap resamples of `pictures` pictures, drawn with replacement; the same ones each time they are asked for.

    Source: Field and Welsh, Bootstrapping clustered data, JRSS B 2007 (the cluster bootstrap).
    """

    pictures: int
    count: int = RESAMPLES
    seed: int = 0

    def weights(self) -> Iterator[np.ndarray]:
        """How often each picture was drawn, float64 (some resamples, pictures) at a time."""
        yield from (_all_weights(self),) if self.count * self.pictures <= CHUNK else _weights(self)

    def totals(self, columns: Sequence[np.ndarray]) -> np.ndarray:
        """Resampled sums (columns, resamples) of sums over pictures, each (pictures,)."""
        stacked = np.stack(columns, axis=1)
        return np.concatenate([weights @ stacked for weights in self.weights()]).T


@lru_cache(maxsize=4)
def _all_weights(resamples: Resamples) -> np.ndarray:
    """Few enough to be kept: a table asks for the same ones again and again."""
    return np.concatenate(list(_weights(resamples)))


def _weights(resamples: Resamples) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(resamples.seed)
    pictures = resamples.pictures
    step = max(1, CHUNK // max(1, pictures))
    for start in range(0, resamples.count, step):
        size = min(step, resamples.count - start)
        drawn = rng.integers(pictures, size=(size, pictures))
        drawn += np.arange(size)[:, None] * pictures
        counts = np.bincount(drawn.ravel(), minlength=size * pictures)
        yield counts.reshape(size, pictures).astype(np.float64)


def bounds(draws: np.ndarray) -> tuple[float, float]:
    """The percentile interval that resampled values (resamples,) give."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


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
    totals, drawn = Resamples(len(sums), seed=seed).totals([sums, counts])
    return Interval(mean, *bounds(totals / drawn), rows)

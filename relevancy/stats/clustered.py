"""Means, differences and their intervals when several rows belong to one picture: pictures are drawn, never rows.

Everything resampled is a ratio of sums over pictures, so a resample is a product of weights and sums: memory does not
grow with the number of rows times resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from relevancy.stats.intervals import CHUNK, Resamples, bounds

FEWEST = 10  # rows, and pictures, below which no interval and no test is given


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval and what it rests on; None where there is none (too few rows or pictures)."""

    value: float | None
    low: float | None
    high: float | None
    rows: int
    pictures: int

    @property
    def decided(self) -> int:
        """Which side of zero the whole interval lies on: -1, 1, or 0 for neither."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True, eq=False)
class Sample:
    """Values (n,) of rows and the number of each row's picture (n,); rows without a value are left out."""

    values: np.ndarray
    pictures: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, pictures: np.ndarray) -> Sample:
        """The rows that have a finite value."""
        there = np.isfinite(values)
        return cls(np.asarray(values[there], np.float64), pictures[there])

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.values)

    def sums(self, pictures: int, values: np.ndarray | None = None) -> np.ndarray:
        """Sum of the values over each picture's rows, (pictures,)."""
        return np.bincount(self.pictures, self.values if values is None else values, pictures)

    def estimate(self, value: float, draws: np.ndarray) -> Estimate:
        """The value with the interval that the resampled values (resamples,) give it, if there is enough of it."""
        return _estimate(value, draws, self.rows, len(np.unique(self.pictures)))


def means(samples: Sequence[Sample], resamples: Resamples) -> list[Estimate]:
    """Mean over rows of each sample."""
    return _from_sums(
        samples,
        resamples,
        lambda sample: [sample.values],
        lambda rows, total: total / rows,
    )


def effects(samples: Sequence[Sample], resamples: Resamples) -> list[Estimate]:
    """Cohen's d_z of paired differences: their mean over their standard deviation; no value where they do not vary."""

    def parts(sample: Sample) -> list[np.ndarray]:
        # Standing far from zero must not cost the variance its digits.
        centered = sample.values - _middle(sample)
        return [sample.values, centered, centered**2]

    def size(rows: np.ndarray, total: np.ndarray, centered: np.ndarray, squared: np.ndarray) -> np.ndarray:
        variance = (squared - centered**2 / rows) / (rows - 1)
        return (total / rows) / np.sqrt(np.where(variance > 1e-24, variance, np.nan))

    return _from_sums(samples, resamples, parts, size)


def gaps(pairs: Sequence[tuple[Sample, Sample]], resamples: Resamples) -> list[Estimate]:
    """Mean of each first group less the mean of the second; no interval where one of them is too small."""
    columns = [
        column
        for pair in pairs
        for group in pair
        for column in (group.sums(resamples.pictures), group.sums(resamples.pictures, np.ones(group.rows)))
    ]
    if not columns:
        return []
    totals = resamples.totals(columns)
    found = []
    for number, (one, other) in enumerate(pairs):
        total, rows, other_total, other_rows = totals[4 * number : 4 * number + 4]
        value = _mean(one.values) - _mean(other.values)
        with np.errstate(all="ignore"):
            draws = total / rows - other_total / other_rows
        found.append(_of_two_groups(value, draws, one, other))
    return found


def areas(pairs: Sequence[tuple[Sample, Sample]], resamples: Resamples) -> list[Estimate]:
    """Area under the ROC curve: how often a row of the first group has the larger value, ties counting one half."""
    found = []
    for one, other in pairs:
        if not one.rows or not other.rows:
            found.append(Estimate(None, None, None, one.rows + other.rows, 0))
            continue
        values = np.concatenate([one.values, other.values])
        pictures = np.concatenate([one.pictures, other.pictures])
        order = np.argsort(values, kind="stable")
        first = (order < one.rows).astype(np.float64)
        starts = np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)
        step = max(1, CHUNK // len(values))
        draws = [
            _weighted_area(weights[start : start + step, pictures[order]], first, starts)
            for weights in resamples.weights()
            for start in range(0, len(weights), step)
        ]
        (value,) = _weighted_area(np.ones((1, len(values))), first, starts)
        found.append(_of_two_groups(float(value), np.concatenate(draws), one, other))
    return found


def _weighted_area(weights: np.ndarray, first: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The area (resamples,) by weights (resamples, rows) of rows in order of values; `starts`: of equal values."""
    above = np.add.reduceat(weights * first, starts, axis=1)
    below = np.add.reduceat(weights * (1 - first), starts, axis=1)
    beaten = np.cumsum(below, axis=1) - below / 2
    with np.errstate(all="ignore"):
        return (above * beaten).sum(1) / (above.sum(1) * below.sum(1))


def sign_flips(samples: Sequence[Sample], pictures: int, *, flips: int = 9999, seed: int = 0) -> list[float | None]:
    """Two-sided p of a sign-flip permutation test of each sample of paired differences.

    If a picture's differences were as likely the other way round, all of them, how often would their sum lie as far
    from zero? Signs are flipped for whole pictures. None where there are too few rows or pictures to test.
    """
    if not samples:
        return []
    sums = np.stack([sample.sums(pictures) for sample in samples], axis=1)
    observed = np.abs(sums.sum(0))
    reached = observed - 1e-9 * np.abs(sums).sum(0)  # equal sums in another order are equal
    beyond = np.zeros(len(samples), np.int64)
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // max(1, pictures))
    for start in range(0, flips, step):
        size = min(step, flips - start)
        bits = np.frombuffer(rng.bytes(size * ((pictures + 7) // 8)), np.uint8).reshape(size, -1)
        signs = np.unpackbits(bits, axis=1, count=pictures).astype(np.float64) * 2 - 1
        beyond += (np.abs(signs @ sums) >= reached).sum(0)
    return [
        (1 + int(count)) / (1 + flips) if _enough(sample.rows, len(np.unique(sample.pictures))) else None
        for sample, count in zip(samples, beyond, strict=True)
    ]


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment of a family of p values; those that are None are no part of the family.

    Source: Holm, Scandinavian Journal of Statistics 1979.
    """
    known = sorted((value, place) for place, value in enumerate(values) if value is not None)
    adjusted: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        adjusted[place] = largest
    return adjusted


def _from_sums(
    samples: Sequence[Sample],
    resamples: Resamples,
    parts: Callable[[Sample], list[np.ndarray]],
    statistic: Callable[..., np.ndarray],
) -> list[Estimate]:
    """A statistic of (rows, sum of each part), with its interval."""
    if not samples:
        return []
    split = [[np.ones(sample.rows), *parts(sample)] for sample in samples]
    width = len(split[0])
    totals = resamples.totals(
        [sample.sums(resamples.pictures, part) for sample, each in zip(samples, split, strict=True) for part in each]
    )
    found = []
    for number, (sample, each) in enumerate(zip(samples, split, strict=True)):
        with np.errstate(all="ignore"):
            value = statistic(*(np.array([part.sum()]) for part in each))
            draws = statistic(*totals[number * width : (number + 1) * width])
        found.append(sample.estimate(float(value[0]), draws))
    return found


def _of_two_groups(value: float, draws: np.ndarray, one: Sample, other: Sample) -> Estimate:
    pictures = len(np.union1d(one.pictures, other.pictures))
    smaller = min((one, other), key=lambda group: group.rows)
    enough = _enough(smaller.rows, min(len(np.unique(group.pictures)) for group in (one, other)))
    found = _estimate(value, draws, one.rows + other.rows, pictures)
    return found if enough else Estimate(found.value, None, None, found.rows, found.pictures)


def _estimate(value: float, draws: np.ndarray, rows: int, pictures: int) -> Estimate:
    known = float(value) if np.isfinite(value) else None
    kept = draws[np.isfinite(draws)]
    if known is None or not _enough(rows, pictures) or not len(kept):
        return Estimate(known, None, None, rows, pictures)
    low, high = bounds(kept)
    if low == high:  # every row alike: resampling cannot tell how far the truth may lie
        return Estimate(known, None, None, rows, pictures)
    return Estimate(known, low, high, rows, pictures)


def _enough(rows: int, pictures: int) -> bool:
    return rows >= FEWEST and pictures >= FEWEST


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _middle(sample: Sample) -> float:
    return _mean(sample.values) if sample.rows else 0.0

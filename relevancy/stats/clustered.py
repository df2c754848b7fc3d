"""Means, medians, differences and their intervals when several rows belong to one picture.

Almost everything resampled is made of sums over pictures, so a resample is a product of weights and sums: memory does
not grow with the number of rows times resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from relevancy.stats.intervals import CHUNK, FEWEST, Resamples, ends, mean_ends, widened

_TRIED = 16  # places looked at together in search of a median's interval
_FLAT = 1e-12  # a spread of ranks, as shares of the rows, below it is rounding


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

    @property
    def drawn_from(self) -> int:
        """How many pictures the rows are about."""
        return len(np.unique(self.pictures))

    def influence(self, pictures: int, values: np.ndarray) -> np.ndarray:
        """By how much each picture moves a mean over the rows of something that is on average zero, (pictures,)."""
        return self.sums(pictures, values) / max(1, self.rows)


Strata = Sequence[tuple[Sample, Sample]]
"""Two groups, in parts that are compared apart: a row of the one never with a row of the other group's other part."""


def means(samples: Sequence[Sample], resamples: Resamples) -> list[Estimate]:
    """Mean over rows of each sample."""
    known = [sample for sample in samples if sample.rows]
    found = iter(mean_ends([(sample.values, sample.pictures) for sample in known], resamples))
    return [
        _estimate(float(sample.values.mean()) if sample.rows else None, next(found) if sample.rows else None, sample)
        for sample in samples
    ]


def medians(samples: Sequence[Sample], resamples: Resamples) -> list[Estimate]:
    """Median over rows of each sample.

    Its interval holds the middle of the resampled medians. These are not taken one by one: whether a resample's median
    lies at or below a value is a sum over pictures.
    """
    known = [sample for sample in samples if sample.rows and sample.drawn_from >= FEWEST]
    found = iter(_median_ends(known, resamples))
    return [
        _estimate(
            float(np.median(sample.values)) if sample.rows else None, next(found) if sample in known else None, sample
        )
        for sample in samples
    ]


def _median_ends(samples: Sequence[Sample], resamples: Resamples) -> list[tuple[float, float] | None]:
    cases = [(sample, np.sort(sample.values), upper) for sample in samples for upper in (False, True)]
    places = [(-1, sample.rows - 1) for sample, _, _ in cases]  # the end lies above the first and not above the second
    while any(high - low > 1 for low, high in places):
        tried = [np.unique(np.linspace(low, high, _TRIED + 2).astype(int))[1:-1] for low, high in places]
        totals = iter(
            resamples.totals(
                [
                    sample.sums(resamples.pictures, (sample.values <= ordered[place]) - 0.5)
                    for (sample, ordered, _), some in zip(cases, tried, strict=True)
                    for place in some
                ]
            )
        )
        for number, ((sample, _, upper), some) in enumerate(zip(cases, tried, strict=True)):
            level = widened(sample.drawn_from)[upper]
            low, high = places[number]
            for place in some.tolist():
                total = next(totals)
                if ((total > 0) if upper else (total >= 0)).mean() >= level:
                    high = min(high, place)
                else:
                    low = place
            places[number] = low, high
    at = iter(float(ordered[high]) for (_, ordered, _), (_, high) in zip(cases, places, strict=True))
    return [(low, high) if low < high else None for low, high in zip(at, at, strict=True)]


def effects(samples: Sequence[Sample], resamples: Resamples) -> list[Estimate]:
    """d_z of paired differences: their mean over their standard deviation; no value where they do not vary."""
    if not samples:
        return []
    # Standing far from zero must not cost the variance its digits.
    middles = [float(sample.values.mean()) if sample.rows else 0.0 for sample in samples]
    totals = resamples.totals(
        [
            sample.sums(resamples.pictures, (sample.values - middle) ** power)
            for sample, middle in zip(samples, middles, strict=True)
            for power in (0, 1, 2)
        ]
    )
    found = []
    for number, (sample, middle) in enumerate(zip(samples, middles, strict=True)):
        centered = sample.values - middle
        deviation = float(np.sqrt((centered**2).sum() / (sample.rows - 1))) if sample.rows > 1 else 0.0
        if not deviation > 1e-12:
            found.append(_estimate(None, None, sample))
            continue
        rows, total, squares = totals[3 * number : 3 * number + 3]
        with np.errstate(all="ignore"):
            variance = (squares - total**2 / rows) / (rows - 1)
            draws = (middle + total / rows) / np.sqrt(np.where(variance > 1e-24, variance, np.nan))
        value, scores = middle / deviation, centered / deviation
        moved = sample.influence(resamples.pictures, scores - value * (scores**2 - 1) / 2)
        found.append(_estimate(value, ends(value, draws, moved, sample.drawn_from), sample))
    return found


def gaps(cases: Sequence[Strata], resamples: Resamples) -> list[Estimate]:
    """Mean of each first group less the mean of the second, within strata.

    A stratum weighs as much as its two groups can tell: rows x rows / (rows + rows), as in Mantel and Haenszel's test.
    No interval where a group has too few pictures.
    """
    cases = [_with_both(strata) for strata in cases]
    columns = [
        group.sums(resamples.pictures, values)
        for strata in cases
        for pair in strata
        for group in pair
        for values in (group.values, np.ones(group.rows))
    ]
    totals = iter(resamples.totals(columns) if columns else ())
    found = []
    for strata in cases:
        value, weight = 0.0, 0.0
        draws, weights = np.zeros(resamples.count), np.zeros(resamples.count)
        moved = np.zeros(resamples.pictures)
        for one, other in strata:
            own = _weight(one.rows, other.rows)
            value, weight = value + own * (one.values.mean() - other.values.mean()), weight + own
            for sign, group in ((1, one), (-1, other)):
                moved += sign * own * group.influence(resamples.pictures, group.values - group.values.mean())
            total, rows, other_total, other_rows = (next(totals) for _ in range(4))
            with np.errstate(all="ignore"):
                share = np.nan_to_num(_weight(rows, other_rows))
                draws += np.where(share > 0, share * (total / rows - other_total / other_rows), 0)
            weights += share
        found.append(_of_two_groups(value, weight, draws, weights, moved, strata))
    return found


def areas(cases: Sequence[Strata], resamples: Resamples) -> list[Estimate]:
    """Area under the ROC curve: how often a row of the first group has the larger value than one of the second.

    Ties count one half. Within strata, which weigh as in `gaps`; of one stratum that is Mann and Whitney's statistic.
    Source of the influence: DeLong, DeLong and Clarke-Pearson, Biometrics 1988; of pictures: Obuchowski, 1997.
    """
    found = []
    for case in cases:
        strata = _with_both(case)
        value, weight = 0.0, 0.0
        draws, weights = np.zeros(resamples.count), np.zeros(resamples.count)
        moved = np.zeros(resamples.pictures)
        for one, other in strata:
            beaten, above = _placed(one.values, other.values), 1 - _placed(other.values, one.values)
            area, own = float(beaten.mean()), _weight(one.rows, other.rows)
            value, weight = value + own * area, weight + own
            moved += own * one.influence(resamples.pictures, beaten - area)
            moved += own * other.influence(resamples.pictures, above - area)
            wins, rows, other_rows = _wins(one, other, resamples)
            with np.errstate(all="ignore"):
                draws += np.nan_to_num(wins / (rows + other_rows))
                weights += np.nan_to_num(_weight(rows, other_rows))
        found.append(_of_two_groups(value, weight, draws, weights, moved, strata))
    return found


def _with_both(strata: Strata) -> Strata:
    return [(one, other) for one, other in strata if one.rows and other.rows]


def _weight(rows: Any, other_rows: Any) -> Any:
    return rows * other_rows / (rows + other_rows)


def _placed(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which share of the others lies below each value, (values,), ties counting one half."""
    ordered = np.sort(among)
    below, not_above = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return (below + not_above) / (2 * len(among))


def _wins(one: Sample, other: Sample, resamples: Resamples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs in which the first has the larger value, and rows of both groups, in each resample: (resamples,) each."""
    values = np.concatenate([one.values, other.values])
    pictures = np.concatenate([one.pictures, other.pictures])
    order = np.argsort(values, kind="stable")
    first = (order < one.rows).astype(np.float64)
    starts = np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)  # of equal values
    step = max(1, CHUNK // len(values))
    found = []
    for weights in resamples.weights():
        for start in range(0, len(weights), step):
            own = weights[start : start + step, pictures[order]]
            above = np.add.reduceat(own * first, starts, axis=1)
            below = np.add.reduceat(own * (1 - first), starts, axis=1)
            beaten = np.cumsum(below, axis=1) - below / 2
            found.append(np.stack([(above * beaten).sum(1), above.sum(1), below.sum(1)]))
    wins, rows, other_rows = np.concatenate(found, axis=1)
    return wins, rows, other_rows


def rank_correlations(
    cases: Sequence[Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]], resamples: Resamples
) -> list[Estimate]:
    """Spearman's rank correlation of two measures of the same rows, equal values sharing their mean rank.

    cases: of each, strata that are ranked apart: both measures (rows,), and the number of each row's picture (rows,).
    Rows that lack a measure are left out, and so are strata in which one does not vary; a stratum weighs as much as it
    has rows. A picture's influence is the derivative of the correlation by its weight.
    Source of the influence: Croux and Dehon, Statistical Methods and Applications 2010; here with ties.
    """
    found = []
    for case in cases:
        strata = [stratum for stratum in map(_Paired.of, case) if stratum.varies]
        whole = Sample(*(np.concatenate([getattr(one.rows, name) for one in strata] or [np.array([], int)])
                         for name in ("values", "pictures")))  # fmt: skip
        if not strata:
            found.append(_estimate(None, None, whole))
            continue
        value = sum(one.rows.rows * one.correlation() for one in strata) / whole.rows
        moved = np.zeros(resamples.pictures)
        total, rows = np.zeros(resamples.count), np.zeros(resamples.count)
        for one in strata:
            moved += one.rows.sums(resamples.pictures, one.moved() + one.correlation() - value) / whole.rows
            drawn, weights = one.resampled(resamples)
            total, rows = total + np.nan_to_num(drawn * weights), rows + np.where(np.isnan(drawn), 0, weights)
        with np.errstate(all="ignore"):
            found.append(_estimate(value, ends(value, total / rows, moved, whole.drawn_from), whole))
    return found


class _Ranked:
    """The order of values (rows,)."""

    def __init__(self, values: np.ndarray) -> None:
        _, self.group, sizes = np.unique(values, return_inverse=True, return_counts=True)
        self.order = np.argsort(self.group, kind="stable")
        self.starts = np.cumsum(sizes) - sizes
        self.varies = len(sizes) > 1

    def below(self, weights: np.ndarray) -> np.ndarray:
        """How much of the weights (any, rows) lies below each row, half of its equals included, (any, rows)."""
        equal = np.add.reduceat(weights[:, self.order], self.starts, axis=1)
        return (np.cumsum(equal, axis=1) - equal / 2)[:, self.group]


@dataclass(frozen=True, eq=False)
class _Paired:
    """Two measures of the same rows, by rank."""

    first: _Ranked
    second: _Ranked
    rows: Sample

    @classmethod
    def of(cls, stratum: tuple[np.ndarray, np.ndarray, np.ndarray]) -> _Paired:
        """The rows that have both measures."""
        one, other, pictures = stratum
        there = np.isfinite(one) & np.isfinite(other)
        return cls(_Ranked(one[there]), _Ranked(other[there]), Sample(one[there], pictures[there]))

    @property
    def varies(self) -> bool:
        """Whether there is a correlation to speak of."""
        return self.first.varies and self.second.varies

    def correlation(self) -> float:
        """Of all rows."""
        return float(self.weighted(np.ones((1, self.rows.rows)))[0])

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        """Of rows that count as often as the weights (any, rows) say, (any,); NaN where one measure does not vary."""
        total = weights.sum(1, keepdims=True)
        with np.errstate(all="ignore"):
            first, second = (ranks.below(weights) / total - 0.5 for ranks in (self.first, self.second))
            together, squares, others = (
                np.einsum("ij,ij,ij->i", weights, *pair) for pair in ((first, second), (first, first), (second, second))
            )
            spread = np.sqrt(squares * others)
            return np.where(spread > _FLAT * total[:, 0], together / spread, np.nan)

    def resampled(self, resamples: Resamples) -> tuple[np.ndarray, np.ndarray]:
        """The correlation in each resample, and how many rows it then rests on, (resamples,) each."""
        step = max(1, CHUNK // self.rows.rows)
        drawn = [
            (self.weighted(own), own.sum(1))
            for weights in resamples.weights()
            for start in range(0, len(weights), step)
            for own in (weights[start : start + step, self.rows.pictures],)
        ]
        correlations, rows = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
        return correlations, rows

    def moved(self) -> np.ndarray:
        """The derivative of the correlation by each row's share of all rows, (rows,)."""
        count = self.rows.rows
        first, second = (ranks.below(np.ones((1, count)))[0] / count for ranks in (self.first, self.second))

        def above(ranks: _Ranked, values: np.ndarray) -> np.ndarray:
            return (values.sum() - ranks.below(values[None])[0]) / count

        together = first * second + above(self.first, second) + above(self.second, first) - 3 * (first * second).mean()
        squares = first**2 + 2 * above(self.first, first) - 3 * (first**2).mean()
        others = second**2 + 2 * above(self.second, second) - 3 * (second**2).mean()
        spread = first.std() * second.std()
        return together / spread - self.correlation() / 2 * (squares / first.var() + others / second.var())


def functions_of_sums(
    cases: Sequence[tuple[np.ndarray, Callable[[np.ndarray], np.ndarray], int]], resamples: Resamples
) -> list[Estimate]:
    """Smooth functions of sums, such as a ratio of them.

    Of each: sums over each picture's rows (columns, pictures), a function (columns, n) -> (n,) of total sums, and how
    many rows there are. A picture's influence is what the value loses without it (the jackknife's).
    """
    if not cases:
        return []
    totals = resamples.totals([column for sums, _, _ in cases for column in sums])
    found, start = [], 0
    for sums, function, rows in cases:
        own = totals[start : start + len(sums)]
        start += len(sums)
        whole = sums.sum(1, keepdims=True)
        there = (sums != 0).any(0)
        pictures = int(there.sum())
        with np.errstate(all="ignore"):
            value = float(function(whole)[0])
            draws = function(own)
            moved = np.nan_to_num(value - function(whole - sums[:, there]))
        if not np.isfinite(value):
            found.append(Estimate(None, None, None, rows, pictures))
            continue
        low, high = ends(value, draws, moved, pictures) or (None, None)
        found.append(Estimate(value, low, high, rows, pictures))
    return found


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
        (1 + int(count)) / (1 + flips) if sample.drawn_from >= FEWEST else None
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


def _of_two_groups(
    value: float, weight: float, draws: np.ndarray, weights: np.ndarray, moved: np.ndarray, strata: Strata
) -> Estimate:
    """An estimate of sums over strata, each to be divided by the sum of the strata's weights."""
    groups = [np.concatenate([pair[side].pictures for pair in strata] or [np.array([], int)]) for side in (0, 1)]
    rows, pictures = sum(map(len, groups)), len(np.union1d(*groups))
    if not weight:
        return Estimate(None, None, None, rows, pictures)
    fewest = min(len(np.unique(group)) for group in groups)
    with np.errstate(all="ignore"):
        found = ends(value / weight, draws / weights, moved / weight, fewest)
    low, high = found or (None, None)
    return Estimate(float(value / weight), low, high, rows, pictures)


def _estimate(value: float | None, found: tuple[float, float] | None, sample: Sample) -> Estimate:
    low, high = found or (None, None)
    return Estimate(value, low, high, sample.rows, sample.drawn_from)

"""The one bootstrap behind every interval: pictures are drawn, with all their rows, never rows.

A mean has a bootstrap-t interval, everything else, and a mean whose resamples may lose their spread, a BCa interval;
percentiles of the resamples alone hold the mean of skewed values of 10 pictures in 80 to 86 % instead of 95 %.
"""

from __future__ import annotations

__all__ = ["interval"]

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from statistics import NormalDist

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
CHUNK = 1 << 22
"""Numbers held at once while resampling."""

FEWEST = 10  # pictures, and so rows, below which no interval and no test is given
_LOST = 0.1  # of the spread between pictures: a resample with less of it has lost it
_FEW_LOST = 1 / 400  # of the resamples: a tenth of a tail
_SAME = 1e-12  # of a value: a spread below it is rounding
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval; low and high are NaN where there are too few pictures, or all rows are alike."""

    mean: float
    low: float
    high: float
    rows: int
    pictures: int = 0

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


def ends(
    value: float, draws: np.ndarray, influence: np.ndarray, pictures: int, errors: np.ndarray | None = None
) -> tuple[float, float] | None:
    """Low and high end of a value's 95 % interval; None of fewer than `FEWEST` pictures, and where nothing varies.

    draws: the resampled values (resamples,), left out where not finite. influence: by how much each picture moves the
    value (any,). pictures: how many the value rests on. errors: the size of the influence in each resample
    (resamples,), where it is known: then the interval is a bootstrap-t, otherwise BCa, widened as Student's t is.
    Sources: Efron, JASA 1987 (BCa); Hall, Annals of Statistics 1988 (bootstrap-t); Hesterberg, The American
    Statistician 2015 (the widening).
    """
    known = np.isfinite(draws)
    spread = sqrt(float((influence**2).sum()))
    if pictures < FEWEST or not known.any() or not spread > _SAME * abs(value):
        return None
    if errors is not None:
        own = errors[known]
        if (own < _LOST * spread).mean() <= _FEW_LOST:
            low, high = np.quantile(
                (draws[known] - value) / np.maximum(own, _LOST * spread), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
            )
            return float(value - high * spread), float(value - low * spread)
    low, high = np.quantile(draws[known], _bca(value, draws[known], influence, pictures))
    low, high = (0.0 if abs(end) < _SAME * spread else float(end) for end in (low, high))  # rounding has no sign
    return (low, high) if low < high else None


def widened(pictures: int) -> tuple[float, float]:
    """The quantiles of resampled values between which 95 % lie, moved outwards as Student's t is for few pictures."""
    reach = student(pictures - 1) * sqrt(pictures / (pictures - 1))
    return _NORMAL.cdf(-reach), _NORMAL.cdf(reach)


def _bca(value: float, draws: np.ndarray, influence: np.ndarray, pictures: int) -> list[float]:
    """Which quantiles of the resampled values are the ends: widened for few pictures, moved for bias and skewness."""
    same = _SAME * (abs(value) + float(np.abs(draws).max()))  # sums in another order are equal
    below = float((draws < value - same).mean() + (draws <= value + same).mean()) / 2
    bias = _NORMAL.inv_cdf(min(max(below, 0.5 / len(draws)), 1 - 0.5 / len(draws)))
    skewness = float((influence**3).sum()) / (6 * float((influence**2).sum()) ** 1.5)
    found = []
    for end in map(_NORMAL.inv_cdf, widened(pictures)):
        moved = bias + end
        left = 1 - skewness * moved
        found.append(_NORMAL.cdf(bias + moved / left) if left > 0 else float(end > 0))
    return found


@lru_cache(maxsize=64)
def student(freedom: float) -> float:
    """How far from zero 95 % of Student's t distribution reaches.

    With t = sqrt(freedom) * tan(u) its density is proportional to cos(u) ** (freedom - 1).
    """
    angles = np.linspace(0, np.pi / 2, 200_001)
    density = np.cos(angles) ** (freedom - 1)
    within = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return float(freedom**0.5 * np.tan(np.interp(LEVEL, within / within[-1], angles)))


def mean_ends(
    samples: Sequence[tuple[np.ndarray, np.ndarray]], resamples: Resamples
) -> list[tuple[float, float] | None]:
    """The ends of the interval of each sample's mean over rows.

    samples: values (rows,), at least one, and the number of each row's picture (rows,). None where there are fewer than
    `FEWEST` pictures, or nothing varies.
    """
    columns: list[np.ndarray] = []
    for values, pictures in samples:
        # Standing far from zero must not cost the spread its digits.
        sums = np.bincount(pictures, values - values.mean(), resamples.pictures)
        rows = np.bincount(pictures, minlength=resamples.pictures).astype(np.float64)
        columns += [sums, rows, sums**2, sums * rows, rows**2]
    if not columns:
        return []
    totals = resamples.totals(columns)
    found = []
    for number, (values, _) in enumerate(samples):
        sums, rows = columns[5 * number : 5 * number + 2]
        total, drawn, squares, mixed, counts = totals[5 * number : 5 * number + 5]
        with np.errstate(all="ignore"):
            off = total / drawn
            errors = np.sqrt(np.clip(squares - 2 * off * mixed + off**2 * counts, 0, None)) / drawn
        value, there = float(values.mean()), int((rows > 0).sum())
        found.append(ends(value, value + off, sums / len(values), there, errors))
    return found


def interval(values: Sequence[float] | np.ndarray, groups: Sequence[Hashable], seed: int = 0) -> Interval:
    """The mean of values (rows,), NaN left out, with its interval by a bootstrap over groups (rows,).

    Source: Field and Welsh, JRSS B 2007 (the cluster bootstrap).
    """
    given = np.asarray(values, np.float64)
    there = np.isfinite(given)
    if not there.any():
        return Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    numbers: dict[Hashable, int] = {}
    kept = [numbers.setdefault(group, len(numbers)) for group, known in zip(groups, there, strict=True) if known]
    (found,) = mean_ends([(given[there], np.array(kept))], Resamples(len(numbers), seed=seed))
    low, high = found or (float("nan"), float("nan"))
    return Interval(float(given[there].mean()), low, high, int(there.sum()), len(numbers))

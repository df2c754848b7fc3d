"""Means over trainings of one kind, whose interval says what another training of it would give."""

from __future__ import annotations

__all__ = ["difference_over_runs", "over_runs"]

from collections.abc import Sequence
from math import nan, sqrt

import numpy as np

from relevancy.stats.intervals import Interval, student


def over_runs(values: Sequence[float] | np.ndarray) -> Interval:
    """The mean of values of independent runs with Student's interval; NaN at its ends for a single run."""
    given = np.asarray(values, np.float64)
    mean, error = _mean_and_error(given)
    half = student(len(given) - 1) * error if len(given) > 1 else nan
    return Interval(mean, mean - half, mean + half, len(given))


def difference_over_runs(values: Sequence[float], others: Sequence[float]) -> Interval:
    """The mean of one kind's runs less that of another's, with Welch's interval; NaN at its ends for a single run.

    The kinds' runs are independent of each other and may differ by unlike amounts. Rows are the runs of both.
    Source: Welch, The generalization of "Student's" problem, Biometrika 1947.
    """
    given = [np.asarray(each, np.float64) for each in (values, others)]
    (mean, error), (other, other_error) = map(_mean_and_error, given)
    first, second = error**2, other_error**2
    both = first + second
    if both > 0:
        freedom = both**2 / sum(
            square**2 / (len(each) - 1) for square, each in zip((first, second), given, strict=True) if square
        )
        half = student(freedom) * sqrt(both)
    else:
        half = both  # all alike, or not known
    apart = mean - other
    return Interval(apart, apart - half, apart + half, sum(map(len, given)))


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error, which is NaN for a single run."""
    error = float(values.std(ddof=1)) / sqrt(len(values)) if len(values) > 1 else nan
    return float(values.mean()) if len(values) else nan, error

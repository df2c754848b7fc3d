"""Intervals over runs: Student's and Welch's, by hand and against SciPy."""

import numpy as np
import pytest

from relevancy.stats.intervals import student
from relevancy.stats.runs import difference_over_runs, over_runs

RUNS = [0.81, 0.84, 0.79], [0.62, 0.71, 0.55, 0.66]


@pytest.mark.parametrize(("freedom", "far"), [(1, 12.7062), (2, 4.30265), (11, 2.200985), (1000, 1.962339)])
def test_students_quantile(freedom, far):
    assert student(freedom) == pytest.approx(far, rel=1e-5)


def test_a_single_run_has_no_interval():
    assert str(over_runs([0.5])) == "0.500"
    assert str(difference_over_runs([0.5], [0.1, 0.2])) == "0.350"
    assert str(difference_over_runs([0.5], [0.1])) == "0.400"
    assert over_runs([]).rows == 0
    assert np.isnan(difference_over_runs([], [0.1, 0.2]).mean)


def test_by_hand():
    found = over_runs([1.0, 2.0, 3.0])
    half = 4.30265 / 3**0.5  # a standard deviation of 1
    assert (found.mean, found.low, found.high, found.rows) == pytest.approx((2, 2 - half, 2 + half, 3), rel=1e-5)
    apart = difference_over_runs([0.0, 2.0], [5.0, 7.0])
    half = 4.30265 * 2**0.5  # both of variance 2, of which two runs each leave 1, and 2 degrees of freedom
    assert (apart.mean, apart.low, apart.high, apart.rows) == pytest.approx((-5, -5 - half, -5 + half, 4), rel=1e-5)


def test_runs_that_are_alike_leave_no_doubt():
    found = difference_over_runs([0.5, 0.5], [0.25, 0.25])
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)


def test_as_scipy_has_it():
    scipy = pytest.importorskip("scipy.stats")
    first, second = RUNS
    found = over_runs(second)
    assert (found.low, found.high) == pytest.approx(
        scipy.t.interval(0.95, len(second) - 1, np.mean(second), scipy.sem(second)), rel=1e-6
    )
    apart = difference_over_runs(first, second)
    welch = scipy.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert apart.mean == pytest.approx(np.mean(first) - np.mean(second))
    assert (apart.low, apart.high) == pytest.approx((welch.low, welch.high), rel=1e-6)
    one_alike, own = difference_over_runs(first, [0.6, 0.6, 0.6]), over_runs(first)
    assert (one_alike.low, one_alike.high) == pytest.approx((own.low - 0.6, own.high - 0.6))

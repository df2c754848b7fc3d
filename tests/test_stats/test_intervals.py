"""Bootstrap intervals over pictures."""

import numpy as np
import pytest

from relevancy.stats.intervals import ends, interval


def test_means_leave_out_what_is_missing():
    found = interval([1.0, np.nan, 3.0], ["a", "b", "c"])
    assert (found.mean, found.rows) == (2, 2)
    assert np.isnan(found.low)
    assert interval([np.nan], ["a"]).rows == 0


def test_close_to_the_normal_interval():
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = interval(values, range(400))
    half = 1.96 * values.std() / np.sqrt(400)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_rows_of_one_picture_are_no_new_evidence():
    values = np.random.default_rng(1).normal(0, 1, 40)
    alone = interval(values, range(40))
    often = interval(np.repeat(values, 25), np.repeat(np.arange(40), 25))
    assert often.high - often.low == pytest.approx(alone.high - alone.low, rel=0.01)


def test_skewness_moves_both_ends_by_the_book():
    draws = np.random.default_rng(0).normal(size=40_000)
    influence = np.array([3.0] + 19 * [-3 / 19])
    skewness = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    reach = 2.093024 * (20 / 19) ** 0.5  # Student's t of 19
    expected = [end / (1 - skewness * end) for end in (-reach, reach)]
    assert ends(0.0, draws, influence, 20) == pytest.approx(expected, abs=0.1)
    even = ends(0.0, draws, np.array([1.0, -1.0] * 10), 20)
    assert even == pytest.approx((-reach, reach), abs=0.1)

"""Estimates against slow loops, hand-worked cases and SciPy; intervals against how often they hold the truth."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relevancy.stats import clustered as clustered_stats
from relevancy.stats.clustered import (
    FEWEST,
    Estimate,
    Sample,
    areas,
    effects,
    gaps,
    holm,
    means,
    medians,
    rank_correlations,
    sign_flips,
)
from relevancy.stats.intervals import Resamples


def clustered(seed=0, pictures=20, per_picture=3, mean=0.1):
    """Values with a picture's part in common."""
    rng = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(pictures), per_picture)
    return Sample.of(mean + rng.normal(size=pictures)[numbers] + 0.3 * rng.normal(size=len(numbers)), numbers)


def drawn_pictures(resamples):
    """The pictures of each resample, one after the other, from the weights."""
    for chunk in resamples.weights():
        for weights in chunk:
            yield np.repeat(np.arange(len(weights)), weights.astype(int))


def looped(statistic, resamples, *samples):
    """A statistic of samples in each resample, put together row by row."""
    values = []
    for pictures in drawn_pictures(resamples):
        rows = [np.concatenate([one.values[one.pictures == picture] for picture in pictures]) for one in samples]
        values.append(statistic(*rows))
    return np.array(values)


def bca(statistic, resamples, *samples):
    """The BCa interval by the book: skewness by leaving out one picture after the other, levels as Student's t has."""
    scipy = pytest.importorskip("scipy.stats")
    draws, value = looped(statistic, resamples, *samples), statistic(*(one.values for one in samples))
    without = np.array(
        [statistic(*(one.values[one.pictures != left] for one in samples)) for left in range(resamples.pictures)]
    )
    moved = without.mean() - without
    skewness = (moved**3).sum() / (6 * (moved**2).sum() ** 1.5)
    same = np.isclose(draws, value, rtol=1e-9, atol=0)
    bias = scipy.norm.ppf(((draws < value) & ~same).mean() + same.mean() / 2)
    pictures = resamples.pictures
    ends = bias + np.array([-1, 1]) * scipy.t.ppf(0.975, pictures - 1) * (pictures / (pictures - 1)) ** 0.5
    return np.nanquantile(draws, scipy.norm.cdf(bias + ends / (1 - skewness * ends)))


def studentised(sample, resamples):
    """The bootstrap-t interval of a mean by the book, each resample put together picture by picture."""

    def parted(pictures):
        parts = [sample.values[sample.pictures == picture] for picture in pictures]
        mean = np.concatenate(parts).mean()
        return mean, np.sqrt(sum((part - mean).sum() ** 2 for part in parts)) / sum(map(len, parts))

    mean, error = parted(range(resamples.pictures))
    drawn = np.array([parted(pictures) for pictures in drawn_pictures(resamples)])
    far, near = np.quantile((drawn[:, 0] - mean) / drawn[:, 1], [0.975, 0.025])
    return mean - far * error, mean - near * error


def test_resamples_draw_as_many_pictures_as_there_are_and_each_as_often_as_any():
    resamples = Resamples(pictures=7, count=4000, seed=3)
    weights = np.concatenate(list(resamples.weights()))
    assert weights.shape == (4000, 7)
    assert (weights.sum(1) == 7).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.06)
    np.testing.assert_allclose(weights.var(0), 6 / 7, atol=0.1)
    np.testing.assert_array_equal(weights, np.concatenate(list(resamples.weights())))


def test_resamples_do_not_depend_on_how_many_fit_into_memory(monkeypatch):
    whole = Resamples(5, 50).totals([np.arange(5.0)])
    monkeypatch.setattr("relevancy.stats.intervals.CHUNK", 15)
    np.testing.assert_array_equal(whole, Resamples(5, 50).totals([np.arange(5.0)]))


def test_a_mean_and_its_interval_equal_a_loop_over_pictures():
    sample, resamples = clustered(), Resamples(20, 200)
    (found,) = means([sample], resamples)
    assert found.value == pytest.approx(sum(sample.values) / 60)
    assert (found.rows, found.pictures) == (60, 20)
    np.testing.assert_allclose([found.low, found.high], studentised(sample, resamples))


def test_a_mean_of_coins_has_the_interval_by_the_book_too():
    """Resamples without a single head have no spread: a bootstrap-t would reach far beyond what can be."""
    sample, resamples = Sample.of(np.array([1.0, 1.0] + 18 * [0.0]), np.arange(20)), Resamples(20, 400)
    (found,) = means([sample], resamples)
    np.testing.assert_allclose([found.low, found.high], bca(np.mean, resamples, sample), atol=0.011)
    assert 0 <= found.low < 0.1 < found.high < 0.5


def test_a_median_and_its_interval_equal_a_loop_over_pictures():
    for sample, pictures in ((clustered(), 20), (Sample.of(np.repeat([1.0, 2, 2, 3], 5), np.arange(20)), 20)):
        resamples = Resamples(pictures, 200)
        (found,) = medians([sample], resamples)
        assert found.value == np.median(sample.values)
        scipy = pytest.importorskip("scipy.stats")
        reach = scipy.t.ppf(0.975, pictures - 1) * (pictures / (pictures - 1)) ** 0.5
        ends = [
            np.quantile(looped(lambda values, way=way: np.quantile(values, 0.5, method=way), resamples, sample),
                        scipy.norm.cdf(end), method="inverted_cdf")
            for way, end in (("inverted_cdf", -reach), ("higher", reach))
        ]  # fmt: skip
        np.testing.assert_allclose([found.low, found.high], ends)


def test_an_effect_and_its_interval_equal_a_loop_over_pictures():
    sample, resamples = clustered(mean=5), Resamples(20, 200)
    (found,) = effects([sample], resamples)
    assert found.value == pytest.approx(np.mean(sample.values) / np.std(sample.values, ddof=1))
    expected = bca(lambda values: values.mean() / values.std(ddof=1), resamples, sample)
    np.testing.assert_allclose([found.low, found.high], expected, rtol=0.03)


def test_an_effect_keeps_its_digits_far_from_zero_and_has_no_value_without_variation():
    sample = clustered(mean=1e6)
    (far,) = effects([sample], Resamples(20, 200))
    assert far.value == pytest.approx(np.mean(sample.values) / np.std(sample.values, ddof=1), rel=1e-6)
    (flat,) = effects([Sample.of(np.full(30, 0.25), np.arange(30))], Resamples(30, 200))
    assert (flat.value, flat.low, flat.high) == (None, None, None)


def test_a_gap_and_an_area_equal_loops_over_pictures():
    one, other = clustered(1, mean=0.6), clustered(2, mean=0)
    one = Sample(np.round(one.values, 1), one.pictures)  # with ties
    other = Sample(np.round(other.values, 1), other.pictures)
    resamples = Resamples(20, 60)

    def area(first, second):
        wins = [(a > b) + (a == b) / 2 for a in first for b in second]
        return sum(wins) / len(wins)

    (gap,), (found,) = gaps([[(one, other)]], resamples), areas([[(one, other)]], resamples)
    assert gap.value == pytest.approx(one.values.mean() - other.values.mean())
    difference = bca(lambda a, b: a.mean() - b.mean(), resamples, one, other)
    np.testing.assert_allclose([gap.low, gap.high], difference, atol=0.02)
    assert found.value == pytest.approx(area(one.values, other.values))
    np.testing.assert_allclose([found.low, found.high], bca(area, resamples, one, other), atol=0.01)
    assert found.rows == 120


def test_strata_are_compared_apart():
    """In each stratum both groups are alike; taken together, the first seems to be the larger (Simpson's paradox)."""
    rng = np.random.default_rng(3)
    drawn = [(rng.normal(level, 1, 300), rng.integers(0, 40, 300)) for level in (0.0, 0.0, 3.0, 3.0)]
    few_low, low, high, few_high = (Sample(values, pictures) for values, pictures in drawn)
    few_low, few_high = (Sample(one.values[:30], one.pictures[:30]) for one in (few_low, few_high))
    together = (
        Sample(np.concatenate([few_low.values, high.values]), np.concatenate([few_low.pictures, high.pictures])),
        Sample(np.concatenate([low.values, few_high.values]), np.concatenate([low.pictures, few_high.pictures])),
    )
    strata = [(few_low, low), (high, few_high)]
    resamples = Resamples(40, 300)
    (mixed, apart), (area_mixed, area) = (test([[together], strata], resamples) for test in (gaps, areas))
    assert mixed.low > 1
    assert apart.low < 0 < apart.high
    assert area_mixed.low > 0.7
    assert area.low < 0.5 < area.high
    weights = [30 * 300 / 330] * 2  # Mantel and Haenszel's
    each = [one.values.mean() - other.values.mean() for one, other in strata]
    assert apart.value == pytest.approx(np.average(each, weights=weights))
    assert (apart.rows, apart.pictures) == (660, 40)


def test_a_stratum_of_one_group_alone_says_nothing():
    nobody, one, other = Sample(np.array([]), np.array([], int)), clustered(1), clustered(2)
    resamples = Resamples(20, 100)
    for test in (gaps, areas):
        (alone,), (beside,) = test([[(one, other)]], resamples), test([[(one, other), (one, nobody)]], resamples)
        assert alone == beside


def test_an_area_equals_mann_whitney():
    scipy = pytest.importorskip("scipy.stats")
    one, other = clustered(1), clustered(2)
    statistic = scipy.mannwhitneyu(one.values, other.values).statistic
    (found,) = areas([[(one, other)]], Resamples(20, 100))
    assert found.value == pytest.approx(statistic / (one.rows * other.rows))


def test_an_area_of_one_group_alone_is_unknown():
    nobody = Sample(np.array([]), np.array([], int))
    (found,) = areas([[(clustered(), nobody)]], Resamples(20, 100))
    assert found.value is None


def related(seed=0, pictures=24, per_picture=3, steps=None):
    """Two measures with a picture's part in common; of a few different values, if so many steps are given."""
    one, noise = clustered(seed, pictures, per_picture), clustered(seed + 1, pictures, per_picture)
    values = one.values, one.values + noise.values
    return (*(each if steps is None else np.round(each * steps) for each in values), one.pictures)


def spearman(*measures):
    return pytest.importorskip("scipy.stats").spearmanr(*measures).statistic


@pytest.mark.parametrize("steps", [None, 1])
def test_a_rank_correlation_and_its_interval_equal_a_loop_over_pictures(steps):
    one, other, pictures = related(steps=steps)
    resamples = Resamples(24, 400, 5)
    (found,) = rank_correlations([[(one, other, pictures)]], resamples)
    samples = [Sample(values, pictures) for values in (one, other)]
    assert found.value == pytest.approx(spearman(one, other))
    assert (found.rows, found.pictures) == (72, 24)
    # The influence is a derivative here and a jackknife there.
    assert (found.low, found.high) == pytest.approx(bca(spearman, resamples, *samples), abs=0.02)


def test_a_rank_correlation_within_strata_equals_a_loop_over_pictures():
    """Strata lie far apart, so that over all rows the correlation is near one; within them it is not."""
    one, other, pictures = related(steps=1)
    strata = np.arange(72) % 3
    strata[:20] = 0
    one, other = one + 50 * strata, other + 50 * strata

    def within(values, others, of_rows):
        parts = [(np.sum(of_rows == each), spearman(values[of_rows == each], others[of_rows == each]))
                 for each in np.unique(of_rows)]  # fmt: skip
        known = [(rows, value) for rows, value in parts if not np.isnan(value)]
        return sum(rows * value for rows, value in known) / sum(rows for rows, _ in known)

    resamples = Resamples(24, 400, 5)
    case = [(one[strata == each], other[strata == each], pictures[strata == each]) for each in range(3)]
    (found,) = rank_correlations([case], resamples)
    assert found.value == pytest.approx(within(one, other, strata))
    assert found.value < spearman(one, other) - 0.1
    samples = [Sample(values, pictures) for values in (one, other, strata)]
    assert (found.low, found.high) == pytest.approx(bca(within, resamples, *samples), abs=0.03)


def test_strata_of_a_rank_correlation_weigh_as_many_rows_as_each_resample_draws():
    """One stratum in the same order, one in reverse: what varies is alone how many rows of each are drawn."""
    rng = np.random.default_rng(2)
    same = np.repeat(np.arange(24), rng.integers(1, 9, 24))
    back = np.repeat(np.arange(24), rng.integers(1, 4, 24))
    case = [(order * np.arange(len(rows)), 1.0 * np.arange(len(rows)), rows) for order, rows in ((1, same), (-1, back))]
    resamples = Resamples(24, 400, 5)
    (found,) = rank_correlations([case], resamples)
    signs = Sample(np.repeat([1.0, -1.0], [len(same), len(back)]), np.concatenate([same, back]))
    assert found.value == pytest.approx(np.mean(signs.values))
    assert (found.low, found.high) == pytest.approx(bca(np.mean, resamples, signs), abs=0.01)


def test_a_stratum_that_does_not_vary_in_a_resample_has_no_weight_in_it():
    """All that varies in the second stratum is about one picture, which a third of the resamples lack."""
    one, other, pictures = related()
    spread = np.where(pictures == 3, np.arange(72) + 1.0, 0.0)
    resamples = Resamples(24, 400, 5)
    (found,) = rank_correlations([[(one, other, pictures), (spread, spread, pictures)]], resamples)
    value = (spearman(one, other) + 1) / 2
    assert found.value == pytest.approx(value)
    paired = [clustered_stats._Paired.of(each) for each in ((one, other, pictures), (spread, spread, pictures))]
    alone, flat = (each.resampled(resamples)[0] for each in paired)
    assert 0.2 < np.isnan(flat).mean() < 0.5
    drawn = np.where(np.isnan(flat), alone, (alone + 1) / 2)
    assert drawn.min() - 1e-9 <= found.low < found.high <= drawn.max() + 1e-9
    assert found.low > np.quantile(drawn, 0.001) - 1e-9


@pytest.mark.parametrize("steps", [None, 2])
def test_a_rank_correlations_influence_is_how_it_moves_with_a_rows_weight(steps):
    one, other, pictures = related(per_picture=1, steps=steps)
    paired = clustered_stats._Paired.of((one, other, pictures))
    small = 1e-5
    weights = np.full((len(one), len(one)), 1 - small) + small * len(one) * np.eye(len(one))
    assert paired.moved() == pytest.approx((paired.weighted(weights) - spearman(one, other)) / small, abs=1e-3)
    assert paired.moved().mean() == pytest.approx(0, abs=1e-12)


def test_a_rank_correlation_leaves_out_what_is_not_known_and_is_unknown_of_what_does_not_vary():
    one, other, pictures = related()
    one[0], other[5] = np.nan, np.nan
    known = np.isfinite(one) & np.isfinite(other)
    flat = (one, np.ones(len(one)), pictures)
    cases = [[(one, other, pictures)], [(one, other, pictures), flat], [flat], [(np.full(72, np.nan), other, pictures)],
             [(one[3:12], other[3:12], pictures[3:12])], []]  # fmt: skip
    found, beside_flat, unknown, nothing, few, none = rank_correlations(cases, Resamples(24, 200))
    assert (found.value, found.rows) == (pytest.approx(spearman(one[known], other[known])), 70)
    assert beside_flat == found
    assert [each.value for each in (unknown, nothing, none)] == [None] * 3
    assert nothing.rows == none.rows == 0
    assert (few.value is not None, few.low) == (True, None)


def test_a_rank_correlations_interval_holds_the_truth_about_as_often_as_it_says():
    """Of two normal measures of correlation r, Spearman's is 6 / pi * arcsin(r / 2), with two alike rows a picture."""
    rng, held, truth = np.random.default_rng(8), 0, 6 / math.pi * math.asin(0.5 / 2)
    pictures = np.repeat(np.arange(40), 2)
    for seed in range(200):
        one = rng.normal(size=40)
        other = 0.5 * one + math.sqrt(0.75) * rng.normal(size=40)
        (found,) = rank_correlations([[(one[pictures], other[pictures], pictures)]], Resamples(40, 400, seed))
        held += found.low <= truth <= found.high
    assert 0.9 <= held / 200 <= 0.99


def test_a_sign_flip_test_comes_near_all_flips_taken_one_by_one():
    rng = np.random.default_rng(5)
    sample = Sample.of(0.4 + rng.normal(size=24), np.repeat(np.arange(12), 2))
    sums = sample.sums(12)
    every = [abs(np.dot(signs, sums)) for signs in itertools.product((-1, 1), repeat=12)]
    exact = np.mean([value >= abs(sums.sum()) - 1e-12 for value in every])
    (found,) = sign_flips([sample], 12, flips=20_000)
    assert found == pytest.approx(exact, abs=0.012)
    assert 0.005 < exact < 0.9


def test_a_sign_flip_test_agrees_with_scipy_where_pictures_have_one_row():
    scipy = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).normal(0.3, 1, 13)
    exact = scipy.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    (found,) = sign_flips([Sample.of(values, np.arange(13))], 13, flips=20_000)
    assert found == pytest.approx(exact, abs=0.012)


def test_sign_flips_at_the_ends():
    same, apart = Sample.of(np.zeros(20), np.arange(20)), Sample.of(np.ones(20), np.arange(20))
    few = Sample.of(np.ones(40), np.repeat(np.arange(FEWEST - 1), [8, 4, 4, 4, 4, 4, 4, 4, 4]))
    assert sign_flips([same, apart, few], 20, flips=999) == [1.0, pytest.approx(1 / 1000, abs=1e-9), None]
    assert sign_flips([], 20) == []


def test_sign_flips_of_what_is_no_difference_are_seldom_small():
    """Pictures with many alike rows: flipping rows instead of pictures would find something most of the time."""
    rng = np.random.default_rng(8)
    pictures = np.repeat(np.arange(15), 20)
    samples = [Sample(rng.normal(size=15)[pictures] + 0.01 * rng.normal(size=300), pictures) for _ in range(300)]
    small = np.mean([p < 0.05 for p in sign_flips(samples, 15, flips=499)])
    assert small < 0.09


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0.0001, 1), max_size=12))
def test_holm_is_never_below_the_p_value_never_above_bonferroni_and_keeps_the_order(values):
    adjusted = holm(values)
    for p, larger in zip(values, adjusted, strict=True):
        assert p <= larger <= min(1, p * len(values)) + 1e-12
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


@pytest.mark.parametrize(("rows", "pictures"), [(9, 9), (9, 3), (40, 9)])
def test_too_few_rows_or_pictures_have_a_mean_and_no_interval(rows, pictures):
    sample = Sample.of(np.random.default_rng(0).normal(size=rows), np.arange(rows) % pictures)
    (found,) = means([sample], Resamples(pictures, 200))
    assert found == Estimate(pytest.approx(sample.values.mean()), None, None, rows, pictures)
    assert found.decided == 0


def test_rows_that_are_all_alike_have_no_interval():
    (found,) = means([Sample.of(np.ones(50), np.arange(50))], Resamples(50, 200))
    assert (found.value, found.low) == (1.0, None)


def test_no_rows_at_all():
    empty = Sample.of(np.full(5, np.nan), np.arange(5))
    (mean,), (effect,) = means([empty], Resamples(5, 100)), effects([empty], Resamples(5, 100))
    assert mean == effect == Estimate(None, None, None, 0, 0)


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    """Means of clustered rows whose true mean is zero; an interval over rows would hold it about half of the time."""
    truth = [means([clustered(seed, pictures=40, per_picture=8, mean=0)], Resamples(40, 300))[0] for seed in range(200)]
    held = np.mean([one.low <= 0 <= one.high for one in truth])
    assert 0.89 < held < 0.99


SKEWED = {
    "exponential": (lambda rng, rows: rng.exponential(size=rows), 1, math.log(2)),
    "lognormal": (lambda rng, rows: np.exp(rng.normal(size=rows)), math.exp(0.5), 1),
    "shares": (lambda rng, rows: rng.beta(0.4, 2, size=rows), 1 / 6, 0.0879),
    "coins": (lambda rng, rows: (rng.random(rows) < 0.2).astype(float), 0.2, 0),
}


@pytest.mark.parametrize("pictures", [10, 20, 40])
@pytest.mark.parametrize("name", SKEWED)
def test_intervals_hold_the_truth_of_skewed_values_of_few_pictures(name, pictures):
    """Percentiles of resampled means hold it in 79 to 89 % (10 to 40 pictures, exponential and lognormal)."""
    draw, mean, median = SKEWED[name]
    rng, resamples = np.random.default_rng(11), Resamples(pictures, 499)
    samples = [Sample.of(draw(rng, pictures), np.arange(pictures)) for _ in range(200)]
    for measure, truth in ((means, mean), (medians, median)):
        told = [found for found in measure(samples, resamples) if found.low is not None]
        held = np.mean([found.low <= truth <= found.high for found in told])
        assert held > (0.86 if (measure, name) == (means, "lognormal") else 0.9), (measure, held)
        assert len(told) > (0 if (measure, name) == (medians, "coins") else 150)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(10, 30), st.integers(1, 4))
def test_intervals_turn_with_the_sign_and_follow_the_scale(seed, pictures, per_picture):
    sample = clustered(seed, pictures, per_picture)
    turned = Sample(-2 * sample.values, sample.pictures)
    one, other = means([sample, turned], Resamples(pictures, 101))
    assert other.value == pytest.approx(-2 * one.value)
    assert [other.low, other.high] == pytest.approx([-2 * one.high, -2 * one.low])
    assert one.decided == -other.decided
    assert math.isclose(*(abs(e.value) for e in effects([sample, turned], Resamples(pictures, 101))), rel_tol=1e-9)

"""Deletion and insertion by hand: a model whose probability is a sum over visible patches, budgets, and ties."""

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest

from relevancy.errors import RelevancyError
from relevancy.geometry import Grid
from relevancy.metrics.answer_flip import answer_flips
from relevancy.metrics.deletion_insertion import Budget, curves
from relevancy.metrics.patch_order import area, orders


def sight_of(worth, rows=2, cols=2, seen=None, width=40, height=40, product=False):
    """What `curves` asks of a question: the probability is the sum (or product) of what visible patches are worth."""
    worth = np.asarray(worth, np.float64)

    def hiding(hidden, replacement="grey"):
        assert replacement in ("grey", "blur")
        visible = np.where(hidden, 1 if product else 0, worth)
        probability = visible.prod(1) if product else visible.sum(1)
        return SimpleNamespace(probability=probability, kept=probability > 0.5)

    grid = Grid(width, height, np.linspace(0, width, cols + 1), np.linspace(0, height, rows + 1))
    seen = np.ones(rows * cols, bool) if seen is None else np.array(seen)
    return SimpleNamespace(hiding=hiding, grid=grid, seen=seen, patches=rows * cols)


def test_curves_by_hand():
    """Patches worth 0.1, 0.2, 0.3, 0.4; the map says 2, 0, 3, 1."""
    sight = sight_of([0.1, 0.2, 0.3, 0.4])
    (found,) = curves(sight, [np.array([2, 0, 3, 1])], steps=4)
    np.testing.assert_allclose(found.deletion, [1.0, 0.7, 0.6, 0.2, 0.0], atol=1e-12)
    np.testing.assert_allclose(found.insertion, [0.0, 0.3, 0.4, 0.8, 1.0], atol=1e-12)
    assert found.deletion_auc == pytest.approx((0.5 + 0.7 + 0.6 + 0.2) / 4)
    assert found.insertion_auc == pytest.approx((0.3 + 0.4 + 0.8 + 0.5) / 4)


def test_two_ties_give_the_mean_of_both_orders():
    """0.9 first, then the patches worth 0.2 and 0.4 either way round, then the last."""
    sight = sight_of([0.1, 0.2, 0.3, 0.4])
    tied = orders(np.array([0.0, 0.5, 0.9, 0.5]), sight.seen)
    (found,) = curves(sight, [tied], steps=4)
    np.testing.assert_allclose(found.deletion, [1.0, 0.7, (0.5 + 0.3) / 2, 0.1, 0.0], atol=1e-12)
    np.testing.assert_allclose(found.insertion, [0.0, 0.3, (0.5 + 0.7) / 2, 0.9, 1.0], atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_a_map_that_says_nothing_gets_the_mean_over_all_orders(seed):
    """Against a slow reference: every one of 720 orders, of a model that adds; the areas are exact."""
    rng = np.random.default_rng(seed)
    sight = sight_of(rng.random(6) / 6, rows=2, cols=3)
    flat = orders(np.zeros(6), sight.seen, seed)
    (found,) = curves(sight, [flat], steps=6)
    every = curves(sight, [np.array(one) for one in permutations(range(6))], steps=6)
    assert found.deletion_auc == pytest.approx(np.mean([one.deletion_auc for one in every]), abs=1e-12)
    assert found.insertion_auc == pytest.approx(np.mean([one.insertion_auc for one in every]), abs=1e-12)


def test_ties_do_not_depend_on_where_they_stand_in_the_array():
    """Two groups of ties whose worth falls along the array: order of the array would be best, or worst, of all."""
    worth = np.array([6, 5, 4, 3, 2, 1]) / 21
    forward, backward = sight_of(worth, 2, 3), sight_of(worth[::-1], 2, 3)
    values = np.zeros(6)
    (one,), (other,) = (curves(s, [orders(values, s.seen, 7)], steps=6) for s in (forward, backward))
    assert one.deletion_auc == pytest.approx(other.deletion_auc, abs=1e-12)
    assert one.deletion_auc == pytest.approx(0.5, abs=1e-12)


def test_flips_of_tied_patches_are_a_share():
    """Half of the answer's worth hangs on patch 1, tied with patch 3: hidden first in one of two orders."""
    sight = sight_of([0.1, 0.6, 0.2, 0.1])
    flips = answer_flips(sight, [orders(np.array([0, 1.0, 0.5, 1.0]), sight.seen), np.array([1, 0, 2, 3])], share=0.25)
    assert flips.tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("budget", "regions", "expected"),
    [
        (Budget(4), 8, [0, 0.25, 0.5, 0.75, 1]),
        (Budget(64), 4, [0, 0.25, 0.5, 0.75, 1]),
        (Budget(step=2), 8, [0, 0.25, 0.5, 0.75, 1]),
        (Budget(step=3), 8, [0, 3 / 8, 6 / 8, 1]),
        (Budget(step=9), 8, [0, 1]),
        (Budget(step=0.3), 10, [0, 0.3, 0.6, 0.9, 1]),
        (Budget(step=0.1), 4, [0, 0.25, 0.5, 0.75, 1]),
        (Budget(step=0.05), 100, np.arange(21) / 20),
        (Budget(step=1.0), 8, [0, 1]),
    ],
)
def test_shares_of_a_budget(budget, regions, expected):
    np.testing.assert_allclose(budget.shares(regions), expected, atol=1e-12)


def test_one_patch_at_a_step_is_a_step_for_each_patch():
    """However 1 / n is rounded."""
    for patches in range(2, 1200):
        shares = Budget(step=1).shares(patches)
        np.testing.assert_allclose(shares * patches, np.arange(patches + 1), atol=1e-6)


def test_uneven_steps_weigh_by_their_share():
    """Three of four patches, then the last: 3/4 of the way between 1 and 0.4, then 1/4 between 0.4 and 0."""
    sight = sight_of([0.1, 0.2, 0.3, 0.4])
    (found,) = curves(sight, [np.arange(4)], budget=Budget(step=3))
    np.testing.assert_allclose(found.deletion, [1.0, 0.4, 0.0], atol=1e-12)
    assert found.deletion_auc == pytest.approx(0.75 * 0.7 + 0.25 * 0.2)
    assert found.deletion_auc == pytest.approx(area(found.shares, found.deletion))


def test_regions_are_rectangles_of_whole_patches():
    """4 x 6 patches of a picture 60 x 40: 6 regions are 2 rows and 3 columns of 2 x 2 patches."""
    sight = sight_of(np.full(24, 1 / 24), rows=4, cols=6, width=60, height=40)
    labels = Budget(regions=6).labels(sight.grid).reshape(4, 6)
    assert labels.tolist() == [[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]] * 2
    assert len(set(Budget(regions=999).labels(sight.grid))) == 24
    assert Budget().labels(sight.grid).tolist() == list(range(24))


def test_regions_are_as_square_as_the_picture_lets_them():
    """A picture four times as wide as tall: 2 rows of 8 regions, each of 2 x 2 patches."""
    sight = sight_of(np.full(64, 1 / 64), rows=4, cols=16, width=120, height=30)
    labels = Budget(regions=16).labels(sight.grid).reshape(4, 16)
    assert labels.max() == 15
    assert labels[:2, :2].tolist() == [[0, 0], [0, 0]]
    assert labels[2:, 14:].tolist() == [[15, 15], [15, 15]]


def test_a_region_goes_as_one_by_its_mean():
    """Region 0 has the highest patch and sum, region 3 the highest mean; patches of padding (12, 15) have no say."""
    values = np.zeros((4, 4))
    values[0, 0], values[2:, 2:], values[3, 3], values[3, 0] = 7.0, 2.0, 0.0, 99.0
    seen = np.ones(16, bool)
    seen[[12, 15]] = False
    sight = sight_of(np.arange(16) / 120, 4, 4, seen=seen)
    budget = Budget(regions=4)
    found = budget.orders(values, sight)
    assert found[0].tolist()[:2] == [3, 0]
    assert sorted(found[:, 2:].tolist()) == [[1, 2], [2, 1]]
    (curve,) = curves(sight, [found], budget=budget)
    assert len(curve.shares) == 5
    first, never = (10 + 11 + 14) / 120, (12 + 15) / 120  # of region 3 what was seen; what was not is never hidden
    assert curve.insertion[1] == pytest.approx(first + never)
    assert curve.deletion[1] == pytest.approx(1 - first)
    assert curve.deletion[4] == pytest.approx(never)


@pytest.mark.parametrize(
    ("step", "expected"), [("4", 4), (" 5% ", 0.05), ("12.5%", 0.125), ("100%", 1.0), (None, None)]
)
def test_a_step_in_words(step, expected):
    found = Budget.parsed(8, step).step
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("step", ["0", "-1", "0%", "101%", "half", "", "1.5", "nan%"])
def test_a_step_that_is_none_is_refused(step):
    with pytest.raises(RelevancyError, match="step"):
        Budget.parsed(8, step)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"regions": 1}])
def test_a_budget_of_nothing_is_refused(wrong):
    with pytest.raises(RelevancyError, match="at least 1 step and 2 regions"):
        Budget(**wrong)

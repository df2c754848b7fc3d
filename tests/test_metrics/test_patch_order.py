"""Which patch goes first, and areas under what follows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from relevancy.geometry import Grid
from relevancy.metrics.patch_order import DRAWS, area, first_of, mean_of, order, orders, random_order, seen, singly


def test_the_most_relevant_goes_first():
    among = np.array([True, True, False, True])
    assert order(np.array([[0.1, 3.0], [9.0, 2.0]]), among).tolist() == [1, 3, 0]


def test_what_is_no_number_goes_last():
    assert order(np.array([np.nan, -5.0, 1.0]), np.ones(3, bool)).tolist() == [2, 1, 0]


def test_equal_patches_come_in_a_drawn_order():
    drawn = {tuple(order(np.zeros(6), np.ones(6, bool), seed)) for seed in range(20)}
    assert len(drawn) > 10
    assert all(sorted(one) == list(range(6)) for one in drawn)


def test_equal_patches_come_in_another_order_for_each_picture():
    """One order for all would make a map that says nothing as good or bad as that one order is."""
    drawn = {tuple(order(np.zeros(6), np.ones(6, bool), [3, picture])) for picture in range(20)}
    assert len(drawn) > 10


def test_few_ties_give_every_order():
    """0.5 twice: both ways round, the patch that is no number last, the one that saw padding nowhere."""
    values, among = np.array([0.5, 0.9, np.nan, 0.5, 0.7]), np.array([True, True, True, True, False])
    assert sorted(orders(values, among).tolist()) == [[1, 0, 3, 2], [1, 3, 0, 2]]
    assert orders(np.array([3.0, 1.0, 2.0]), np.ones(3, bool)).tolist() == [[0, 2, 1]]
    pairs = orders(np.array([1.0, 2.0, 1.0, 2.0]), np.ones(4, bool))
    assert sorted(pairs.tolist()) == [[1, 3, 0, 2], [1, 3, 2, 0], [3, 1, 0, 2], [3, 1, 2, 0]]


@pytest.mark.parametrize("shift", [0, 2])
def test_many_ties_stand_in_their_middle_on_average_wherever_they_are_in_the_array(shift):
    """Places of the three highest, then of six equals: 3 to 8, mean 5.5 of each, as over all 720 orders."""
    values = np.roll([1.0] * 6 + [9, 8, 7], shift)
    found = orders(values, np.ones(9, bool), 5)
    assert len(found) == DRAWS
    places = found.argsort(1)
    assert {tuple(order) for order in places[:, values > 1]} == {tuple(np.argsort(np.argsort(-values))[values > 1])}
    np.testing.assert_allclose(places[:, values == 1].mean(0), 5.5)
    assert len({tuple(one) for one in found}) == DRAWS
    assert (orders(values, np.ones(9, bool), 5) == found).all()
    assert (orders(values, np.ones(9, bool), 6) != found).any()


def test_a_mean_is_of_a_maps_own_orders():
    single, begins = singly([np.array([1, 0]), np.array([[0, 1], [1, 0], [1, 0]])])
    assert [one.tolist() for one in single] == [[1, 0], [0, 1], [1, 0], [1, 0]]
    values = np.array([[1.0, 5.0], [2.0, 0.0], [4.0, 0.0], [6.0, 3.0]])
    assert mean_of(values, begins).tolist() == [[1, 5], [4, 1]]


@given(arrays(np.float32, 20, elements=st.floats(-10, 10, width=32)), st.integers(0, 99))
def test_orders_are_falling_and_whole(values, seed):
    ordered = order(values, np.ones(20, bool), seed)
    assert sorted(ordered) == list(range(20))
    assert (np.diff(values[ordered]) <= 0).all()
    assert sorted(random_order(np.ones(20, bool), seed)) == list(range(20))


def test_shares_become_whole_patches():
    chosen = first_of(np.array([2, 0, 1, 3]), [0, 0.25, 0.5, 0.6, 1], 5)
    assert chosen.sum(1).tolist() == [0, 1, 2, 2, 4]
    assert chosen[2].tolist() == [True, False, True, False, False]


def test_area_by_hand():
    assert area([0, 0.5, 1], np.array([1.0, 0.5, 0.0])) == pytest.approx(0.5)
    assert area([0, 0.25, 1], np.array([1.0, 0.2, 0.2])) == pytest.approx(0.25 * 0.6 + 0.75 * 0.2)
    assert area([0.5, 1], np.array([0.3, 0.3])) == pytest.approx(0.3)


def test_padding_is_not_seen():
    grid = Grid(40, 30, np.linspace(-10, 50, 7), np.linspace(0, 30, 4))
    assert seen(grid).reshape(3, 6).tolist() == [[False, True, True, True, True, False]] * 3

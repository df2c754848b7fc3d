"""Which patch goes first, and areas under what follows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from relevancy.geometry import Grid
from relevancy.metrics.patch_order import area, first_of, order, random_order, seen


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

"""Maps against masks: cases worked by hand, other people's code, and chance for a random map."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from relevancy.geometry import Grid
from relevancy.metrics.localization import energy, iou, nss, otsu, pointing, pointing_patch, rank_accuracy, recovery

HEAT = np.array([[4.0, 3.0], [1.0, 0.0]])
MASK = np.array([[True, False], [True, False]])


def test_by_hand():
    assert pointing(HEAT, MASK) == 1
    assert pointing(HEAT, ~MASK) == 0
    assert energy(HEAT, MASK) == pytest.approx(5 / 8)
    assert rank_accuracy(HEAT, MASK) == pytest.approx(1 / 2)
    assert iou(HEAT, MASK) == pytest.approx(1 / 3)  # {4, 3} against {4, 1}
    assert nss(HEAT, MASK) == pytest.approx((2.5 - 2) / np.sqrt(2.5))


def test_equal_peaks_count_in_part():
    heat = np.array([[1.0, 1.0], [1.0, 0.0]])
    assert pointing(heat, MASK) == pytest.approx(2 / 3)
    assert rank_accuracy(heat, MASK) == pytest.approx(2 / 3)


GRID = Grid(4, 4, np.linspace(0, 4, 3), np.linspace(0, 4, 3))  # 2 x 2 patches of 2 x 2 pixels


def test_recovery_by_hand():
    """Six pixels: four of patch 0 and two of patch 1. Of the two best patches, 0 and 3, four are covered."""
    mask = np.zeros((4, 4), bool)
    mask[:2, :3] = True
    assert recovery(np.array([[4.0, 1.0], [0.0, 2.0]]), GRID, mask, 0.5) == pytest.approx(4 / 6)
    assert recovery(np.array([[1.0, 4.0], [0.0, 2.0]]), GRID, mask, 0.25) == pytest.approx(2 / 6)
    assert recovery(np.array([[1.0, 4.0], [0.0, 2.0]]), GRID, mask, 0.05) == pytest.approx(2 / 6)  # one patch at least
    assert recovery(np.array([[1.0, 4.0], [0.0, 2.0]]), GRID, mask, 0.51) == pytest.approx(1)  # rounded up
    assert recovery(np.array([[-1.0, -4.0], [0.0, 2.0]]), GRID, mask, 0.75) == pytest.approx(4 / 6)


def test_recovery_of_tied_patches_is_the_mean_over_their_orders():
    """Patch 3 surely, and one of the tied 0, 1 and 2, which cover 4, 2 and 0 of the six pixels."""
    mask = np.zeros((4, 4), bool)
    mask[:2, :3] = True
    assert recovery(np.array([[1.0, 1.0], [1.0, 2.0]]), GRID, mask, 0.5) == pytest.approx((4 + 2 + 0) / 3 / 6)


def test_recovery_is_a_slow_count_over_pixels():
    """Patches of 8 x 6 pixels, each pixel given to its patch; ties by every order of the tied."""
    rng = np.random.default_rng(0)
    grid = Grid(48, 24, np.linspace(0, 48, 7), np.linspace(0, 24, 5))
    for _ in range(20):
        mask, values = rng.random((24, 48)) < 0.3, rng.integers(0, 6, (4, 6)).astype(float)
        covered = mask.reshape(4, 6, 6, 8).sum((1, 3)).ravel()
        flat, size = values.ravel(), 5  # 20 % of 24, rounded up
        drawn = [np.lexsort((rng.random(24), -flat))[:size] for _ in range(4000)]
        slow = np.mean([covered[one].sum() for one in drawn]) / mask.sum()
        assert recovery(values, grid, mask, 0.2) == pytest.approx(slow, abs=0.01)


def test_recovery_knows_padding_and_parts_of_pixels():
    """The first column saw padding: not among the best, and no patch fewer; edges lie within pixels."""
    grid = Grid(3, 2, np.array([-1.5, 0.0, 1.5, 3.0]), np.array([0.0, 2.0]))
    mask = np.array([[True, True, False], [True, True, False]])
    assert recovery(np.array([[9.0, 2.0, 1.0]]), grid, mask, 0.5) == pytest.approx(3 / 4)
    assert recovery(np.array([[9.0, 1.0, 2.0]]), grid, mask, 0.5) == pytest.approx(1 / 4)
    assert np.isnan(recovery(np.array([[9.0, 1.0, 1.0]]), grid, mask))
    assert np.isnan(recovery(np.array([[0.0, 1.0, 2.0]]), grid, np.zeros((2, 3), bool)))
    assert np.isnan(recovery(np.array([[0.0, np.nan, 2.0]]), grid, mask))


def test_recovery_is_of_what_the_model_looked_at():
    """A crop: the first column of pixels lies outside, with half of the mask."""
    grid = Grid(3, 1, np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0]))
    assert recovery(np.array([[2.0, 1.0]]), grid, np.array([[True, True, False]]), 0.5) == pytest.approx(1)


def test_five_percent_of_twenty_patches_are_one():
    grid = Grid(20, 1, np.arange(21.0), np.array([0.0, 1.0]))
    mask = np.arange(20)[None] < 4
    assert recovery(-np.arange(20.0)[None], grid, mask) == pytest.approx(1 / 4)


def test_what_speaks_against_has_no_mass():
    assert energy(np.array([[2.0, -7.0], [0.0, 2.0]]), MASK) == pytest.approx(1 / 2)
    assert np.isnan(energy(np.array([[-2.0, -7.0], [-1.0, -2.0]]), MASK))


def test_unseen_pixels_have_no_part():
    heat = np.array([[4.0, 3.0, np.nan], [1.0, 0.0, np.nan]])
    mask = np.array([[True, False, True], [True, False, True]])
    for metric in (pointing, energy, rank_accuracy, iou, nss):
        assert metric(heat, mask) == pytest.approx(metric(HEAT, MASK))


@pytest.mark.parametrize("metric", [pointing, energy, rank_accuracy, iou, nss])
def test_nothing_to_say(metric):
    assert np.isnan(metric(HEAT, np.zeros((2, 2), bool)))
    assert np.isnan(metric(np.ones((2, 2)), MASK))
    assert np.isnan(metric(np.array([[np.inf, 1], [0, 0]]), MASK))


def test_otsu_parts_two_heaps():
    values = np.concatenate([np.full(30, 1.0), np.full(10, 5.0)])
    assert 1 < otsu(values) < 5
    assert otsu(values) == pytest.approx(3, abs=0.05)


def test_otsu_is_opencvs():
    cv2 = pytest.importorskip("cv2")
    values = np.random.default_rng(0).normal([60, 150], [12, 25], (4000, 2)).clip(0, 255).round().astype(np.uint8)
    theirs, _ = cv2.threshold(values, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    assert otsu(values.ravel().astype(float)) == pytest.approx(theirs, abs=2)


@given(arrays(np.float64, (6, 7), elements=st.floats(0, 5)), arrays(bool, (6, 7)))
def test_ranges(heat, mask):
    for metric in (pointing, energy, rank_accuracy, iou):
        value = metric(heat, mask)
        assert np.isnan(value) or 0 <= value <= 1 + 1e-12


def test_a_random_map_is_at_chance():
    rng = np.random.default_rng(0)
    mask = np.zeros((20, 20), bool)
    mask[4:12, 5:15] = True
    found = np.array(
        [[m(heat, mask) for m in (pointing, energy, rank_accuracy, nss)] for heat in rng.random((2000, 20, 20))]
    )
    error = 4 * found.std(0) / np.sqrt(len(found))
    assert (np.abs(found.mean(0) - [0.2, 0.2, 0.2, 0.0]) < error).all()


def test_the_highest_patch_points_with_its_middle():
    grid = Grid(20, 30, np.array([0.0, 10, 20, 30]), np.array([0.0, 10, 20, 30]))  # the last column saw padding
    mask = np.zeros((30, 20), bool)
    mask[8:18, 2:8] = True  # most of it in the second row, and a strip of the first
    values = np.array([[3.0, 1, 9], [2, 0, 9], [0, 0, 9]])
    assert pointing_patch(values, grid, mask) == 0
    assert pointing_patch(values + np.array([[0, 0, 0], [5, 0, 0], [0, 0, 0]]), grid, mask) == 1
    assert pointing_patch(values + np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]]), grid, mask) == 0.5
    small = np.zeros_like(mask)
    small[0, 0] = True  # seen, and smaller than any patch
    assert pointing_patch(values, grid, small) == 0
    assert np.isnan(pointing_patch(np.ones((3, 3)), grid, small))
    assert np.isnan(pointing_patch(values, grid, np.zeros_like(mask)))


def test_a_random_map_points_as_often_as_the_mask_is_large_wherever_it_lies():
    grid = Grid(80, 80, np.linspace(0, 80, 11), np.linspace(0, 80, 11))
    rng = np.random.default_rng(0)
    for place in (slice(0, 16), slice(32, 48)):  # in a corner, and in the middle
        mask = np.zeros((80, 80), bool)
        mask[place, place] = True
        found = np.array([pointing_patch(values, grid, mask) for values in rng.random((20_000, 10, 10))])
        assert abs(found.mean() - 0.04) < 4 * found.std() / np.sqrt(len(found))

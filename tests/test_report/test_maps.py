"""Numbers of maps against slow loops and cases worked by hand."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from relevancy.report.maps import NOTHING, SIDE, Truth, divergence, entropy, masses, on_raster, top_mass
from relevancy.report.source import ExportSource
from relevancy.report.truth import Truths

positive = st.floats(0, 1000, width=32)


def slow_entropy(values):
    total = sum(values)
    shares = [value / total for value in values if value > 0]
    return -sum(share * math.log(share) for share in shares) / math.log(len(values))


def test_an_even_map_and_a_map_of_one_patch():
    mass = masses(np.array([[2.0] * 25, [0.0] * 24 + [7.0]]))
    np.testing.assert_allclose(entropy(mass), [1, 0], atol=1e-12)
    np.testing.assert_allclose(top_mass(mass), [0.1, 1])


def test_the_top_tenth_of_25_cells_is_two_and_a_half_of_them():
    values = np.arange(25.0)[None]
    assert top_mass(masses(values))[0] == pytest.approx((24 + 23 + 22 / 2) / 300)


@pytest.mark.parametrize("cells", [2, 9, 16, 25, 36, 57, 576])
def test_the_top_tenth_has_as_much_as_it_has_when_each_cell_is_cut_into_ten(cells):
    """Where a tenth is no whole number of cells, the next cell counts in part, whichever way it would be rounded."""
    values = np.random.default_rng(cells).permutation(np.arange(1.0, cells + 1)) ** 2
    cut = np.sort(np.repeat(values / 10, 10))[::-1]
    assert top_mass(masses(values[None]))[0] == pytest.approx(cut[:cells].sum() / values.sum())


@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 30)), elements=positive))
def test_concentration_equals_loops_and_stays_between_its_ends(maps):
    mass = masses(maps)
    for values, spread, top in zip(maps.astype(float), entropy(mass), top_mass(mass), strict=True):
        if values.sum() == 0:
            assert np.isnan([spread, top]).all()
            continue
        assert spread == pytest.approx(slow_entropy(values), abs=1e-9)
        assert -1e-12 <= spread <= 1 + 1e-12
        assert 0.1 - 1e-9 <= top <= 1 + 1e-9


def test_negative_values_count_as_nothing_and_what_is_no_number_has_no_concentration():
    mass = masses(np.array([[-3.0, 1, 1, 0], [np.nan, 1, 1, 1], [0, 0, 0, 0], [-1, -1, -1, -1]]))
    np.testing.assert_array_equal(mass[0], [0, 0.5, 0.5, 0])
    assert np.isnan(mass[1:]).all()
    assert np.isnan(entropy(mass)[1:]).all()


def test_a_raster_keeps_what_lies_on_the_picture():
    edges = np.linspace(0, 24, 4 + 1)
    maps = masses(np.random.default_rng(0).uniform(size=(3, 16)))
    raster = on_raster(maps, edges, edges, 24, 24).reshape(3, SIDE, SIDE)
    np.testing.assert_allclose(raster.sum((1, 2)), 1)
    cells = raster.reshape(3, 4, SIDE // 4, 4, SIDE // 4).sum((2, 4)).reshape(3, 16)
    np.testing.assert_allclose(cells, maps)


def test_a_raster_cuts_off_what_lies_beside_the_picture():
    x, y = np.array([-10.0, 0, 10]), np.array([0.0, 10])  # the left cell saw padding
    (raster,) = on_raster(np.array([[0.75, 0.25]]), x, y, 10, 10).reshape(1, SIDE, SIDE)
    np.testing.assert_allclose(raster, 1 / SIDE**2)


def test_divergence_by_hand_and_against_scipy():
    one, other = np.array([[1.0, 0, 0], [0.5, 0.5, 0]]), np.array([[0.0, 0, 1], [0.5, 0.5, 0]])
    np.testing.assert_allclose(divergence(one, other), [1, 0], atol=1e-12)
    half = divergence(np.array([[1.0, 0]]), np.array([[0.5, 0.5]]))[0]
    assert half == pytest.approx((math.log2(4 / 3) + (0.5 * math.log2(2 / 3) + 0.5 * math.log2(2))) / 2)
    distance = pytest.importorskip("scipy.spatial.distance")
    maps = masses(np.random.default_rng(1).uniform(size=(2, 50)))
    assert divergence(maps[:1], maps[1:])[0] == pytest.approx(distance.jensenshannon(*maps, base=2) ** 2)
    assert np.isnan(divergence(np.full((1, 2), np.nan), np.array([[0.5, 0.5]])))


def slow_meeting(values, x, y, mask):
    """Pixel by pixel: values (rows, cols), a mask (height, width), edges in pixels."""
    height, width = mask.shape
    on_truth = everything = 0.0
    seen = []
    for row in range(len(y) - 1):
        for col in range(len(x) - 1):
            inside = [
                mask[py, px]
                for py in range(height)
                for px in range(width)
                if y[row] <= py < y[row + 1] and x[col] <= px < x[col + 1]
            ]
            if not inside:
                continue
            seen += inside
            on_truth += values[row, col] * np.mean(inside)
            everything += values[row, col]
    return on_truth / everything, np.mean(seen)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_energy_equals_a_loop_over_pixels(seed):
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.integers(6, 20, 2))
    x = np.sort(rng.choice(np.arange(-4, width + 4), 4, replace=False)).astype(float)
    y = np.sort(rng.choice(np.arange(-4, height + 4), 4, replace=False)).astype(float)
    values, mask = rng.uniform(0.1, 1, (3, 3)), rng.uniform(size=(height, width)) < 0.4
    found = Truth.of_mask(mask, width, height).met_by(values, x, y)
    if found is NOTHING:
        assert x[-1] <= 0 or x[0] >= width or y[-1] <= 0 or y[0] >= height or not mask.any() or np.isnan(found.energy)
        return
    energy, chance = slow_meeting(values, x, y, mask)
    assert found.energy == pytest.approx(energy)
    assert found.energy_chance == pytest.approx(chance)


@pytest.mark.parametrize(
    ("kept", "boxes", "area", "unreadable"),
    [
        ({}, [[0.25, 0.5, 0.75, 1.0]], 20 * 10, 0), ({"boxes": "pixels"}, [[0.25, 0.5, 0.75, 1.0]], 0.25, 0),
        ({}, [[90, 90, 99, 99]], None, 1), ({"boxes": "pixels"}, [[90, 90, 99, 99]], None, 1), ({}, None, None, 0),
    ],
)  # fmt: skip
def test_boxes_of_older_exports_and_boxes_outside_of_the_picture(tmp_path, kept, boxes, area, unreadable):
    truths = Truths(ExportSource(tmp_path, kept, (), {}))
    lines = pa.RecordBatch.from_pylist(
        [{"boxes": boxes, "mask": None}],
        schema=pa.schema({"boxes": pa.list_(pa.list_(pa.float64())), "mask": pa.string()}),
    )
    found = truths.of(lines, 0, 40, 20)
    assert truths.unreadable == unreadable
    if area is None:
        assert found is None
    else:
        assert (found.inside * np.outer(np.diff(found.y), np.diff(found.x))).sum() == area


def test_boxes_are_a_mask_whose_overlap_counts_once():
    boxes, mask = [[2, 1, 6, 5], [4, 3, 30, 8]], np.zeros((10, 12), bool)
    mask[1:5, 2:6] = mask[3:8, 4:12] = True
    edges = np.linspace(0, 12, 4), np.linspace(0, 10, 6)
    values = np.random.default_rng(2).uniform(size=(5, 3))
    by_boxes = Truth.of_boxes(boxes, 12, 10).met_by(values, *edges)
    by_mask = Truth.of_mask(mask, 12, 10).met_by(values, *edges)
    for one, other in zip(vars(by_boxes).values(), vars(by_mask).values(), strict=True):
        assert one == pytest.approx(other)


def test_pointing_by_hand():
    edges = np.linspace(0, 40, 5)
    truth = Truth.of_boxes([[10, 10, 20, 30]], 40, 40)  # the cells (1, 1) and (2, 1)
    values = np.zeros((4, 4))
    values[1, 1] = 3
    assert truth.met_by(values, edges, edges).pointing == 1
    values[3, 3] = 3  # a second peak, beside it
    assert truth.met_by(values, edges, edges).pointing == 0.5
    values[0, 0] = 4
    found = truth.met_by(values, edges, edges)
    assert (found.pointing, found.pointing_chance) == (0, 2 / 16)
    assert found.energy == pytest.approx(3 / 10)
    assert found.energy_chance == pytest.approx(200 / 1600)


def test_a_peak_on_padding_is_not_taken():
    x, y = np.array([-10.0, 0, 10]), np.array([0.0, 10])
    found = Truth.of_boxes([[0, 0, 5, 10]], 10, 10).met_by(np.array([[9.0, 1.0]]), x, y)
    assert found.energy == pytest.approx(0.5)
    assert found.pointing == 0  # the middle of the cell that saw the picture lies on the box's border


@pytest.mark.parametrize("values", [np.zeros((4, 4)), np.full((4, 4), np.nan)])
def test_an_empty_map_meets_nothing(values):
    edges = np.linspace(0, 40, 5)
    assert Truth.of_boxes([[0, 0, 9, 9]], 40, 40).met_by(values, edges, edges) is NOTHING


def test_truth_beside_the_picture_is_nothing_to_meet():
    edges = np.linspace(0, 40, 5)
    assert Truth.of_boxes([[50, 50, 60, 60]], 40, 40).met_by(np.ones((4, 4)), edges, edges) is NOTHING

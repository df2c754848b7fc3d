"""Agreement of maps on cases worked by hand, and on maps of different grids."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
from test_explanation import explanation

from relevancy.errors import RelevancyError
from relevancy.explanations.agreement import (
    MEANINGS,
    Agreement,
    _jensen_shannon,
    _ranks,
    _top_overlap,
    agreement,
    spearman,
)
from relevancy.explanations.explanation import Explanation
from relevancy.geometry import Grid


def mapped(values, **changes) -> Explanation:
    """A result whose map, of any number of patches, covers the whole picture."""
    image_map = np.asarray(values, dtype=np.float32)
    rows, cols = image_map.shape
    grid = Grid(40, 30, np.linspace(0, 40, cols + 1), np.linspace(0, 30, rows + 1))
    return explanation(image_map=image_map, grid=grid, **changes)


RANDOM = np.random.default_rng(0).random((6, 8))


def test_a_map_agrees_with_itself_and_with_its_multiple():
    first = mapped(RANDOM)
    for other in (first, mapped(3 * RANDOM)):
        found = agreement(first, other)
        assert found.rank_correlation == pytest.approx(1)
        assert found.top_overlap == 1
        assert found.divergence == pytest.approx(0, abs=1e-9)
        assert found.same_answer


def test_maps_of_different_grids_are_compared_on_the_picture():
    coarse = mapped([[1.0, 2, 3, 4]])
    fine = mapped(np.repeat(np.linspace(1, 4, 20)[None], 5, axis=0))
    assert agreement(coarse, fine).rank_correlation > 0.99
    assert agreement(coarse, mapped(fine.image_map[:, ::-1])).rank_correlation < -0.99


def test_every_pixel_of_a_small_picture_is_compared():
    one, other = mapped(RANDOM), mapped(RANDOM[::-1, ::-1] ** 2)
    maps = [each.heatmap().astype(np.float64).ravel() for each in (one, other)]
    found = agreement(first=one, second=other)
    assert found.rank_correlation == pytest.approx(spearman(*maps), abs=1e-12)
    assert found.divergence == pytest.approx(_jensen_shannon(*maps), abs=1e-12)


def test_only_what_both_saw_is_compared():
    """Two crops of one ramp agree wherever they overlap; what lies beside does not count."""
    left = explanation(image_map=[[1.0, 2]], grid=Grid(40, 30, np.array([0.0, 15, 30]), np.array([0.0, 30])))
    right = explanation(image_map=[[1.0, 2]], grid=Grid(40, 30, np.array([10.0, 25, 40]), np.array([0.0, 30])))
    assert agreement(left, right).rank_correlation > 0.9
    apart = explanation(image_map=[[1.0, 2]], grid=Grid(40, 30, np.array([31.0, 35, 40]), np.array([0.0, 30])))
    assert math.isnan(agreement(left, apart).rank_correlation)


def test_disjoint_maps_share_nothing():
    one, other = np.array([1.0, 3, 0, 0]), np.array([0.0, 0, 2, 2])
    assert _jensen_shannon(one, other) == pytest.approx(1)
    # (1, 0) against (1/2, 1/2): half of log2(4/3) and half of (log2(2/3) + log2 2) / 2
    expected = (math.log2(4 / 3) + (math.log2(2 / 3) + math.log2(2)) / 2) / 2
    assert _jensen_shannon(np.array([1.0, 0]), np.array([1.0, 1])) == pytest.approx(expected)


def test_for_and_against_never_meet():
    against = np.array([-1.0, -3, 0, 0])
    assert _jensen_shannon(against, against) == pytest.approx(0)
    assert _jensen_shannon(against, -against) == pytest.approx(1)
    mixed = explanation(image_map=[[-1.0, -2]])
    assert agreement(mixed, mixed).divergence == pytest.approx(0)
    # (1/2 for, 1/2 against) and (1 for) on one place: as (1/2, 1/2) and (1, 0)
    expected = (math.log2(4 / 3) + (math.log2(2 / 3) + math.log2(2)) / 2) / 2
    assert _jensen_shannon(np.array([1.0, -1]), np.array([1.0, 0])) == pytest.approx(expected)


def test_ranks_share_ties():
    assert _ranks(np.array([5.0, 1, 5, 2])).tolist() == [2.5, 0, 2.5, 1]
    assert spearman(np.array([1.0, 2, 3]), np.array([10.0, 5, 1])) == pytest.approx(-1)


def test_top_overlap_counts_the_most_relevant_share():
    one = np.arange(20.0)
    other = one.copy()
    other[[19, 0]] = other[[0, 19]]
    assert _top_overlap(one, other) == 0.5
    assert _top_overlap(one, other, 0.2) == 0.75
    swapped = RANDOM.copy()
    swapped[0, 0], swapped[5, 7] = 10, 20
    turned = swapped.copy()
    turned[0, 0], turned[5, 7] = 20, 10
    assert agreement(mapped(swapped), mapped(turned), top=0.001).top_overlap < 0.5
    assert agreement(mapped(swapped), mapped(turned), top=1).top_overlap == 1
    assert agreement(mapped(swapped), mapped(swapped), top=1e-9).top_overlap == 1  # of one place at least


def spot(row, col, level=0.0, value=1.0):
    values = np.full((6, 8), level)
    values[row, col] = value
    return mapped(values)


@pytest.mark.parametrize("level", [0.0, 0.3, 1 / 7])
def test_small_peaks_that_never_meet_have_nothing_in_common(level):
    """Most of the picture is equally irrelevant: which of it fills up the tenth is nobody's choice."""
    assert agreement(spot(0, 0, level), spot(5, 7, level)).top_overlap == 0
    assert agreement(spot(0, 0, level), spot(0, 0, level, 5)).top_overlap == 1


def test_ties_share_the_room_that_is_left():
    one, other = np.zeros(40), np.zeros(40)
    one[:8] = 1  # the tenth is 4: half of each
    other[4:12] = 2
    assert _top_overlap(one, one) == 1
    assert _top_overlap(one, other) == pytest.approx(4 * 0.5 / 4)
    assert _top_overlap(one, np.arange(40.0)[::-1]) == pytest.approx(4 * 0.5 / 4)
    for number in range(5):  # in whatever order the pixels come
        mixed = np.random.default_rng(number).permutation(40)
        assert _top_overlap(one[mixed], other[mixed]) == pytest.approx(0.5)
    small = np.zeros(40)
    small[0] = 1
    assert _top_overlap(small, np.arange(40.0)[::-1]) == pytest.approx(1 / 4)
    assert _top_overlap(-small, -small) == 1


@pytest.mark.parametrize(
    "values", [np.zeros((6, 8)), np.full((6, 8), np.nan), np.ones((6, 8)), np.full((6, 8), 0.1), np.full((6, 8), 1 / 7)]
)
def test_an_empty_map_agrees_with_nothing_and_says_so(values):
    found = agreement(mapped(RANDOM), mapped(values))
    assert all(math.isnan(number) for number in (found.rank_correlation, found.top_overlap, found.divergence))
    assert "nothing to compare" in found.summary()


def test_answers_and_shares_of_both_are_kept():
    one = mapped(RANDOM, model="a", answer="Yes", shares={"image": 0.2, "text": 0.7, "first_token": 0.1})
    other = mapped(RANDOM, model="b", answer="yes", shares={"image": 0.5, "text": 0.5, "first_token": 0.0})
    found = agreement(one, other)
    assert found.models == ("a", "b")
    assert (found.image_shares, found.text_shares) == ((0.2, 0.5), (0.7, 0.5))
    assert found.same_answer
    assert not agreement(one, replace(other, answer="No")).same_answer


def test_every_number_has_its_line_of_explanation():
    assert (
        MEANINGS.keys()
        == {"rank_correlation", "top_overlap", "divergence"}
        <= vars(Agreement)["__annotations__"].keys()
    )
    found = agreement(mapped(RANDOM, model="a"), mapped(RANDOM, model="b"))
    assert found.summary() == (
        "a and b: rank correlation 1.00, the same 100% of their most relevant tenth, divergence 0.00 of 1 bit"
    )


def test_refusals():
    with pytest.raises(RelevancyError, match="different sizes"):
        agreement(mapped(RANDOM), mapped(RANDOM, image=tiny.picture(41, 30)))
    with pytest.raises(RelevancyError, match="top is a share"):
        agreement(mapped(RANDOM), mapped(RANDOM), top=0)

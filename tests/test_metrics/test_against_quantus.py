"""Maps against masks as Quantus scores them: the same numbers, and where not, why. Compared with Quantus 0.6.0."""

import importlib

import numpy as np
import pytest

from relevancy.metrics.localization import energy, pointing, rank_accuracy

pytestmark = pytest.mark.engines("quantus")

RNG = np.random.default_rng(1)
POSITIVE = RNG.random((8, 12, 12))
SIGNED = RNG.normal(size=(8, 12, 12))
PATCHES = np.kron(RNG.random((8, 3, 3)), np.ones((4, 4)))  # each patch's pixels are equal: ties
MASKS = np.zeros((8, 12, 12), bool)
for number, each in enumerate(MASKS):
    each[number : number + 4, 2:7] = True


def theirs(name, heat, **options):
    metric = getattr(importlib.import_module("quantus"), name)(disable_warnings=True, **options)
    batch = {"x_batch": heat[:, None], "a_batch": heat[:, None], "s_batch": MASKS[:, None]}
    return np.asarray(metric(model=None, y_batch=np.zeros(len(heat), int), **batch), float).ravel()


def ours(metric, heat):
    return [metric(*pair) for pair in zip(heat, MASKS, strict=True)]


@pytest.mark.parametrize("options", [{}, {"normalise": False, "abs": False}])
@pytest.mark.parametrize(
    ("name", "metric", "heat"),
    [
        ("PointingGame", pointing, POSITIVE),
        ("PointingGame", pointing, SIGNED),
        ("RelevanceRankAccuracy", rank_accuracy, POSITIVE),
        ("RelevanceRankAccuracy", rank_accuracy, SIGNED),
        ("RelevanceMassAccuracy", energy, POSITIVE),
        ("RelevanceMassAccuracy", energy, PATCHES),
        ("AttributionLocalisation", energy, POSITIVE),
        ("AttributionLocalisation", energy, PATCHES),
    ],
)
def test_the_same_numbers(name, metric, heat, options):
    np.testing.assert_allclose(ours(metric, heat), theirs(name, heat, **options), atol=1e-9)


def test_of_equal_peaks_quantus_takes_any_and_we_take_the_share():
    """A patch that touches the mask with one pixel wins Quantus's game; here it wins in part, as chance would."""
    mine, other = np.array(ours(pointing, PATCHES)), theirs("PointingGame", PATCHES)
    np.testing.assert_array_equal(other, mine > 0)
    assert (mine < other).any()


def test_of_equal_pixels_at_the_cut_quantus_takes_some_and_we_take_the_share():
    mine, other = np.array(ours(rank_accuracy, PATCHES)), theirs("RelevanceRankAccuracy", PATCHES)
    assert np.abs(mine - other).max() > 1e-3
    shuffled = []
    for _ in range(300):  # which of equal pixels come first is chance: its mean is ours
        ties = 1e-9 * RNG.random(PATCHES.shape)
        shuffled.append(theirs("RelevanceRankAccuracy", PATCHES + ties))
    np.testing.assert_allclose(mine, np.mean(shuffled, 0), atol=0.02)


def test_quantus_divides_by_what_speaks_against():
    """Its mass accuracy sums signed numbers, so that a share may lie outside 0 to 1; here only positive ones count."""
    assert not ((theirs("RelevanceMassAccuracy", SIGNED) >= 0) & (theirs("RelevanceMassAccuracy", SIGNED) <= 1)).all()
    clipped = np.clip(SIGNED, 0, None)
    np.testing.assert_allclose(ours(energy, SIGNED), theirs("RelevanceMassAccuracy", clipped), atol=1e-9)

"""Maps that look at nothing."""

import numpy as np
import pytest
import tiny

from relevancy.metrics.explainers import centre_maps, random_maps
from relevancy.models.model import wrap


@pytest.fixture
def model():
    return wrap(*tiny.FAMILIES["gemma-clip"](), name="tiny")


def test_the_blob_is_the_same_for_every_picture_and_highest_in_the_middle(model):
    """4 x 4 patches of a square picture: middles at 1/8, 3/8, 5/8, 7/8, and a quarter of the side for one deviation."""
    pictures = [tiny.picture(64, 64, seed=seed) for seed in range(2)]
    first, second = centre_maps()(model, pictures, ["a", "b"], ["c", "d"])
    line = np.exp(-(((np.array([1, 3, 5, 7]) / 8 - 0.5) / 0.25) ** 2) / 2)
    np.testing.assert_allclose(first.image_map, np.outer(line, line), rtol=1e-6)
    np.testing.assert_array_equal(first.image_map, second.image_map)
    assert (first.method, first.question, second.question) == ("centre", "a", "b")


def test_the_blob_lies_in_the_middle_of_the_picture_not_of_what_the_model_sees(model):
    wide = centre_maps()(model, [tiny.picture(96, 64)], ["a"], None)[0]
    heat = wide.heatmap()
    seen = np.nan_to_num(heat, nan=-1)
    y, x = np.unravel_index(seen.argmax(), seen.shape)
    assert abs(x - 48) <= 96 / 4
    assert abs(y - 32) <= 64 / 4
    np.testing.assert_allclose(wide.image_map, wide.image_map[::-1, ::-1], rtol=1e-5)


def test_noise_is_another_each_time(model):
    maps = random_maps(3)(model, [tiny.picture()] * 2, ["a", "a"], None)
    assert (maps[0].image_map != maps[1].image_map).any()
    again = random_maps(3)(model, [tiny.picture()] * 2, ["a", "a"], None)
    np.testing.assert_array_equal(maps[1].image_map, again[1].image_map)

"""Infidelity and max-sensitivity, against captum called by hand."""

import numpy as np
import pytest
import tiny

from relevancy.metrics.controls import Asked
from relevancy.metrics.explainers import explainer_of, random_maps
from relevancy.metrics.fidelity import infidelity, max_sensitivity
from relevancy.metrics.forcing import Said, Sight
from relevancy.models import wrap

pytest.importorskip("captum", reason="captum is not installed: its metrics are not tested")


@pytest.fixture(scope="module")
def model(built):
    return wrap(*built["gemma-clip"], name="tiny")


def test_what_hiding_takes_is_the_truest_map(model):
    """With one patch hidden at a time, the map of single drops has no infidelity; noise has some."""
    sight = Sight(model, tiny.picture(), "Where is the dog?", Said.words(model, "left"))
    read = sight.hiding(np.concatenate([np.zeros((1, 16), bool), np.eye(16, dtype=bool)])).probability
    drops = read[0] - read[1:]
    true = infidelity(sight, drops.reshape(4, 4), share=1 / 16)
    noise = infidelity(sight, np.random.default_rng(0).random((4, 4)), share=1 / 16)
    assert true == pytest.approx(0, abs=1e-9)
    assert noise > 100 * true


def test_sensitivity_tells_a_still_map_from_noise(model):
    asked = Asked([tiny.picture()], ["Where is the dog?"], ["left"])

    def still(model, images, questions, answers, /):
        return [one for image in images for one in random_maps(1)(model, [image], questions[:1], answers)]

    arguments = (model, asked.images[0], asked.questions[0], "left")
    assert max_sensitivity(still, *arguments, samples=3) == 0
    assert max_sensitivity(random_maps(), *arguments, samples=3) > 0.3
    assert 0 < max_sensitivity(explainer_of(), *arguments, samples=3) < 10

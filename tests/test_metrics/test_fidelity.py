"""Infidelity and max-sensitivity: none for maps that must have none, much for noise."""

import numpy as np
import pytest
import tiny
import torch

from relevancy.metrics.explainers import explainer_of, random_maps
from relevancy.metrics.fidelity import infidelity, max_sensitivity
from relevancy.metrics.sanity_checks import Asked
from relevancy.metrics.teacher_forcing import GivenAnswer, TeacherForcing
from relevancy.models.model import wrap

pytest.importorskip("captum", reason="captum is not installed: its metrics are not tested")


@pytest.fixture(scope="module")
def model(built):
    return wrap(*built["gemma-clip"], name="tiny")


def test_what_hiding_takes_is_the_truest_map(model):
    """With one patch hidden at a time, the map of single drops has no infidelity; noise has some."""
    sight = TeacherForcing(model, tiny.picture(), "Where is the dog?", GivenAnswer.words(model, "left"))
    read = sight.hiding(np.concatenate([np.zeros((1, 16), bool), np.eye(16, dtype=bool)])).probability
    drops = read[0] - read[1:]
    true = infidelity(sight, drops.reshape(4, 4), share=1 / 16)
    noise = infidelity(sight, np.random.default_rng(0).random((4, 4)), share=1 / 16)
    assert true == pytest.approx(0, abs=1e-9)
    assert noise > 100 * true


def test_infidelity_equals_a_loop_over_single_sets(model):
    """Yeh et al. 2019, definition 2.1, with the map scaled by what fits best: captum and this loop share no code."""
    sight = TeacherForcing(model, tiny.picture(), "Where is the dog?", GivenAnswer.words(model, "left"))
    image_map = np.random.default_rng(1).random((4, 4)) - 0.3
    rng = np.random.default_rng(3)
    pairs = []
    whole = sight.hiding(np.zeros((1, 16), bool)).probability[0]
    for _ in range(20):
        hidden = np.zeros((1, 16), bool)
        hidden[0, rng.choice(16, 4, replace=False)] = True
        pairs.append((image_map.ravel()[hidden[0]].sum(), whole - sight.hiding(hidden).probability[0]))
    told, taken = np.array(pairs).T
    scale = (told * taken).mean() / (told**2).mean()
    expected = ((scale * told - taken) ** 2).mean()
    assert infidelity(sight, image_map, samples=20, seed=3) == pytest.approx(expected, rel=1e-3)


def test_sensitivity_equals_a_loop_over_noisy_pictures(model):
    """Yeh et al. 2019, definition 3.1: the largest change of the map, in its own length."""
    picture, explainer = tiny.picture(), explainer_of()
    pixels = torch.from_numpy(np.asarray(picture, np.float32) / 255)

    def image_map(colors):
        given = (colors.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        return explainer(model, [given], ["Where is the dog?"], ["left"])[0].image_map

    torch.manual_seed(0)
    noise = torch.empty(3, *pixels.shape).uniform_(-0.02, 0.02)
    own = image_map(pixels)
    changes = [np.linalg.norm(image_map(pixels + each) - own) / np.linalg.norm(own) for each in noise]
    torch.manual_seed(0)
    found = max_sensitivity(explainer, model, picture, "Where is the dog?", "left", samples=3)
    assert found == pytest.approx(max(changes), rel=1e-3)


def test_sensitivity_tells_a_still_map_from_noise(model):
    asked = Asked([tiny.picture()], ["Where is the dog?"], ["left"])

    def still(model, images, questions, answers, /):
        return [one for image in images for one in random_maps(1)(model, [image], questions[:1], answers)]

    arguments = (model, asked.images[0], asked.questions[0], "left")
    assert max_sensitivity(still, *arguments, samples=3) == 0
    assert max_sensitivity(random_maps(), *arguments, samples=3) > 0.3
    assert 0 < max_sensitivity(explainer_of(), *arguments, samples=3) < 10

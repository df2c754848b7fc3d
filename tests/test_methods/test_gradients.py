"""Input x gradient against finite differences, Grad-CAM against a forward pass put together by hand."""

import numpy as np
import pytest
import tiny
import torch
from by_hand import ByHand

from relevancy.explanations.explain import explain
from relevancy.models.model import wrap

QUESTION = "What color is the ball?"
STEP = 3e-3  # Gemma takes its norms in float32 whatever the type: a smaller one would drown in rounding


@pytest.fixture(scope="module")
def exact():
    """In float64, so that finite differences lose as little as they can."""
    hf, processor = tiny.gemma_clip()
    return wrap(hf.double(), processor, name="exact")


@pytest.fixture
def case(exact, picture):
    return ByHand(exact, picture, QUESTION)


def test_input_gradient_is_the_slope_along_each_embedding(exact, case, picture):
    found = explain(exact, picture, QUESTION, method="input-gradient", max_new_tokens=1)
    expected = []
    with torch.no_grad():
        for token in range(case.embeddings.shape[1]):
            moved = torch.zeros_like(case.embeddings)
            moved[:, token] = STEP * case.embeddings[:, token]
            slope = case.score(case.embeddings + moved) - case.score(case.embeddings - moved)
            expected.append(float(slope) / (2 * STEP))
    np.testing.assert_allclose(found.relevance, expected, rtol=1e-3, atol=2e-4)
    assert (found.relevance < 0).any()
    assert sum(found.shares.values()) == pytest.approx(1)
    sizes = np.abs(found.relevance.astype(np.float64))
    assert found.shares["image"] == pytest.approx(sizes[found.is_image].sum() / sizes.sum())
    assert any("negative" in note for note in found.notes)


def test_input_gradient_in_full_is_the_slope_along_each_patch_of_pixels(exact, case, picture):
    found = explain(exact, picture, QUESTION, method="input-gradient", scope="full", max_new_tokens=1)
    pixels = case.inputs["pixel_values"]
    side = tiny.PATCH_SIZE
    for row, col in ((0, 0), (1, 3), (3, 2)):
        moved = torch.zeros_like(pixels)
        block = (..., slice(row * side, (row + 1) * side), slice(col * side, (col + 1) * side))
        moved[block] = STEP * pixels[block]
        with torch.no_grad():
            slope = case.score(case.embed(pixels + moved)) - case.score(case.embed(pixels - moved))
        assert found.image_map[row, col] == pytest.approx(float(slope) / (2 * STEP), rel=1e-3, abs=2e-4)
    words = explain(exact, picture, QUESTION, method="input-gradient", max_new_tokens=1)
    np.testing.assert_allclose(found.relevance, words.relevance, rtol=1e-5)


def test_gradcam_weighs_what_the_connector_reads(exact, case, picture):
    features = case.features(case.inputs["pixel_values"]).requires_grad_()
    (slopes,) = torch.autograd.grad(case.score(case.embed(case.inputs["pixel_values"], features)), [features])
    weights = slopes.mean(1)
    cam = torch.einsum("bpc,bc->bp", features.detach(), weights).clamp(min=0)[0]
    found = explain(exact, picture, QUESTION, method="gradcam", max_new_tokens=1)
    np.testing.assert_allclose(found.image_map.ravel(), cam, rtol=1e-4, atol=1e-9)
    assert found.image_map.any()
    assert not found.relevance[~found.is_image].any()
    assert any("picture only" in note for note in found.notes)

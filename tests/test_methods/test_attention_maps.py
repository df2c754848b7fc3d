"""Attention as the methods take it, tile by tile, against the model's own eager maps and plain matrix products."""

import numpy as np
import pytest
import tiny
import torch
from by_hand import ByHand

from relevancy.errors import RelevancyError
from relevancy.explanations.explain import explain
from relevancy.models.model import wrap

QUESTION = "Is the duck floating? (a) Yes (b) No"


@pytest.fixture
def model(pair):
    return wrap(*pair, name="tiny")


@pytest.fixture
def case(model, picture):
    return ByHand(model, picture, QUESTION)


def close(found: np.ndarray, expected: torch.Tensor, bound: float = 2e-5) -> bool:
    wanted = expected.detach().double().numpy()
    return found.shape == wanted.shape and np.abs(found - wanted).max() <= bound * np.abs(wanted).max()


def test_attention_is_the_mean_of_the_positions_rows(model, case, picture):
    maps, _ = case.attentions()
    rows = torch.stack([layer[0, :, -1].mean(0) for layer in maps])
    found = explain(model, picture, QUESTION, method="attention", max_new_tokens=2)
    assert close(found.relevance, rows.mean(0))
    assert close(found.image_map.ravel(), rows.mean(0)[case.places])
    assert float(found.relevance.sum()) == pytest.approx(1, rel=1e-5)
    some = explain(model, picture, QUESTION, method="attention", layers=[0, -1], max_new_tokens=2)
    assert close(some.relevance, rows[[0, -1]].mean(0))
    last = explain(model, picture, QUESTION, method="attention-last", max_new_tokens=2)
    assert close(last.relevance, rows[-1])
    second = explain(model, picture, QUESTION, method="attention-last", layers=[0, 1], max_new_tokens=2)
    assert close(second.relevance, rows[1])


@pytest.mark.parametrize("layers", [None, [0, 2]])
@pytest.mark.parametrize("budget", [None, 4000])
def test_rollout_is_the_product_of_whole_matrices(model, case, picture, layers, budget, monkeypatch):
    if budget is not None:
        monkeypatch.setattr("relevancy.core.attention._CPU_TILE_BYTES", budget)
    maps, _ = case.attentions()
    state = torch.eye(maps[0].shape[-1], dtype=torch.float64)
    for number, layer in enumerate(maps):
        if layers is None or number in layers:
            mixed = layer[0].double().mean(0) + torch.eye(len(state))
            state = mixed / mixed.sum(-1, keepdim=True) @ state
    found = explain(model, picture, QUESTION, method="rollout", layers=layers, max_new_tokens=2)
    assert close(found.relevance, state[-1])


def test_attention_gradient_is_the_positive_part_of_the_product(model, case, picture):
    maps, logits = case.attentions()
    slopes = torch.autograd.grad(logits.max(), maps)
    rows = torch.stack(
        [(layer * slope).clamp(min=0)[0, :, -1].mean(0) for layer, slope in zip(maps, slopes, strict=True)]
    )
    found = explain(model, picture, QUESTION, method="attention-gradient", max_new_tokens=2)
    assert close(found.relevance, rows.mean(0), 1e-4)
    some = explain(model, picture, QUESTION, method="attention-gradient", layers=[1, 2], max_new_tokens=2)
    assert close(some.relevance, rows[1:].mean(0), 1e-4)


def test_a_layer_that_there_is_not_is_refused(built, picture):
    gemma = wrap(*built["gemma-clip"])
    for method in ("attention", "attention-last", "rollout", "attention-gradient"):
        with pytest.raises(RelevancyError, match="0 to 2"):
            explain(gemma, picture, QUESTION, method=method, layers=[7])


def test_half_precision_attention_is_taken_in_float32(picture):
    hf, processor = tiny.gemma_clip()
    model = wrap(hf.bfloat16(), processor)
    found = explain(model, picture, QUESTION, method="attention", max_new_tokens=1)
    assert float(found.relevance.sum()) == pytest.approx(1, rel=1e-5)  # a softmax in bfloat16 misses by 1e-3

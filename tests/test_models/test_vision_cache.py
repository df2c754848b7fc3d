"""Towers with the same weights run once, and only those; their features are the same bits."""

import copy
from contextlib import suppress

import pytest
import tiny
import torch
from observers import Runs, tower

from relevancy.models.model import Model, wrap
from relevancy.models.vision_cache import VisionCache, identity


@pytest.fixture
def pair_with_one_tower() -> tuple[Model, Model]:
    """A Gemma and a Llama that see through towers of the same weights, each its own copy."""
    first, other = tiny.gemma_clip(), tiny.llama_clip()
    tower(other[0]).load_state_dict(tower(first[0]).state_dict())
    return wrap(*first, name="first"), wrap(*other, name="other")


def features(model: Model, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(model.model.model.get_image_features(pixels).pooler_output)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(1, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, generator=torch.Generator().manual_seed(3))


def test_the_second_model_gets_the_first_ones_features(pair_with_one_tower, pixels):
    first, other = pair_with_one_tower
    alone = [features(model, pixels) for model in pair_with_one_tower]
    memory, runs, others = VisionCache(), Runs(first), Runs(other)
    given = []
    for model in pair_with_one_tower * 2:
        with memory.shared(model), torch.no_grad():
            given.append(model.model.model.get_image_features(pixels))
    assert (runs.count, others.count) == (1, 0)
    for found, expected in zip(given, alone * 2, strict=True):  # each connector's result stayed with its own model
        assert torch.equal(torch.cat(found.pooler_output), expected)


@pytest.mark.parametrize("what", ["picture", "weight", "setting", "attention", "memory"])
def test_anything_else_runs_on_its_own(pair_with_one_tower, pixels, what):
    first, other = pair_with_one_tower
    memory, seen = VisionCache(), pixels
    with memory.shared(first):
        features(first, pixels)
    match what:
        case "picture":
            seen = pixels + 1e-6
        case "weight":
            with torch.no_grad():
                tower(other.model).encoder.layers[1].mlp.fc1.weight[3, 5] += 1e-6
        case "setting":
            tower(other.model).config.layer_norm_eps = 1e-6
        case "attention":
            tower(other.model).set_attn_implementation("eager")
        case "memory":
            memory = VisionCache()
    runs = Runs(other)
    expected = features(other, seen)
    with memory.shared(other):
        assert torch.equal(features(other, seen), expected)
    assert runs.count == 2


def test_two_feature_layers_of_one_tower_are_two_runs(pair_with_one_tower, pixels):
    first, other = pair_with_one_tower
    other.model.config.vision_feature_layer = -1
    expected = features(other, pixels)
    memory = VisionCache()
    with memory.shared(first):
        features(first, pixels)
    with memory.shared(other):
        assert torch.equal(features(other, pixels), expected)


def test_an_identity_follows_the_weights(pair_with_one_tower, monkeypatch):
    first, other = pair_with_one_tower
    assert identity(first) == identity(other)
    weight = tower(first.model).encoder.layers[0].mlp.fc1.weight
    middle = weight.reshape(-1)[weight.numel() // 2]
    with torch.no_grad():
        middle += 1
    changed = identity(first)
    assert changed != identity(other)
    weight.data.reshape(-1)[weight.numel() // 2] += 1  # torch does not count this one
    assert identity(first) not in (changed, identity(other))
    tower(first.model).load_state_dict(tower(other.model).state_dict())
    assert identity(first) == identity(other)


@pytest.mark.parametrize("place", [0, -1, 7])
def test_an_identity_follows_any_weight_that_is_changed_in_place(pair_with_one_tower, place):
    """Not only the one that is looked at: torch counts the changes of every tensor."""
    first, other = pair_with_one_tower
    assert identity(first) == identity(other)
    weights = list(tower(first.model).parameters())
    with torch.no_grad():
        weights[place].reshape(-1)[place] += 1
    changed = identity(first)
    assert changed != identity(other)
    with torch.no_grad():
        weights[place].reshape(-1)[place] -= 2
    assert identity(first) not in (changed, identity(other))


def test_weights_are_read_once(pair_with_one_tower, monkeypatch):
    first, _ = pair_with_one_tower
    found = identity(first)

    def fail(_):
        raise AssertionError("read again")

    monkeypatch.setattr("relevancy.models.vision_cache.digest_of", fail)
    assert identity(first) == found


def test_gradients_are_never_cut(pair_with_one_tower, pixels):
    """Where weights ask for gradients, features carry them, and are not handed on."""
    first, other = pair_with_one_tower
    memory = VisionCache()
    for model in (first, other):
        with memory.shared(model):
            torch.cat(model.model.model.get_image_features(pixels).pooler_output).sum().backward()
        assert tower(model.model).embeddings.patch_embedding.weight.grad is not None


def test_towers_with_code_of_their_own_or_weights_elsewhere_are_not_shared(pair_with_one_tower, pixels):
    first, other = pair_with_one_tower

    class Adapted(torch.nn.Linear):
        """Not torch's own."""

    layer = tower(first.model).encoder.layers[0].mlp
    adapted = Adapted(layer.fc1.in_features, layer.fc1.out_features)
    adapted.load_state_dict(layer.fc1.state_dict())
    layer.fc1 = adapted
    assert identity(first) is None
    tower(other.model).to("meta")
    assert identity(other) is None
    runs = Runs(first)
    memory = VisionCache()
    for _ in range(2):
        with memory.shared(first):
            features(first, pixels)
    assert runs.count == 2


@pytest.mark.parametrize("fails", [False, True])
def test_the_tower_is_given_back(pair_with_one_tower, fails):
    first, other = pair_with_one_tower
    tower(other.model).forward = own = copy.copy(tower(other.model).forward)
    for model in (first, other):
        with suppress(KeyError), VisionCache().shared(model):
            assert "forward" in vars(tower(model.model))
            assert tower(model.model).forward is not own
            if fails:
                raise KeyError
    assert "forward" not in vars(tower(first.model))
    assert tower(other.model).forward is own

"""Which tower tokens image tokens come from: found by gradients through connectors of every kind."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from relevancy.core import seeds
from relevancy.core.seeds import Seeds, measured
from relevancy.errors import RelevancyError

WIDTH = 6


def reordered(features: Tensor) -> Tensor:
    order = torch.randperm(features.shape[1], generator=torch.Generator().manual_seed(2))
    return features[:, order].flatten(0, 1)


def without_class_token(features: Tensor) -> Tensor:
    return features[:, 1:].flatten(0, 1)


def merged_by_blocks(features: Tensor) -> Tensor:
    images, tokens, width = features.shape
    side = int(tokens**0.5)
    blocks = features.view(images, side // 2, 2, side // 2, 2, width).mean((2, 4))
    return blocks.flatten(0, 2)


def with_newlines(features: Tensor) -> Tensor:
    newline = torch.ones(len(features), 1, features.shape[2], dtype=features.dtype)
    return torch.cat([features, newline], 1).flatten(0, 1)


def twice(features: Tensor) -> Tensor:
    return torch.cat([features, features.flip(1)], 1).flatten(0, 1)


def interpolated(features: Tensor) -> Tensor:
    images, tokens, width = features.shape
    side = int(tokens**0.5)
    square = features.transpose(1, 2).view(images, width, side, side)
    return nn.functional.interpolate(square, size=(3, 3), mode="bilinear").flatten(2).transpose(1, 2).flatten(0, 1)


def padded_pictures(features: Tensor) -> Tensor:
    return features[:1].flatten(0, 1)


def one_for_each_picture(features: Tensor) -> Tensor:
    return features.mean(1)


CONNECTORS: list[Callable[[Tensor], Tensor]] = [
    reordered, without_class_token, merged_by_blocks, with_newlines, twice, interpolated, padded_pictures,
    one_for_each_picture,
]  # fmt: skip


def passed(connect: Callable[[Tensor], Tensor], images: int = 2, tokens: int = 16) -> tuple[Tensor, Tensor]:
    """A tower's last layer and the image tokens that a connector makes of it."""
    torch.manual_seed(0)
    layer = torch.randn(images, tokens, WIDTH, dtype=torch.float64, requires_grad=True)
    mixed = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)).double()
    return layer, connect(mixed(layer))


def truth(layer: Tensor, embeddings: Tensor) -> Tensor:
    """(tower tokens, image tokens) of 0 and 1, one gradient for each image token."""
    columns = []
    for embedding in embeddings:
        (found,) = torch.autograd.grad(
            embedding.square().sum() + embedding.sum(), layer, retain_graph=True, allow_unused=True
        )
        columns.append((found.abs().sum(-1) > 0).flatten() if found is not None else torch.zeros(layer[..., 0].numel()))
    return torch.stack(columns, 1).double()


@pytest.mark.parametrize(
    ("connect", "tokens"),
    [*((connect, 16) for connect in CONNECTORS), (twice, 400)],  # the last is so large that groups are asked about
    ids=[*(connect.__name__ for connect in CONNECTORS), "twice, large"],
)
def test_pairs_are_those_that_single_gradients_find(connect, tokens):
    layer, embeddings = passed(connect, tokens=tokens)
    expected = truth(layer, embeddings)
    seed = measured([layer], embeddings, "a model")
    found = torch.zeros_like(expected)
    found[seed.tower, seed.image] = 1
    assert torch.equal(found, expected)
    values = torch.rand(len(embeddings), dtype=torch.float64)
    assert torch.allclose(seed.placed(values).flatten(), expected @ values)
    row = torch.rand(layer.shape[:2], dtype=torch.float64)
    owned = expected.sum(1, keepdim=True)
    assert torch.allclose(seed.gathered(row), (expected / owned.clamp(min=1)).T @ row.flatten())
    assert seed.gathered(row).sum() == pytest.approx(float(row.flatten()[owned[:, 0] > 0].sum()))


def test_image_tokens_that_each_read_the_whole_picture_are_refused():
    def resampled(features: Tensor) -> Tensor:
        return (features.mean(1, keepdim=True) * torch.arange(1.0, 5)[:, None]).flatten(0, 1)

    layer, embeddings = passed(resampled)
    with pytest.raises(RelevancyError, match="each of its image tokens is made of the whole picture"):
        measured([layer], embeddings, "a model")


def test_layers_after_the_last_that_is_used_are_passed_over():
    layer, embeddings = passed(reordered)
    vain = layer * 2
    assert torch.equal(measured([layer, vain], embeddings, "a model").tower, measured([layer], embeddings, "x").tower)
    with pytest.raises(RelevancyError, match="No gradient goes from a model's image tokens"):
        measured([vain], embeddings, "a model")
    with pytest.raises(RelevancyError, match="No gradient goes"):
        measured([layer], embeddings.detach(), "a model")


def test_a_form_of_inputs_is_measured_once(monkeypatch):
    calls = []
    real = seeds.measured
    monkeypatch.setattr(seeds, "measured", lambda *arguments: calls.append(1) or real(*arguments))
    kept, model = Seeds(), nn.Linear(1, 1)
    layer, embeddings = passed(reordered)
    inputs = {"input_ids": torch.zeros(1, 9), "grid": torch.tensor([[1, 4, 4]]), "pixel_values": torch.rand(2, 3)}
    kept.of(model, [layer], embeddings, inputs)
    kept.of(model, [layer], embeddings, inputs | {"input_ids": torch.ones(1, 9), "pixel_values": torch.rand(2, 3)})
    assert len(calls) == 1
    kept.of(model, [layer], embeddings, inputs | {"grid": torch.tensor([[1, 2, 8]])})
    kept.of(model, [layer], embeddings, inputs | {"pixel_values": torch.rand(2, 4)})
    kept.of(nn.Linear(1, 1), [layer], embeddings, inputs)
    assert len(calls) == 4

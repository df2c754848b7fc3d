"""A model with part of its weights replaced by random ones, for a while: what parameter randomisation needs."""

from __future__ import annotations

__all__ = ["randomised", "stages"]

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from relevancy.errors import RelevancyError
from relevancy.models.hooks import connector_of
from relevancy.models.model import Model

Way = Literal["cascading", "independent"]


def blocks(model: Model) -> dict[str, list[nn.Module]]:
    """The model from its output to its input, in the order in which a cascade randomises it.

    Each decoder layer from the last to the first ("decoder 3", ...), the connector, the tower's layers as one.
    """
    whole = model.model
    decoder, tower = whole.get_decoder(), whole.get_encoder(modality="image")
    layers = {f"decoder {number}": [layer] for number, layer in reversed(list(enumerate(decoder.layers)))}
    stacks = [part for part in tower.modules() if isinstance(part, nn.ModuleList)]
    parts: dict[str, list[nn.Module]] = {
        "connector": _between(model, tower, decoder, stacks),
        "tower": list(stacks[:1]),
    }
    return layers | {name: found for name, found in parts.items() if found}


def _between(model: Model, tower: nn.Module, decoder: nn.Module, stacks: Sequence[nn.Module]) -> list[nn.Module]:
    """What lies between the tower's layers and the decoder, in a place of its own, beside the two, or in the tower."""
    if (connector := connector_of(model)) is not None:
        return [connector]
    whole = model.model.base_model
    ends = {tower, decoder, model.model.get_input_embeddings()}
    beside = [child for child in whole.children() if not ends.intersection(child.modules())]
    own = list(tower.children())
    layered = [place for place, child in enumerate(own) if stacks and stacks[0] in set(child.modules())]
    merging = own[layered[0] + 1 :] if layered else []
    return [part for part in (*beside, *merging) if any(True for _ in part.parameters())]


def stages(model: Model, way: Way = "cascading", names: Sequence[str] | None = None) -> dict[str, list[nn.Module]]:
    """What is random at each stage: with "cascading" a block and all before it, with "independent" the block alone.

    names: the blocks at which the cascade stops, or which are randomised alone; all by default.
    """
    every = blocks(model)
    wrong = [name for name in names or () if name not in every]
    if wrong:
        raise RelevancyError(f"There is no block {wrong[0]!r}; there are {', '.join(every)}.")
    chosen = list(every) if names is None else list(names)
    if way == "independent":
        return {name: every[name] for name in chosen}
    order = list(every)
    return {name: [part for each in order[: order.index(name) + 1] for part in every[each]] for name in chosen}


def usual_stages(model: Model) -> list[str]:
    """Where a short cascade stops: after the last decoder layer, the whole decoder, and everything."""
    every = list(blocks(model))
    decoder = [name for name in every if name.startswith("decoder")]
    return list(dict.fromkeys([decoder[0], decoder[-1], every[-1]]))


@contextmanager
def randomised(model: Model, parts: Sequence[nn.Module], seed: int = 0) -> Iterator[None]:
    """Inside, every weight in the parts is drawn anew, normal with its tensor's own mean and spread.

    Afterwards each weight is what it was, to the bit. Raises RelevancyError for quantized weights. For whoever uses the
    model alone: others would meet the random weights. Source: Adebayo et al., NeurIPS 2018.
    """
    weights = list({id(weight): weight for part in parts for weight in part.parameters()}.values())
    if any(not weight.is_floating_point() or weight.is_meta for weight in weights):
        raise RelevancyError("Randomising weights needs them whole and in memory: load without quantization.")
    before: list[torch.Tensor] = []
    with model.lock, torch.no_grad():
        try:
            for number, weight in enumerate(weights):
                before.append(weight.detach().clone())
                generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
                values = weight.float()
                spread = float(values.std()) if weight.numel() > 1 else abs(float(values.mean()))
                drawn = torch.randn(weight.shape, generator=generator) * spread + float(values.mean())
                weight.copy_(drawn)
            yield
        finally:
            for weight, old in zip(weights, before, strict=False):
                with torch.no_grad():
                    weight.copy_(old)

"""Ways to get from a model's inputs to the decoder's relevance row, and the bare forward pass beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from relevancy.benchmark.setting import Shape
from relevancy.core.patching import attention_implementation, frozen_parameters
from relevancy.core.tape import record

Inputs = Mapping[str, Any]


def forward_only(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    """The answer's first logits and nothing else: SDPA, no gradients, last position only."""
    with torch.no_grad():
        return model(**inputs, logits_to_keep=1, use_cache=False).logits


def map_row(model: PreTrainedModel, inputs: Inputs, words: Tensor | None = None) -> Tensor:
    """The map as `relevancy.record` takes it, (batch, tokens), of words (batch,), by default the likeliest."""
    with record(model) as tape:
        logits = model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
        return tape.relevance(_explained(logits, words)).language


def map_row_recomputed(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    """The map as it is taken where memory is short."""
    with record(model) as tape:
        assert tape.recomputation is not None
        tape.recomputation.always = True
        logits = model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
        return tape.relevance(_explained(logits, None)).language


def map_row_full(model: PreTrainedModel, inputs: Inputs) -> Tensor | None:
    """The same down to the tower's patches, (images, tower tokens)."""
    with record(model, "full") as tape:
        logits = model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
        return tape.relevance(_explained(logits, None)).vision


def eager_frozen(model: PreTrainedModel, inputs: Inputs, words: Tensor | None = None) -> Tensor:
    """Eager attention with its weights' gradients retained, model weights frozen, last logits only."""
    with frozen_parameters(model), attention_implementation("eager", model.get_decoder()):
        root = model.get_input_embeddings().register_forward_hook(lambda _, __, output: output.requires_grad_())
        try:
            return _eager_row(model, inputs, words, logits_to_keep=1)
        finally:
            root.remove()


def eager_weights(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    """As LVLM-Interpret does it: eager everywhere, gradients of all weights too, logits of every position."""
    try:
        with attention_implementation("eager", model):
            return _eager_row(model, inputs, None, logits_to_keep=0)
    finally:
        model.zero_grad(set_to_none=True)


def _eager_row(model: PreTrainedModel, inputs: Inputs, words: Tensor | None, logits_to_keep: int) -> Tensor:
    output = model(**inputs, logits_to_keep=logits_to_keep, output_attentions=True, use_cache=False)
    for probabilities in output.attentions:
        probabilities.retain_grad()
    _explained(output.logits[:, -1], words).sum().backward()
    relevance = torch.eye(output.attentions[0].shape[-1], device=output.logits.device)[None]
    for probabilities in output.attentions:
        layer = (probabilities * probabilities.grad).clamp(min=0).float().mean(1)
        relevance = relevance + layer @ relevance
    return relevance[:, -1].detach()


def _explained(logits: Tensor, words: Tensor | None) -> Tensor:
    return logits.max(-1).values if words is None else logits.gather(-1, words[:, None]).squeeze(-1)


RUNS: Mapping[str, Callable[[PreTrainedModel, Inputs], Any]] = {
    "forward": forward_only,
    "map": map_row,
    "map-full": map_row_full,
    "map-recomputed": map_row_recomputed,
    "eager-frozen": eager_frozen,
    "eager-weights": eager_weights,
}
PASSES: Mapping[str, float] = {
    "forward": 1,
    "map": 2,
    "map-full": 3,
    "map-recomputed": 3,
    "eager-frozen": 4,
    "eager-weights": 7,
}
"""Rough costs in forward passes, to tell beforehand how long a measurement takes."""


def bytes_beside(variant: str, shape: Shape, tokens: int, width: int) -> int:
    """A low estimate of what a variant needs beside weights of so many bytes each, to leave out what cannot fit.

    Eager attention keeps each layer's probabilities and their gradient, and has four such squares more at once.
    """
    text = shape.text
    layers = text["num_hidden_layers"]
    kept = tokens * layers * (2 * text["intermediate_size"] * width + 4 * text["hidden_size"] * 4)
    square = tokens**2 * text["num_attention_heads"] * (2 * layers + 4) * width
    logits = tokens * shape.vocabulary * 4
    return {
        "forward": 0,
        "map": kept,
        "map-full": kept,
        "map-recomputed": kept // layers,
        "eager-frozen": kept + square,
        "eager-weights": kept + square + logits + shape.parameters * width,
    }[variant]

"""The loss where the model must write, and nowhere else.

Gemma has 256,000 words: the logits of one sequence of 2,048 tokens take 2.1 GB in float32, most of them for tokens
without a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast

from relevancy.train.template import IGNORED

CHUNK = 256
"""Positions whose logits are in memory at once: 0.26 GB of Gemma's in float32."""


def supervised_loss(
    hidden: Tensor,
    labels: Tensor,
    head: Callable[[Tensor], Tensor],
    chunk: int = CHUNK,
    count: Tensor | int | None = None,
) -> Tensor:
    """Cross entropy of each label given the position before it: the sum over all labels, divided by `count`.

    hidden (batch, tokens, width), labels (batch, tokens) with IGNORED, head: (n, width) -> logits (n, words).
    count: by default the number of labels, which makes it their mean. Without any label it is 0, and has gradients of
    0. Logits are computed `chunk` positions at a time, and once more for the gradient; sums are in float32.
    """
    chosen = labels[:, 1:] != IGNORED
    states, targets = hidden[:, :-1][chosen], labels[:, 1:][chosen]
    if not len(targets):
        return _nothing(head(hidden[:, :1]))
    parts = [
        checkpoint(_summed, *part, head, use_reentrant=False, preserve_rng_state=False)
        for part in zip(states.split(chunk), targets.split(chunk), strict=True)
    ]
    number = len(targets) if count is None else count
    return torch.stack(parts).sum() / number


def _summed(states: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    return functional.cross_entropy(head(states).float(), targets, reduction="sum")


def _nothing(values: Tensor) -> Tensor:
    """Zero, with a gradient of zero for all that made the values."""
    return values.float().sum() * 0.0


@contextmanager
def lean_loss(model: PreTrainedModel, chunk: int = CHUNK, idle_tower: bool = False) -> Iterator[None]:
    """Within the block a LLaVA that is given labels returns `supervised_loss`, and no logits.

    It takes `num_items_in_batch`, as Trainer gives it. A batch without a picture leaves the connector in the graph,
    with a gradient of zero: where several processes train, they wait for each other's gradients.

    idle_tower: such a batch looks at one blank picture, before it reads. Engines that spread the weights over processes
    (FSDP, ZeRO-3) gather a layer's when it is called: on all processes in the same order, or none of them goes on.

    Begin it before anything wraps the model: the loss belongs inside its forward pass.
    """
    plain = model.forward

    @wraps(plain)
    def forward(*arguments: Any, labels: Tensor | None = None, **options: Any) -> Any:
        if labels is None:
            return plain(*arguments, **options)
        count = options.pop("num_items_in_batch", None)
        options.setdefault("use_cache", False)  # nothing is generated, and a cache would undo packing
        idle = _idle(model, idle_tower) if options.get("pixel_values") is None else 0.0
        hidden = model.model(*arguments, **options).last_hidden_state
        return LlavaCausalLMOutputWithPast(loss=supervised_loss(hidden, labels, model.lm_head, chunk, count) + idle)

    model.forward = forward
    try:
        yield
    finally:
        vars(model).pop("forward", None)


def _idle(model: PreTrainedModel, tower: bool) -> Tensor:
    connector: nn.Module = model.model.multi_modal_projector
    weight = next(connector.parameters())
    if tower:
        side = model.config.vision_config.image_size
        blank = torch.zeros(1, 3, side, side, dtype=weight.dtype, device=weight.device)
        return _nothing(torch.cat(model.model.get_image_features(pixel_values=blank).pooler_output))
    return _nothing(connector(torch.zeros(1, 1, weight.shape[-1], dtype=weight.dtype, device=weight.device)))

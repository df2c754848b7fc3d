"""What training changes inside a model's forward pass, for as long as it lasts.

All of it happens within the model's own forward, so that DDP, FSDP and DeepSpeed see it as they see any other module.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from relevancy.train.composition import scale_of
from relevancy.train.losses import lean_loss
from relevancy.train.stages import Stage


@contextmanager
def prepared(model: PreTrainedModel, stage: Stage) -> Iterator[None]:
    """Within the block the model computes what the stage asks for. Enter it before an engine wraps the model."""
    with ExitStack() as changes:
        if stage.outer_scale:
            changes.enter_context(scaled_connector(model))
        if stage.loss_chunk:
            changes.enter_context(lean_loss(model, stage.loss_chunk, idle_tower=engine() is not None))
        yield


def engine() -> str | None:
    """The engine that `accelerate launch` was told to spread weights by: "FSDP", "DEEPSPEED" or none."""
    asked = (name for name in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true")
    return next(asked, None)


@contextmanager
def scaled_connector(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the words' factor is taken out of the connector's last layer, and its output multiplied by it.

    So it was trained up to transformers 5.3, where Gemma multiplied all it was given by sqrt(hidden): at one learning
    rate the same features are reached in that many times fewer steps than with the factor inside the weights.
    Afterwards it is back in the weights, as transformers since 5.4 needs it.
    """
    connector = model.model.multi_modal_projector
    factor = scale_of(model.config)
    _multiply(connector.linear_2, 1 / factor)
    hook = connector.register_forward_hook(lambda _module, _arguments, output: output * factor)
    try:
        yield
    finally:
        hook.remove()
        _multiply(connector.linear_2, factor)


def folded(weights: dict[str, Tensor], config: PreTrainedConfig) -> dict[str, Tensor]:
    """Weights that were gathered within `scaled_connector`, with the factor in the connector's last layer."""
    last = "model.multi_modal_projector.linear_2."
    factor = scale_of(config)
    return {name: value * factor if name.startswith(last) else value for name, value in weights.items()}


@torch.no_grad()
def _multiply(linear: torch.nn.Module, factor: float) -> None:
    for parameter in linear.parameters():
        parameter.mul_(factor)

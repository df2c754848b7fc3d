"""How much memory a model takes, or will take, and whether it may stay while others come."""

from __future__ import annotations

__all__ = ["ExpectedModel", "bytes_of", "expected"]

from dataclasses import dataclass
from typing import Any

import torch

from relevancy.core.memory import free_bytes
from relevancy.models import bases, checkpoints
from relevancy.models.device import device_for, dtype_for
from relevancy.models.model import Model

ROOM = 4  # A model stays if what is free would hold one this many times its size; LLaVA-Gemma 7B is 3 times 2B.
_BITS = {"4bit": 4, "8bit": 8}


@dataclass(frozen=True)
class ExpectedModel:
    """What loading a model will take, by its files. layers: of its decoder. bytes: of its weights in memory, about."""

    device: torch.device
    layers: int
    bytes: int


def expected(
    name: str, *, device: str | None = None, dtype: str | None = None, quantization: str | None = None, **_: Any
) -> ExpectedModel | None:
    """What `load` will take with these arguments, seen without loading or fetching anything.

    None where that cannot be known before: of a model that is on the hub alone, of one that is still to be put together
    with its base, and of an adapter. Raises RelevancyError where there is no such model.
    """
    folder = checkpoints.folder_at_hand(name)
    if folder is not None and bases.needed_by(folder):
        folder = bases.joined_at_hand(folder, name)
    if folder is None or ((folder / checkpoints.ADAPTER).is_file() and not checkpoints.weight_files(folder)):
        return None
    target, parameters = device_for(device), checkpoints.parameters_in(folder, name)
    bits = _BITS[quantization] if quantization in _BITS else 8 * dtype_for(dtype, parameters, target).itemsize
    layers = checkpoints.config_of(folder, name).get_text_config().num_hidden_layers
    return ExpectedModel(target, int(layers), parameters * bits // 8)


def may_stay(model: Model) -> bool:
    """Whether its device has memory free for another model of `ROOM` times its size; no, where that is not known."""
    tensors = [*model.model.parameters(), *model.model.buffers()]
    devices = {tensor.device for tensor in tensors}
    return len(devices) == 1 and free_bytes(devices.pop()) >= ROOM * bytes_of(model)


def bytes_of(model: Model) -> int:
    """Memory of a model's weights."""
    return sum(tensor.nbytes for tensor in (*model.model.parameters(), *model.model.buffers()))

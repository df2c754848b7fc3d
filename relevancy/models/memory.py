"""How much memory a model takes, and whether it may stay while others come."""

from __future__ import annotations

from relevancy.core.memory import free_bytes
from relevancy.models.model import Model

ROOM = 4  # A model stays if what is free would hold one this many times its size; LLaVA-Gemma 7B is 3 times 2B.


def may_stay(model: Model) -> bool:
    """Whether its device has memory free for another model of `ROOM` times its size; no, where that is not known."""
    tensors = [*model.model.parameters(), *model.model.buffers()]
    devices = {tensor.device for tensor in tensors}
    return len(devices) == 1 and free_bytes(devices.pop()) >= ROOM * bytes_of(model)


def bytes_of(model: Model) -> int:
    """Memory of a model's weights."""
    return sum(tensor.nbytes for tensor in (*model.model.parameters(), *model.model.buffers()))

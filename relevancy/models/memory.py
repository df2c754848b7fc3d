"""Whether a model may stay in memory while others come."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from relevancy.models.model import Model

ROOM = 4  # A model stays if what is free would hold one this many times its size; LLaVA-Gemma 7B is 3 times 2B.
_CGROUP = Path("/sys/fs/cgroup")


def may_stay(model: Model) -> bool:
    """Whether its device has memory free for another model of `ROOM` times its size; no, where that is not known."""
    tensors = [*model.model.parameters(), *model.model.buffers()]
    devices = {tensor.device for tensor in tensors}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return len(devices) == 1 and free_bytes(devices.pop()) >= ROOM * size


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device, of this process's own limit where it has one; 0 where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return 0
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not on this system
        return 0
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return free if limit == "max" else min(free, int(limit) - int(used))
    except (OSError, ValueError):
        return free

"""Memory that is free."""

from __future__ import annotations

__all__ = ["free_bytes"]

from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """Memory that a device can still give, of this process's own limit where it has one; 0 where that is not known.

    What the system, or torch itself, holds only to be faster counts as free.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return 0
    free: int = psutil.virtual_memory().available
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        if limit == "max":
            return free
        kept = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return min(free, int(limit) - int(used) + int(kept.get("inactive_file", 0)))
    except (OSError, ValueError):
        return free

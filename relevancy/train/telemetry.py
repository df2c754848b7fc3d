"""What a training step did and what it cost: tokens and pictures per second, waiting for data, MFU, memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from relevancy.train.flops import Load, Sizes, operations, peak_of
from relevancy.train.stages import Stage
from relevancy.train.template import IGNORED


class Meter:
    """Adds up what goes by between two logs."""

    def __init__(self, stage: Stage, sizes: Sizes | None, device: torch.device, processes: int = 1):
        self.stage, self.sizes, self.device, self.processes = stage, sizes, device, processes
        self._restart()

    def _restart(self) -> None:
        self._began, self._waited, self._load = time.perf_counter(), 0.0, Load()
        self._supervised: list[Tensor] = []  # counts, left on the device until they are asked for

    def waiting(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches; the time until each comes counts as waiting for data."""
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self._waited += time.perf_counter() - began
            yield batch

    def saw(self, batches: Sequence[Mapping[str, Tensor]]) -> None:
        """Count the micro-batches of one step on this device."""
        for batch in batches:
            self._load += load_of(batch)
            if "labels" in batch:
                self._supervised.append((batch["labels"] != IGNORED).sum())

    def report(self) -> dict[str, float]:
        """Figures since the last report, of all devices together; this one's are taken for each of them."""
        span = max(time.perf_counter() - self._began, 1e-9)
        load = replace(self._load, supervised=int(sum(self._supervised)))
        each = self.processes / span
        figures = {
            "tokens_per_second": load.tokens * each,
            "supervised_tokens_per_second": load.supervised * each,
            "images_per_second": load.pictures * each,
            "data_wait": self._waited / span,
            "peak_memory_gb": _peak_memory(self.device) / 1e9,
        }
        peak = peak_of(self.device)
        if peak and self.sizes:
            figures["mfu"] = operations(load, self.sizes, self.stage) / span / peak
        self._restart()
        return figures


def load_of(batch: Mapping[str, Tensor]) -> Load:
    """What one micro-batch holds, supervised tokens aside."""
    pictures = len(batch["pixel_values"]) if batch.get("pixel_values") is not None else 0
    if "input_ids" not in batch:
        return Load(pictures=pictures)
    rows, length = batch["input_ids"].shape
    lengths = [length] * rows
    if "position_ids" in batch:  # sequences in one row, each from position 0
        starts = (batch["position_ids"].flatten() == 0).nonzero().flatten().tolist()
        lengths = [end - start for start, end in pairwise([*starts, rows * length])]
    return Load(len(lengths), sum(lengths), sum(one**2 for one in lengths), 0, pictures)


def unlabeled(batch: Mapping[str, Tensor]) -> Tensor:
    """How many of a micro-batch's sequences have no label, and so teach nothing; a number on its device."""
    if "labels" not in batch:
        return torch.zeros((), dtype=torch.long)
    labeled = batch["labels"] != IGNORED
    if "position_ids" in batch:  # sequences in one row, each from position 0
        starts = (batch["position_ids"].flatten() == 0).cumsum(0) - 1
        counts = torch.zeros(int(starts[-1]) + 1, dtype=torch.long, device=labeled.device)
        return (counts.index_add(0, starts, labeled.flatten().long()) == 0).sum()
    return (~labeled.any(1)).sum()


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the device where it counts them, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

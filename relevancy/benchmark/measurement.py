"""Times a workload's steps in turn, weighs each, and makes rows of what was found."""

from __future__ import annotations

import ctypes
import gc
import math
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
import torch

from relevancy.benchmark.random_models import random_model
from relevancy.benchmark.setting import CostPlan, CostRow, CostStep, Setting
from relevancy.benchmark.workloads import TRIALS, TimedStep, Trial
from relevancy.errors import RelevancyError
from relevancy.models.device import device_for
from relevancy.models.model import Model

Event = CostPlan | CostStep | CostRow

_MMAP_THRESHOLD = -3  # glibc's number of that setting
_EVERY = 0.002  # seconds between looks at the process's size
_GIB = 1 << 30


def measured(setting: Setting) -> Iterator[Event]:
    """Measure here and now: what is being done, as it is done, and then a row of each thing.

    Every step runs once to warm up, then `repeats` rounds of all steps in turn, so that a machine that is busy is as
    busy for all; last, each runs once more to be weighed. A step that fails, or would not fit, is told in its rows.
    Raises RelevancyError where not even the weights fit.
    """
    if setting.threads:
        torch.set_num_threads(setting.threads)
    device = str(device_for(setting.device))
    setting = replace(setting, device=device, dtype=setting.dtype or fast_dtype(device))
    dtype: torch.dtype = getattr(torch, str(setting.dtype))
    _require_room(setting, dtype)
    yield CostStep(f"making {described(setting)}")
    model = random_model(setting.shape, dtype, device, max(setting.tokens))
    yield CostStep("a first trial")
    trials = [TRIALS[setting.workload](model, setting, tokens) for tokens in setting.tokens]
    yield _planned(setting, trials)
    timings = [(tokens, _Timing(trial, device)) for tokens, trial in zip(setting.tokens, trials, strict=True)]
    # A CPU's memory is told rightly by a process that time is no longer told of; on a card rows come length by length.
    before: dict[str, CostRow] = {}
    for group in [timings] if device == "cpu" else [[one] for one in timings]:
        for tokens, timing in group:
            yield from timing.rounds(setting.repeats, f"{tokens} tokens")
        if device == "cpu":
            _give_back_at_once()
        for tokens, timing in group:
            yield from timing.weighed(f"{tokens} tokens")
            for row in timing.found(setting, tokens, model):
                yield replace(row, growth=_growth(before.get(row.variant), row))
                before[row.variant] = row


def _growth(before: CostRow | None, row: CostRow) -> float | None:
    """See `CostRow`; None where either length has no size."""
    if before is None or not before.over_forward_bytes or not row.over_forward_bytes:
        return None
    sizes, lengths = row.over_forward_bytes / before.over_forward_bytes, row.tokens / before.tokens
    return math.log(sizes) / math.log(lengths) if sizes > 0 and lengths != 1 else None


def described(setting: Setting) -> str:
    """The model, in words."""
    layers = setting.shape.text["num_hidden_layers"]
    dtype = setting.dtype or fast_dtype(setting.device)
    why = ""
    if setting.device == "cpu" and dtype == "float32":
        why = " (this CPU is not faster in bfloat16)" if fast_dtype("cpu") == "float32" else ""
    return f"{setting.size}, {layers} layers, {dtype}{why} on {setting.device}, random weights"


def fast_dtype(device: str) -> str:
    """bfloat16, or float32 on a CPU that multiplies matrices no faster in bfloat16; found out by a trial."""
    if device != "cpu":
        return "bfloat16"
    seconds: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.bfloat16) * 4:
        one = torch.ones(512, 1024, dtype=dtype)
        start = time.perf_counter()
        _ = one @ one.T
        took = time.perf_counter() - start
        seconds[dtype] = min(took, seconds.get(dtype, took))
    return "bfloat16" if seconds[torch.bfloat16] < seconds[torch.float32] else "float32"


def _planned(setting: Setting, trials: list[Trial]) -> CostPlan:
    """From the second of two forward passes at the first length; longer ones cost more than their share of it."""
    for _ in range(2):
        seconds = _timed(trials[0].steps["forward"], setting.device)[0]
    rounds = setting.repeats + 2
    passes = [sum(step.passes * (setting.repeats + 0.5 if step.warm else rounds) for step in trial.steps.values())
              for trial in trials]  # fmt: skip
    lengths = [tokens / setting.tokens[0] for tokens in setting.tokens]
    expected = seconds * sum(length * cost for length, cost in zip(lengths, passes, strict=True))
    text = f"workload {setting.workload}, {described(setting)}; bare forward pass {seconds:.2g} s"
    return CostPlan(text, expected)


class _Timing:
    """What was found of one trial."""

    def __init__(self, trial: Trial, device: str) -> None:
        self._trial, self._device = trial, device
        self._seconds: dict[str, list[float]] = {name: [] for name in trial.steps}
        self._peaks: dict[str, int] = {}
        self._told: dict[str, Any] = {}
        self._failures: dict[str, str] = {}

    def rounds(self, repeats: int, where: str) -> Iterator[CostStep]:
        """All steps in turn, so many times after a first one."""
        free = available_bytes(self._device)
        for name, step in self._trial.steps.items():
            if step.bytes > free:
                needed = f"{step.bytes / _GIB:.1f} GiB beside the weights (estimated)"
                self._failures[name] = f"needs {needed}, {free / _GIB:.1f} GiB is free"
        for number in range(repeats + 1):
            self._trial.renew()
            for name, step in self._left(here=not number):
                yield CostStep(f"{name}, {where}, " + (f"round {number} of {repeats}" if number else "warming up"))
                try:
                    seconds, told = _timed(step, self._device, warm=not number)
                except (RuntimeError, MemoryError, RelevancyError) as error:
                    self._fail(name, error)
                    continue
                if number:
                    self._seconds[name].append(seconds)
                    self._told |= told

    def weighed(self, where: str) -> Iterator[CostStep]:
        """Each step once more, for the memory it takes."""
        self._trial.renew()
        for name, step in self._left(here=True):
            yield CostStep(f"{name}, {where}, memory")
            gc.collect()
            try:
                with PeakMemory(self._device) as peak:
                    _timed(step, self._device, warm=True)
            except (RuntimeError, MemoryError, RelevancyError) as error:
                self._fail(name, error)
                continue
            self._peaks[name] = peak.bytes

    def found(self, setting: Setting, tokens: int, model: Model) -> Iterator[CostRow]:
        """A row of each thing."""
        medians = {name: statistics.median(seconds) for name, seconds in self._seconds.items() if seconds}
        base = CostRow(
            setting.workload,
            "",
            setting.size,
            tokens,
            setting.shape.text["num_hidden_layers"],
            str(setting.dtype),
            setting.device,
            repeats=setting.repeats,
            parameters=sum(parameter.numel() for parameter in model.model.parameters()),
        )
        for variant, factors in self._trial.rows.items():
            failed = next((self._failures[step] for step in factors if step in self._failures), None)
            row = replace(base, variant=variant, failure=failed)
            yield row if failed else self._filled(row, factors, medians)

    def _filled(self, row: CostRow, factors: Any, medians: dict[str, float]) -> CostRow:
        seconds = sum(factor * medians[step] for step, factor in factors.items())
        peak, bare = self._peaks.get(next(iter(factors))), self._peaks.get("forward")
        exported = "export" in factors
        return replace(
            row,
            seconds=seconds,
            x_forward=seconds / medians["forward"] if "forward" in medians else None,
            x_first=seconds / medians["first"] if "first" in medians else None,
            peak_bytes=peak,
            over_forward_bytes=None if bare is None or peak is None else peak - bare,
            rows_per_second=1 / seconds if exported else None,
            **(self._told if exported else {}),
        )

    def _left(self, *, here: bool) -> list[tuple[str, TimedStep]]:
        """Steps that have not failed; here: those in this process alone."""
        left = [(name, step) for name, step in self._trial.steps.items() if name not in self._failures]
        return [(name, step) for name, step in left if not (here and step.elsewhere)]

    def _fail(self, name: str, error: BaseException) -> None:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        self._failures[name] = lines[0]
        error.__traceback__ = None  # it would keep what did not fit
        gc.collect()
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()


def _timed(step: TimedStep, device: str, *, warm: bool = False) -> tuple[float, dict[str, Any]]:
    run = step.warm if warm and step.warm is not None else step.run
    _synchronize(device)
    start = time.perf_counter()
    told = run()
    _synchronize(device)
    seconds = time.perf_counter() - start
    told = dict(told) if isinstance(told, dict) else {}
    return told.pop("seconds", seconds), told


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


class PeakMemory:
    """The largest size, in bytes, of this process inside the block; of what torch holds on a card, where that works."""

    bytes = 0

    def __init__(self, device: str) -> None:
        self._card = device if device.startswith("cuda") else None

    def __enter__(self) -> PeakMemory:
        if self._card:
            torch.cuda.reset_peak_memory_stats(self._card)
            return self
        self._process, self._ended = psutil.Process(), threading.Event()
        self._look()
        self._looking = threading.Thread(target=self._sample, daemon=True)
        self._looking.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._card:
            self.bytes = torch.cuda.max_memory_allocated(self._card)
            return
        self._ended.set()
        self._looking.join()
        self._look()

    def _sample(self) -> None:
        while not self._ended.wait(_EVERY):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, self._process.memory_info().rss)


def _give_back_at_once() -> None:
    """From now on glibc gives freed blocks of a megabyte and more back, so that a peak counts what is in use.

    By default it keeps them for later, which is faster: time is measured before.
    """
    if sys.platform.startswith("linux"):
        system = ctypes.CDLL(None)
        if hasattr(system, "mallopt") and hasattr(system, "malloc_trim"):
            system.mallopt(_MMAP_THRESHOLD, 1_000_000)
            system.malloc_trim(0)


def available_bytes(device: str) -> int:
    """Free memory of the device, in bytes."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def _require_room(setting: Setting, dtype: torch.dtype) -> None:
    needed, free = setting.shape.parameters * dtype.itemsize, available_bytes(setting.device)
    if needed > free:
        raise RelevancyError(
            f"{setting.size} in {setting.dtype} takes {needed / _GIB:.0f} GiB at least, {free / _GIB:.0f} GiB is free "
            f"on {setting.device}: cut its depth with --layers, or choose a smaller size."
        )

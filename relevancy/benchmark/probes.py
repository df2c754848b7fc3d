"""What is asked of a device besides times: how exact maps are on it, which kernels take longest, and what it is."""

from __future__ import annotations

import copy
import platform
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.profiler import ProfilerActivity

from relevancy.benchmark.random_models import random_model, random_picture, random_question
from relevancy.benchmark.setting import CostStep, Setting
from relevancy.benchmark.variants import Inputs, eager_frozen, forward_only, map_row
from relevancy.models.device import device_for
from relevancy.models.model import Model

EXACT = 1e-5  # relative, in float32
_KERNELS = 5
_DRAWS = 24  # batches


def machine(device: str) -> Iterator[dict[str, Any]]:
    """The device and the versions. Raises RelevancyError where there is no such device."""
    chosen = device_for(device)
    card = torch.cuda.get_device_properties(chosen) if chosen.type == "cuda" else None
    yield {
        "device": card.name if card else platform.processor() or platform.machine(),
        "memory_bytes": card.total_memory if card else None,
        "cuda": torch.version.cuda if card else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def exactness(setting: Setting) -> Iterator[Any]:
    """How far the row is from eager attention's, both on the device: relative, without the position's own unit.

    Two questions of different length as one batch, so that one is padded; the largest error of `_DRAWS` batches. In
    bfloat16 the row and eager attention's are both held against that of the same weights in float32, and the errors are
    means over the batches: how two roundings of one sum compare is a matter of luck.
    """
    half = random_model(setting.shape, torch.bfloat16, setting.device, max(setting.tokens))
    full = copy.copy(half)
    full.model = copy.deepcopy(half.model).float()
    for tokens in setting.tokens:
        yield CostStep(f"{tokens} tokens")
        found = []
        for draw in range(_DRAWS):
            inputs, rough = (_padded(model, setting, tokens, draw) for model in (full, half))
            words = forward_only(full.model, inputs)[:, -1].argmax(-1)
            true, exact = (run(full.model, inputs, words) for run in (eager_frozen, map_row))
            eager, rounded = (run(half.model, rough, words) for run in (eager_frozen, map_row))
            found.append((_error(exact, true), _error(rounded, true), _error(eager, true)))
        exacts, own, others = zip(*found, strict=True)
        yield {"tokens": tokens, "dtype": "float32", "error": max(exacts), "eager_error": 0.0}
        yield {"tokens": tokens, "dtype": "bfloat16", "error": fmean(own), "eager_error": fmean(others)}


def _padded(model: Model, setting: Setting, tokens: int, draw: int) -> Inputs:
    shape = setting.shape
    questions = [random_question(model, shape, tokens - less, seed=2 * draw + less) for less in (0, 7)]
    return model.prepare([random_picture(shape, 2 * draw + place) for place in (0, 1)], questions)


def _error(row: Tensor, true: Tensor) -> float:
    own = true.clone()
    own[:, -1] -= 1
    return float((row - true).norm() / own.norm())


def profile(setting: Setting) -> Iterator[Any]:
    """The kernels (on a CPU the operators) that one map spends most time in."""
    dtype = getattr(torch, str(setting.dtype))
    model = random_model(setting.shape, dtype, setting.device, max(setting.tokens))
    on_card = setting.device.startswith("cuda")
    kinds = [ProfilerActivity.CUDA] if on_card else [ProfilerActivity.CPU]
    for tokens in setting.tokens:
        yield CostStep(f"{tokens} tokens")
        question = random_question(model, setting.shape, tokens, seed=0)
        inputs = model.prepare([random_picture(setting.shape, 0)], [question])
        map_row(model.model, inputs)
        with torch.profiler.profile(activities=kinds) as profiler:
            map_row(model.model, inputs)
            if on_card:
                torch.cuda.synchronize()
        spent = {
            event.key: (event.self_device_time_total if on_card else event.self_cpu_time_total, event.count)
            for event in profiler.key_averages()
        }
        whole = sum(microseconds for microseconds, _ in spent.values())
        for name, (microseconds, calls) in sorted(spent.items(), key=lambda one: -one[1][0])[:_KERNELS]:
            yield {
                "tokens": tokens,
                "kernel": name,
                "milliseconds": microseconds / 1000,
                "share": microseconds / whole,
                "calls": calls,
            }

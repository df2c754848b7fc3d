"""What one map costs in time and memory, beside a bare forward pass and eager attention, at true model sizes.

Weights are random: speed and memory do not depend on what a model has learned. Each variant runs in a process of
its own, so that none inherits another's memory, and results are ratios within one run.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, GemmaConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel
from transformers.initialization import no_init_weights

from relevancy.core.tape import record
from relevancy.errors import RelevancyError

# Decoder shapes of google/gemma-2b-it and google/gemma-7b-it; LLaVA-Gemma pads their vocabulary to 256,064.
SIZES: dict[str, dict[str, Any]] = {
    "2b": {
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "num_hidden_layers": 18,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 256,
    },
    "7b": {
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
    },
}
DTYPES = ("bfloat16", "float16", "float32")
_VOCABULARY, _IMAGE_TOKEN = 256_064, 256_000
# openai/clip-vit-large-patch14-336
_TOWER: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
_GIB = 1 << 30


@dataclass(frozen=True)
class Workload:
    """One measurement: which model, how long a sequence, which way of getting the map."""

    size: str
    variant: str
    tokens: int = 601
    layers: int | None = None  # decoder layers, all by default
    dtype: str = "bfloat16"
    device: str = "cpu"
    repeats: int = 3
    threads: int | None = None


@dataclass(frozen=True)
class Measurement:
    """Median seconds of one run, and the process's peak memory in bytes (of the device, where it has its own).

    heap_bytes: on a CPU the peak as the system's default allocator leaves it, its unused holes included.
    """

    setting: Workload
    seconds: float
    peak_bytes: int
    parameters: int
    heap_bytes: int = 0
    failure: str | None = None


def random_model(setting: Workload) -> LlavaForConditionalGeneration:
    """LLaVA-Gemma of true size with random weights, made in place in its final type: no copy, no slow sampling."""
    shape = dict(SIZES[setting.size])
    if setting.layers is not None:
        shape["num_hidden_layers"] = setting.layers
    text = GemmaConfig(vocab_size=_VOCABULARY, max_position_embeddings=max(8192, setting.tokens), **shape)
    config = LlavaConfig(
        text_config=text,
        vision_config=CLIPVisionConfig(**_TOWER),
        image_token_index=_IMAGE_TOKEN,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    dtype = getattr(torch, setting.dtype)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with no_init_weights(), torch.device(setting.device):
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default)
    model.tie_weights()
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).to(setting.device, dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.1)
                continue
            flat, scale = parameter.view(-1), parameter.shape[-1] ** -0.5
            for start in range(0, flat.numel(), noise.numel()):
                piece = flat[start : start + noise.numel()]
                torch.mul(noise[: piece.numel()], scale, out=piece)
    return model.eval()


def random_inputs(setting: Workload) -> dict[str, Tensor]:
    """One picture, its image tokens, and random words up to the wanted length."""
    side = _TOWER["image_size"]
    patches = (side // _TOWER["patch_size"]) ** 2
    if setting.tokens <= patches + 1:
        raise RelevancyError(f"--tokens must be more than the picture's own {patches + 1}, not {setting.tokens}.")
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(1000, 200_000, (setting.tokens - patches,), generator=generator)
    ids = torch.cat([words[:4], torch.full((patches,), _IMAGE_TOKEN), words[4:]])[None]
    pixels = torch.randn(1, 3, side, side, generator=generator)
    return {
        "input_ids": ids.to(setting.device),
        "attention_mask": torch.ones_like(ids).to(setting.device),
        "pixel_values": pixels.to(setting.device, getattr(torch, setting.dtype)),
    }


def forward_only(model: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
    """The answer's first logits and nothing else: SDPA, no gradients, last position only."""
    with torch.no_grad():
        model(**inputs, logits_to_keep=1, use_cache=False)


def engine(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """The map as `relevancy.record` takes it."""
    with record(model) as tape:
        logits = model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
        return tape.relevance(logits.max(-1).values).language


def engine_full(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor | None:
    """The same down to the tower's patches."""
    with record(model, "full") as tape:
        logits = model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
        return tape.relevance(logits.max(-1).values).vision


def eager_frozen(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """Eager attention with its weights' gradients retained, model weights frozen, last logits only."""
    model.requires_grad_(False)
    model.set_attn_implementation({"text_config": "eager"})
    root = model.get_input_embeddings().register_forward_hook(lambda _, __, output: output.requires_grad_())
    try:
        return _eager_row(model, inputs, logits_to_keep=1)
    finally:
        root.remove()


def eager_weights(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """As lvlm-interpret does it: eager everywhere, gradients of all weights too, logits of every position."""
    model.requires_grad_(True)
    model.set_attn_implementation("eager")
    try:
        return _eager_row(model, inputs, logits_to_keep=0)
    finally:
        model.zero_grad(set_to_none=True)


def _eager_row(model: PreTrainedModel, inputs: dict[str, Tensor], logits_to_keep: int) -> Tensor:
    output = model(**inputs, logits_to_keep=logits_to_keep, output_attentions=True, use_cache=False)
    for probabilities in output.attentions:
        probabilities.retain_grad()
    output.logits[:, -1].max(-1).values.sum().backward()
    tokens = output.attentions[0].shape[-1]
    relevance = torch.eye(tokens, device=output.logits.device)
    for probabilities in output.attentions:
        layer = (probabilities * probabilities.grad).clamp(min=0).float().mean(1)[0]
        relevance = relevance + layer @ relevance
    return relevance[-1]


VARIANTS: dict[str, Callable[..., Any]] = {
    "forward": forward_only,
    "engine": engine,
    "engine-full": engine_full,
    "eager-frozen": eager_frozen,
    "eager-weights": eager_weights,
}


def measure(setting: Workload) -> Measurement:
    """Run one variant here and now: a warm-up, then the median of `repeats`."""
    if setting.threads:
        torch.set_num_threads(setting.threads)
    model = random_model(setting)
    inputs = random_inputs(setting)
    run = VARIANTS[setting.variant]
    seconds = []
    for _ in range(setting.repeats + 1):
        _synchronize(setting.device)
        start = time.perf_counter()
        run(model, inputs)
        _synchronize(setting.device)
        seconds.append(time.perf_counter() - start)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Measurement(setting, statistics.median(seconds[1:] or seconds), _peak(setting.device), parameters)


def measure_apart(setting: Workload) -> Measurement:
    """`measure` in fresh processes; a variant that dies or does not fit comes back with its failure named.

    On a CPU time and memory are taken apart: memory in one more process, which gives every freed block of more than a
    megabyte back at once, so that its peak counts memory in use and not the holes of a heap. That slows it down.
    """
    needed = expected_bytes(setting)
    if needed > available_bytes(setting.device):
        return _failed(setting, f"needs about {needed / _GIB:.0f} GiB (estimated), not enough is free")
    timed = _in_process(setting, {})
    if timed.failure or setting.device != "cpu":
        return timed
    weighed = _in_process(replace(setting, repeats=0), {"MALLOC_MMAP_THRESHOLD_": "1000000"})
    return replace(timed, peak_bytes=weighed.peak_bytes, heap_bytes=timed.peak_bytes, failure=weighed.failure)


def _in_process(setting: Workload, environment: dict[str, str]) -> Measurement:
    code = "import sys; from relevancy.benchmark import _serve; _serve(sys.argv[1])"
    command = [sys.executable, "-c", code, json.dumps(asdict(setting))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    if done.returncode:
        return _failed(setting, (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1])
    return _parse(done.stdout.strip().splitlines()[-1])


def _failed(setting: Workload, why: str) -> Measurement:
    return Measurement(setting, seconds=float("nan"), peak_bytes=0, parameters=0, failure=why)


def sweep(settings: list[Workload]) -> Iterator[Measurement]:
    """Measure one setting after the other, each in its own process."""
    for setting in settings:
        yield measure_apart(setting)


def settings_for(size: str, *, tokens: tuple[int, ...], variants: tuple[str, ...], **common: Any) -> list[Workload]:
    """Every variant at every length. Raises RelevancyError for a size or variant that does not exist."""
    if size not in SIZES:
        raise RelevancyError(f"There is no size {size!r}; choose one of {', '.join(SIZES)}.")
    unknown = [variant for variant in variants if variant not in VARIANTS]
    if unknown:
        raise RelevancyError(f"There is no variant {unknown[0]!r}; choose from {', '.join(VARIANTS)}.")
    base = Workload(size, "forward", **common)
    if base.dtype not in DTYPES:
        raise RelevancyError(f"There is no dtype {base.dtype!r} here; choose from {', '.join(DTYPES)}.")
    return [replace(base, tokens=length, variant=variant) for length in tokens for variant in variants]


def expected_bytes(setting: Workload) -> int:
    """A low estimate of what a variant needs, to refuse in time what cannot fit."""
    shape = SIZES[setting.size]
    hidden, wide = shape["hidden_size"], shape["intermediate_size"]
    heads = shape["num_attention_heads"]
    layers = setting.layers if setting.layers is not None else shape["num_hidden_layers"]
    width = torch.finfo(getattr(torch, setting.dtype)).bits // 8
    attention = hidden * shape["head_dim"] * 2 * (heads + shape["num_key_value_heads"])
    decoder = layers * (3 * hidden * wide + attention)
    weights = width * (decoder + _VOCABULARY * hidden + 320_000_000)
    kept = setting.tokens * layers * (2 * wide * width + 4 * hidden * 4)
    square = setting.tokens**2 * heads * layers
    logits = setting.tokens * _VOCABULARY * 4
    extra = {
        "forward": 0,
        "engine": kept,
        "engine-full": kept,
        "eager-frozen": kept + square * 8,
        "eager-weights": weights + kept + square * 8 + logits,
    }
    return weights + extra[setting.variant]


def available_bytes(device: str) -> int:
    """Free memory of the device, in bytes."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)


def _serve(setting: str) -> None:
    measurement = measure(Workload(**json.loads(setting)))
    sys.stdout.write(json.dumps(asdict(measurement)) + "\n")


def _parse(line: str) -> Measurement:
    fields = json.loads(line)
    return Measurement(**{**fields, "setting": Workload(**fields["setting"])})


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _peak(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

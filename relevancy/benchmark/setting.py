"""What is to be measured, and a row of what was found. Nothing heavy is imported here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from relevancy.errors import RelevancyError

WORKLOADS: Mapping[str, str] = {
    "map": "one map beside a bare forward pass and eager attention",
    "question": "the next question about the same picture, in a later call and in a list",
    "token": "the next token of an answer, with target all; and all of its tokens together",
    "evidence": "what evidence costs besides the map",
    "export": "rows a second of an export, and how much of the time the model computes",
}
VARIANTS: Mapping[str, str] = {
    "forward": "a bare forward pass: SDPA, no gradients, last logits",
    "map": "the map as relevancy.record takes it",
    "map-full": "the same down to the vision tower",
    "map-recomputed": "the map where memory is short: layers keep their input and run again in backward",
    "eager-frozen": "eager attention with retained gradients, weights frozen",
    "eager-weights": "as LVLM-Interpret does it: gradients of all weights, logits of all positions",
}
DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaVA-Gemma: its decoder, its CLIP tower, and how many words it knows.

    picture: of a Qwen2.5-VL, which reads pictures at their own size: that of those it is asked about, (width, height).
    """

    text: Mapping[str, Any]
    tower: Mapping[str, Any]
    vocabulary: int
    picture: tuple[int, int] | None = None

    @property
    def patches(self) -> int:
        """Image tokens of a picture."""
        if self.picture is not None:
            return math.prod(side // (2 * self.tower["patch_size"]) for side in self.picture)  # merged two by two
        return (self.tower["image_size"] // self.tower["patch_size"]) ** 2

    def cut(self, layers: int) -> Shape:
        """With so many decoder layers; a Qwen2.5-VL has no more in its tower either, whose last one attends to all."""
        text, tower = {**self.text, "num_hidden_layers": layers}, self.tower
        if self.picture is not None and layers < tower["depth"]:
            tower = {**tower, "depth": layers, "fullatt_block_indexes": [layers - 1]}
        return replace(self, text=text, tower=tower)

    @property
    def parameters(self) -> int:
        """Of the decoder and its words, without the tower and the connector."""
        text = self.text
        heads = text["num_attention_heads"] + text["num_key_value_heads"]
        layer = text["hidden_size"] * (3 * text["intermediate_size"] + 2 * text["head_dim"] * heads)
        return text["num_hidden_layers"] * layer + self.vocabulary * text["hidden_size"]


# openai/clip-vit-large-patch14-336
_CLIP = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
# Decoders of google/gemma-2b-it and google/gemma-7b-it, whose vocabulary LLaVA-Gemma pads; Qwen/Qwen2.5-VL-3B-Instruct
# with a picture of 43 x 29 tokens; and the sizes of demo-large.
SHAPES: Mapping[str, Shape] = {
    "2b": Shape(
        {
            "hidden_size": 2048,
            "intermediate_size": 16384,
            "num_hidden_layers": 18,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "head_dim": 256,
        },
        _CLIP,
        256_064,
    ),
    "7b": Shape(
        {
            "hidden_size": 3072,
            "intermediate_size": 24576,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "head_dim": 256,
        },
        _CLIP,
        256_064,
    ),
    "qwen2.5-vl-3b": Shape(
        {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 128,
        },
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        151_936,
        (1204, 812),
    ),
    "demo": Shape(
        {
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 64,
        },
        {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "image_size": 80,
            "patch_size": 8,
            "projection_dim": 128,
        },
        640,
    ),
}


@dataclass(frozen=True)
class Setting:
    """One measurement: a workload at several lengths on one model. Raises RelevancyError for what there is not.

    tokens: of the prompt, the picture's included; 25 besides by default. layers: of the decoder, all by default. dtype:
    what is fast on the device by default. variants: of the workload map. repeats: timed rounds after one to warm up.
    answer: tokens that the workload token explains. rows, pictures: of the export; apart: it works in a process of its
    own, as exports do.
    """

    workload: str = "map"
    size: str = "2b"
    tokens: tuple[int, ...] = ()
    layers: int | None = None
    dtype: str | None = None
    device: str = "cpu"
    variants: tuple[str, ...] = ("forward", "map", "eager-frozen", "eager-weights")
    repeats: int = 3
    threads: int | None = None
    answer: int = 8
    rows: int = 24
    pictures: int = 6
    apart: bool = False

    def __post_init__(self) -> None:
        _check("workload", self.workload, WORKLOADS)
        _check("size", self.size, SHAPES)
        if self.dtype is not None:
            _check("dtype", self.dtype, DTYPES)
        for variant in self.variants:
            _check("variant", variant, VARIANTS)
        if not self.tokens:
            object.__setattr__(self, "tokens", (SHAPES[self.size].patches + 25,))
        short = [length for length in self.tokens if length < self.least_tokens]
        if short:
            raise RelevancyError(f"--tokens must be {self.least_tokens} or more at size {self.size}, not {short[0]}.")

    @property
    def shape(self) -> Shape:
        """With the number of layers that was asked for."""
        shape = SHAPES[self.size]
        return shape if self.layers is None else shape.cut(self.layers)

    @property
    def least_tokens(self) -> int:
        """The picture's, the turn's around it, and a question of two words."""
        return SHAPES[self.size].patches + 8


@dataclass(frozen=True)
class CostRow:
    """What one thing costs: medians of one run, in which the bare forward pass was measured in turn with it.

    seconds: of one. x_forward: of that in bare forward passes, x_first: in first maps, where there is such a thing.
    peak_bytes: of the process, weights included (of the device, where it has its own memory). growth: the power of the
    length with which over_forward_bytes has grown since the length measured before, 1 for linear. rows_per_second,
    busy: of an export, the latter the share of its time in which the model computes. All None where it failed, by
    `failure`.
    """

    workload: str
    variant: str
    size: str
    tokens: int
    layers: int
    dtype: str
    device: str
    seconds: float | None = None
    x_forward: float | None = None
    x_first: float | None = None
    peak_bytes: int | None = None
    over_forward_bytes: int | None = None
    growth: float | None = None
    rows_per_second: float | None = None
    busy: float | None = None
    repeats: int = 0
    parameters: int = 0
    weights: str = "random"
    failure: str | None = None


@dataclass(frozen=True)
class CostPlan:
    """What is about to be measured, in words, and how long that should take, in seconds, from a first trial."""

    text: str
    seconds: float


@dataclass(frozen=True)
class CostStep:
    """What is being done now, in words."""

    text: str


def _check(what: str, given: str, known: Any) -> None:
    if given not in known:
        raise RelevancyError(f"There is no {what} {given!r}; choose from {', '.join(known)}.")

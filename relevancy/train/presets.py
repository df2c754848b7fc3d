"""What a run is made of, as one readable value: the eight cells of the paper's grid, the demo pair, and overrides."""

from __future__ import annotations

__all__ = ["overridden", "preset"]

import hashlib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any

from relevancy.errors import RelevancyError
from relevancy.train.losses import CHUNK
from relevancy.train.stages import SettingError, Stage, check_ranges, check_types

FLAVOURS = ("improved", "paper")
_RANGES: Mapping[str, tuple[float, float]] = {
    "image_size": (1, 1 << 14),
    "feature_layer": (-1000, 1000),  # the tower's own range: `parts.check_size`
    "vocabulary_multiple": (1, 1 << 20),
    "lora_rank": (0, 1 << 16),
    "lora_alpha": (1, 1 << 20),
    "seed": (0, (1 << 32) - 1),
}


@dataclass(frozen=True)
class Preset:
    """Which decoder and tower, how they are joined, and the two stages. `align` without: connector not pretrained."""

    name: str
    language: str  # hub id or folder of a decoder, or of a LLaVA-style model whose decoder is taken
    vision: str  # the same of a tower
    image_size: int  # pixels, of the square the tower sees
    align: Stage | None
    finetune: Stage
    flavour: str = "improved"
    connector: str = ""  # a LLaVA-style model's, or an mm_projector.bin; without one it starts fresh
    feature_layer: int = -2  # of the tower, whose hidden states the connector reads
    vocabulary_multiple: int = 64  # rows of the embedding
    lora_rank: int = 0  # 0: the decoder itself trains, else adapters of this rank beside its matrices
    lora_alpha: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self, "preset")
        check_ranges(self, _RANGES, "preset")
        if self.flavour not in FLAVOURS:
            raise SettingError(f"unknown flavour {self.flavour!r}: {' or '.join(FLAVOURS)}")
        for name in ("align", "finetune"):
            stage = getattr(self, name)
            if not (isinstance(stage, Stage) and stage.name == name) and not (stage is None and name == "align"):
                raise SettingError(f"{name} is a Stage of that name, not {getattr(stage, 'name', stage)!r}")

    def stages(self) -> tuple[Stage, ...]:
        """The stages in their order."""
        return (self.finetune,) if self.align is None else (self.align, self.finetune)


_ALIGN = Stage(
    "align",
    ("connector",),
    steps=0,
    batch=256,
    learning_rate=1e-3,
    bf16=True,
    outer_scale=True,
    grouped=True,
    loss_chunk=CHUNK,
    gradient_checkpointing=True,
    save_every=250,
)
_FINETUNE = replace(_ALIGN, name="finetune", trains=("connector", "decoder"), batch=128, learning_rate=2e-5)
# As Intel's scripts for Gaudi have it: no clipping, losses averaged over micro-batches, texts and order as that code
# writes and draws them; at first pictures cut to a square, and samples in any order.
_PAPER = {
    "clip": 0.0, "token_mean": False, "gradient_checkpointing": False, "style": "authors", "grouping": "authors"
}  # fmt: skip
_PAPER_ALIGN = {"framing": "crop", "grouped": False, "gradient_checkpointing": True}
# A mean over tokens, clipped gradients, frozen parts in half the memory, whole answers only.
_IMPROVED = {"half_frozen": True, "overlong": "drop"}
_MICRO = {"2b": (16, 2), "7b": (8, 1)}  # sequences per Gaudi 2 at a time, in both stages
_TOWERS = {  # tower and its input's side, by flavour; which DINOv2 the paper took is not known, see docs/training.md
    ("clip", "paper"): ("openai/clip-vit-large-patch14-336", 336),
    ("clip", "improved"): ("openai/clip-vit-large-patch14-336", 336),
    ("dinov2", "paper"): ("facebook/dinov2-large", 224),
    ("dinov2", "improved"): ("facebook/dinov2-large", 336),
}


def _cell(size: str, tower: str, aligned: bool, flavour: str) -> Preset:
    vision, side = _TOWERS[tower, flavour]
    changes: dict[str, Any] = _PAPER if flavour == "paper" else _IMPROVED
    first, second = _MICRO[size]
    align = replace(
        _ALIGN,
        micro=first,
        **changes | (_PAPER_ALIGN if flavour == "paper" else {}),
    )
    return Preset(
        name=f"llava-gemma-{size}-{tower}{'' if aligned else '-unaligned'}",
        language=f"google/gemma-{size}-it",
        vision=vision,
        image_size=side,
        align=align if aligned else None,
        finetune=replace(_FINETUNE, micro=second, **changes),
        flavour=flavour,
    )


def _demo(name: str) -> Preset:
    """Decoder and tower of the embedded pair, a fresh connector, and data of the user's own."""
    shared: dict[str, Any] = {
        "schedule": "constant_with_warmup", "weight_decay": 0.01, "beta2": 0.98, "grouped": True, "loss_chunk": CHUNK
    }  # fmt: skip
    return Preset(
        name=name,
        language=name,
        vision=name,
        image_size=80,
        align=Stage("align", ("connector",), steps=0, batch=32, learning_rate=2e-3, **shared),
        finetune=Stage("finetune", ("connector", "decoder"), steps=0, batch=16, learning_rate=5e-4, **shared),
    )


CELLS = tuple(
    f"llava-gemma-{size}-{tower}{ending}"
    for size in ("2b", "7b")
    for tower in ("clip", "dinov2")
    for ending in ("", "-unaligned")
)
DEMOS = ("demo-small", "demo-large")


def preset(name: str, flavour: str = "improved") -> Preset:
    """A preset by its name. Raises RelevancyError."""
    if flavour not in FLAVOURS:
        raise RelevancyError(f"unknown flavour {flavour!r}: {' or '.join(FLAVOURS)}")
    if name in DEMOS and flavour == "paper":
        raise RelevancyError(f"--flavour paper: {name} has no settings of the paper's: take a llava-gemma preset")
    if name in DEMOS:
        return _demo(name)
    if name not in CELLS:
        raise RelevancyError(f"unknown preset {name!r}: one of {', '.join((*CELLS, *DEMOS))}")
    size, tower, *rest = name.removeprefix("llava-gemma-").split("-")
    return _cell(size, tower, not rest, flavour)


def overridden(value: Preset, changes: Sequence[str]) -> Preset:
    """The preset with `key=value` changes; a stage's keys are written `finetune.learning_rate=1e-5`."""
    for change in changes:
        key, mark, text = change.partition("=")
        if not mark:
            raise RelevancyError(f"--set {change}: write key=value, such as seed=1 or finetune.batch=64")
        if key.strip() == "flavour":  # a name alone would change none of what it stands for
            raise RelevancyError(f"--set {change}: say --flavour {text.strip()}")
        value = _changed(value, key.strip().split("."), text.strip(), key.strip())
    return value


def _changed(value: Any, path: list[str], text: str, key: str) -> Any:
    known = {field.name for field in fields(value)}
    if path[0] not in known:
        raise RelevancyError(f"--set {key}: {path[0]!r} is no setting; there are {', '.join(sorted(known))}")
    present = getattr(value, path[0])
    if len(path) > 1:
        if not is_dataclass(present):
            what = f"this preset has no stage {path[0]}" if present is None else f"{path[0]} has no settings of its own"
            raise RelevancyError(f"--set {key}: {what}")
        new = _changed(present, path[1:], text, key)
    else:
        new = _read(text, typing.get_type_hints(type(value))[path[0]], key)
    try:
        return replace(value, **{path[0]: new})
    except ValueError as error:
        raise RelevancyError(f"--set {key}: {error}") from error


def _read(text: str, kind: Any, key: str) -> Any:
    """Text as a value of a field's type."""
    if typing.get_origin(kind) is tuple:
        return tuple(part.strip() for part in text.split(","))
    if isinstance(kind, types.UnionType):
        if text.lower() == "none":
            return None
        raise RelevancyError(f"--set {key}: only none, or its own settings, such as {key}.batch=64")
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise RelevancyError(f"--set {key}: true or false, not {text!r}")
        return text.lower() == "true"
    if not isinstance(kind, type) or kind not in (int, float, str):
        raise RelevancyError(f"--set {key}: give its own settings, such as {key}.batch=64")
    try:
        return kind(text)
    except ValueError as error:
        raise RelevancyError(f"--set {key}: {text!r} is no {'whole ' if kind is int else ''}number") from error


def digest(resolved: Mapping[str, Any]) -> str:
    """The fingerprint of a resolved configuration."""
    return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()[:16]


def resolved(value: Preset) -> dict[str, Any]:
    """A preset as plain values, ready for JSON."""
    return json.loads(json.dumps(asdict(value)))


def from_plain(values: Mapping[str, Any]) -> Preset:
    """The preset that `resolved` wrote. Raises RelevancyError for what it did not."""
    try:
        return Preset(**{**values, **{name: _stage(values[name]) for name in ("align", "finetune")}})
    except (KeyError, TypeError) as error:
        raise RelevancyError(
            f"the run's configuration is none of this version ({error}): choose another --out"
        ) from error


def _stage(values: Mapping[str, Any] | None) -> Any:
    return None if values is None else Stage(**{**values, "trains": tuple(values["trains"])})

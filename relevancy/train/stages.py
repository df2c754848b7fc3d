"""A training stage is one readable value; `freeze` is the one place that says what trains."""

from __future__ import annotations

import logging
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields

from torch import nn

from relevancy.errors import RelevancyError
from relevancy.train.template import OVERLONG, STYLES

logger = logging.getLogger(__name__)

PARTS: Mapping[str, tuple[str, ...]] = {  # parameter name prefixes of a LlavaForConditionalGeneration
    "tower": ("model.vision_tower.",),
    "connector": ("model.multi_modal_projector.",),
    "decoder": ("model.language_model.", "lm_head."),
}
FRAMINGS = ("pad", "crop")
GROUPINGS = ("lengths", "authors")
ADAPTER = ".lora_"  # part of the name of every parameter that an adapter added
SCHEDULES = (  # those of transformers that need no settings of their own
    "cosine", "cosine_with_restarts", "constant", "constant_with_warmup", "inverse_sqrt", "linear", "polynomial"
)  # fmt: skip
OPTIMIZERS: Mapping[str, int] = {  # moments that each keeps of a weight
    "adamw_torch": 2, "adamw_torch_fused": 2, "paged_adamw_32bit": 2, "lion_32bit": 1, "adagrad": 1, "rmsprop": 1,
    "adamw_bnb_8bit": 2, "adamw_8bit": 2, "paged_adamw_8bit": 2, "lion_8bit": 1, "paged_lion_8bit": 1, "sgd": 0,
    "adafactor": 0,  # a row and a column of each matrix
}  # fmt: skip
_SMALL = 4096  # values, of the largest tensor whose moments bitsandbytes keeps in float32
_BLOCK = 256  # 8-bit values that share one float32
_RANGES: Mapping[str, tuple[float, float]] = {
    "steps": (0, 1 << 40),
    "batch": (1, 1 << 24),
    "learning_rate": (0, 1e3),
    "warmup": (0, 1),
    "weight_decay": (0, 1e3),
    "clip": (0, 1e9),
    "beta2": (0, 0.999999),
    "micro": (0, 1 << 24),
    "save_every": (1, 1 << 40),
    "looking_cost": (0, 1e9),
    "fading_cost": (0, 1e9),
    "epochs": (0.0001, 1e6),
    "max_tokens": (2, 1 << 24),
    "loss_chunk": (0, 1 << 40),
}


class SettingError(RelevancyError, ValueError):
    """A setting that nothing can be trained with."""


@dataclass(frozen=True)
class Stage:
    """What trains, for how long, and how. Batch is the number of sequences per optimizer step, over all devices."""

    name: str
    trains: tuple[str, ...]
    steps: int  # 0: as many as `epochs` passes over the data take
    batch: int
    learning_rate: float
    warmup: float = 0.03  # share of the steps
    schedule: str = "cosine"  # of the learning rate, after the warm-up; one of SCHEDULES
    weight_decay: float = 0.0
    clip: float = 1.0  # gradient norm; 0: not at all
    beta2: float = 0.999  # of Adam; smaller values suit short runs
    micro: int = 0  # sequences a device takes at a time, the rest is accumulated; 0: its whole share of the batch
    save_every: int = 200  # steps between checkpoints a stopped run resumes from
    bf16: bool = False  # autocast; weights that train stay float32
    looking_cost: float = 0.0  # added to the loss for each unit of mean attention to the picture: `attention_penalty`
    fading_cost: float = 0.0  # added for each logit by which answers fail to fall when less is read: `value_fading`
    epochs: float = 1.0
    framing: str = "pad"  # of the pictures to a square: "pad", or "crop" out of the center
    max_tokens: int = 2048  # of one sequence, image tokens included
    style: str = "gemma"  # how dialogues are written, see `template.encode`; "authors": as LLaVA-Gemma's own code does
    overlong: str = "cut"  # a longer sequence is cut; or its last turns are left out: "drop"
    token_mean: bool = True  # the loss is the mean over a batch's tokens; else over micro-batches, of their means
    loss_chunk: int = 0  # supervised positions whose logits are computed at a time; 0: those of all positions at once
    outer_scale: bool = False  # see `forwards.scaled_connector`
    gradient_checkpointing: bool = False
    optimizer: str = "adamw_torch"  # one of OPTIMIZERS; "adamw_bnb_8bit" needs bitsandbytes
    grouped: bool = False  # sequences of a like length, with a picture or without, share a batch
    grouping: str = "lengths"  # where grouped; "authors": of any length, see `samplers.LlavaSampler`
    packed: bool = False  # a device's sequences stand in one row, without padding
    half_frozen: bool = False  # what does not train is held in bfloat16

    def __post_init__(self) -> None:
        where = f"stage {self.name!r}"
        check_types(self, where)
        check_ranges(self, _RANGES, where)
        unknown = set(self.trains) - set(PARTS)
        if unknown or not self.trains:
            what = f"unknown parts {sorted(unknown)}" if unknown else "nothing"
            raise SettingError(f"{where} trains {what}; known: {sorted(PARTS)}")
        for setting, known in (
            ("framing", FRAMINGS), ("style", tuple(STYLES)), ("overlong", OVERLONG), ("grouping", GROUPINGS),
            ("schedule", SCHEDULES), ("optimizer", tuple(OPTIMIZERS)),
        ):  # fmt: skip
            value = getattr(self, setting)
            if value not in known:
                raise SettingError(f"{where} has unknown {setting} {value!r}; known: {', '.join(known)}")


def check_longest(max_tokens: int, picture: int) -> None:
    """Refuse sequences that a picture's tokens alone would fill. Raises SettingError."""
    if picture >= max_tokens:
        raise SettingError(f"a picture takes {picture} tokens: max_tokens {max_tokens} is too small")


def check_types(value: typing.Any, where: str) -> None:
    """Refuse a setting of another type than its field's; a whole number is a number too. Raises SettingError."""
    kinds = typing.get_type_hints(type(value))
    for field in fields(value):
        kind, given = kinds[field.name], getattr(value, field.name)
        fits = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}.get(kind)
        wrong = fits is not None and (not isinstance(given, fits) or (kind is not bool and isinstance(given, bool)))
        if wrong or (typing.get_origin(kind) is tuple and not isinstance(given, tuple)):
            name = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}.get(kind, "a tuple")
            raise SettingError(f"{where}: {field.name} is {name}, not {given!r}")


def check_ranges(value: typing.Any, ranges: Mapping[str, tuple[float, float]], where: str) -> None:
    """Refuse a number outside of its range, both ends of which are in it, and one that is none. Raises SettingError."""
    for name, (least, most) in ranges.items():
        given = getattr(value, name)
        if not least <= given <= most:
            bounds = f"{least:g} or more" if most >= 1000 else f"from {least:g} to {most:g}"
            raise SettingError(f"{where}: {name} is {str(given)[:40]}, and must be {bounds}")


def states_of(model: nn.Module, optimizer: str) -> int:
    """Bytes of the moments that an optimizer keeps of the weights that train.

    Those of 8 bits are bitsandbytes': a float32 for each block of them; embeddings and small tensors stay in float32.
    """
    moments, total = OPTIMIZERS[optimizer], 0
    exact = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for parameter in model.parameters():
        if parameter.requires_grad:
            count = parameter.numel()
            halved = optimizer.endswith("8bit") and count > _SMALL and id(parameter) not in exact
            total += moments * (count + 4 * -(-count // _BLOCK) if halved else 4 * count)
    return total


def freeze(model: nn.Module, stage: Stage) -> dict[str, int]:
    """Let only the stage's parts train. Returns, and logs, the number of trainable parameters of each part.

    A part that carries an adapter (see `lora`) trains that and nothing else.
    """
    adapted = {part_of(name) for name, _ in model.named_parameters() if ADAPTER in name}
    counts = dict.fromkeys(stage.trains, 0)
    total = 0
    for name, parameter in model.named_parameters():
        part = part_of(name)
        trains = part in stage.trains and (part not in adapted or ADAPTER in name)
        parameter.requires_grad_(trains)
        total += parameter.numel()
        if trains:
            counts[part] += parameter.numel()
    logger.info(
        "stage %s trains %s of %s parameters: %s", stage.name, f"{sum(counts.values()):,}", f"{total:,}", counts
    )
    return counts


def parameters_of(model: nn.Module) -> dict[str, int]:
    """How many parameters each part has."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counts[part_of(name)] += parameter.numel()
    return counts


def part_of(name: str) -> str:
    """The part that a parameter belongs to, by its name; "" for one of no LLaVA."""
    return next((part for part, starts in PARTS.items() if name.startswith(starts)), "")

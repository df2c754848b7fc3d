"""A training stage is one readable value; `freeze` is the one place that says what trains."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

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


@dataclass(frozen=True)
class Stage:
    """What trains, for how long, and how. Batch is the number of sequences per optimizer step, over all devices."""

    name: str
    trains: tuple[str, ...]
    steps: int  # 0: as many as `epochs` passes over the data take
    batch: int
    learning_rate: float
    warmup: float = 0.03  # share of the steps
    schedule: str = "cosine"  # of the learning rate, after the warm-up; a name transformers knows
    weight_decay: float = 0.0
    clip: float = 1.0  # gradient norm; 0: not at all
    beta2: float = 0.999  # of Adam; smaller values suit short runs
    micro: int = 0  # sequences a device takes at a time, the rest is accumulated; 0: its whole share of the batch
    save_every: int = 200  # steps between checkpoints a stopped run resumes from
    bf16: bool = False  # autocast; weights that train stay float32
    looking_cost: float = 0.0  # added to the loss for each unit of mean attention to the picture, see `looking`
    epochs: float = 1.0
    framing: str = "pad"  # of the pictures to a square: "pad", or "crop" out of the center
    max_tokens: int = 2048  # of one sequence, image tokens included
    style: str = "gemma"  # how dialogues are written, see `template.encode`; "authors": as LLaVA-Gemma's own code does
    overlong: str = "cut"  # a longer sequence is cut; or its last turns are left out: "drop"
    token_mean: bool = True  # the loss is the mean over a batch's tokens; else over micro-batches, of their means
    loss_chunk: int = 0  # supervised positions whose logits are computed at a time; 0: those of all positions at once
    outer_scale: bool = False  # see `forwards.scaled_connector`
    gradient_checkpointing: bool = False
    optimizer: str = "adamw_torch"  # a name transformers knows; "adamw_bnb_8bit" needs bitsandbytes
    grouped: bool = False  # sequences of a like length, with a picture or without, share a batch
    grouping: str = "lengths"  # where grouped; "authors": of any length, see `sampling.LlavaSampler`
    packed: bool = False  # a device's sequences stand in one row, without padding
    half_frozen: bool = False  # what does not train is held in bfloat16

    def __post_init__(self) -> None:
        unknown = set(self.trains) - set(PARTS)
        if unknown:
            raise ValueError(f"stage {self.name!r} trains unknown parts {sorted(unknown)}; known: {sorted(PARTS)}")
        if self.framing not in FRAMINGS:
            raise ValueError(f"stage {self.name!r} has unknown framing {self.framing!r}; known: {', '.join(FRAMINGS)}")
        for kind, known in {"style": tuple(STYLES), "overlong": OVERLONG, "grouping": GROUPINGS}.items():
            if getattr(self, kind) not in known:
                raise ValueError(
                    f"stage {self.name!r} has unknown {kind} {getattr(self, kind)!r}; known: {', '.join(known)}"
                )


def freeze(model: nn.Module, stage: Stage) -> dict[str, int]:
    """Let only the stage's parts train. Returns, and logs, the number of trainable parameters of each part.

    A part that carries an adapter (see `adapting`) trains that and nothing else.
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

"""A training stage is one readable value; `freeze` is the one place that says what trains."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

logger = logging.getLogger(__name__)

PARTS: Mapping[str, tuple[str, ...]] = {  # parameter name prefixes of a LlavaForConditionalGeneration
    "tower": ("model.vision_tower.",),
    "connector": ("model.multi_modal_projector.",),
    "decoder": ("model.language_model.", "lm_head."),
}


@dataclass(frozen=True)
class Stage:
    """What trains, for how long, and how. Batch is the number of sequences per optimizer step on one device."""

    name: str
    trains: tuple[str, ...]
    steps: int
    batch: int
    learning_rate: float
    warmup: float = 0.03  # share of the steps
    schedule: str = "cosine"  # of the learning rate, after the warm-up; a name transformers knows
    weight_decay: float = 0.0
    clip: float = 1.0  # gradient norm
    beta2: float = 0.999  # of Adam; smaller values suit short runs
    accumulate: int = 1
    save_every: int = 200  # steps between checkpoints a stopped run resumes from
    bf16: bool = False  # autocast; weights stay float32
    looking_cost: float = 0.0  # added to the loss for each unit of mean attention to the picture, see `looking`

    def __post_init__(self) -> None:
        unknown = set(self.trains) - set(PARTS)
        if unknown:
            raise ValueError(f"stage {self.name!r} trains unknown parts {sorted(unknown)}; known: {sorted(PARTS)}")


def freeze(model: nn.Module, stage: Stage) -> dict[str, int]:
    """Let only the stage's parts train. Returns, and logs, the number of trainable parameters of each part."""
    prefixes = {part: PARTS[part] for part in stage.trains}
    counts = dict.fromkeys(stage.trains, 0)
    total = 0
    for name, parameter in model.named_parameters():
        part = next((part for part, starts in prefixes.items() if name.startswith(starts)), None)
        parameter.requires_grad_(part is not None)
        total += parameter.numel()
        if part is not None:
            counts[part] += parameter.numel()
    logger.info(
        "stage %s trains %s of %s parameters: %s", stage.name, f"{sum(counts.values()):,}", f"{total:,}", counts
    )
    return counts

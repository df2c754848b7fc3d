"""How a family lays the tokens of a video over its frames: steps in time, each a grid over one or more of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from relevancy.errors import RelevancyError, shortened
from relevancy.families.views import Layout, one_grid, stretched, tile_edges

AS_GIVEN = MappingProxyType({"do_sample_frames": False, "input_data_format": "channels_last"})
"""How a processor takes frames (frames, height, width, 3): all of them."""


def steps_of(config: Any, processor: Any, frames: int, width: int, height: int) -> tuple[Layout, ...]:
    """Where the tokens of a video of so many frames of `width` x `height` pixels lie, step by step.

    Its own processor says into what it makes frames of that size. Raises RelevancyError for a family whose videos are
    not known here, and where the processor cannot read any.
    """
    if config.model_type not in VIDEOS:
        raise RelevancyError(
            f"where the tokens of a video lie in its frames is not known for {config.model_type}, but for "
            f"{', '.join(sorted(VIDEOS))}: give the frames as pictures"
        )
    if getattr(processor, "video_processor", None) is None:
        raise RelevancyError(
            f"the processor of this {config.model_type} has no part for videos: load it from its folder"
        )
    blank = np.zeros((frames, height, width, 3), np.uint8)
    try:
        made = processor.video_processor([blank], **AS_GIVEN, return_tensors="pt")
    except ValueError as error:
        raise RelevancyError(
            f"{config.model_type} takes no video of {frames} frames of {width} x {height}: {shortened(error)}"
        ) from error
    return VIDEOS[config.model_type](config, processor, made, frames, width, height)


def _qwen(_: Any, processor: Any, made: Any, frames: int, width: int, height: int) -> tuple[Layout, ...]:
    """Stretched to merged patches; a step is of several frames, the last one of those that are left."""
    videos = processor.video_processor
    steps, rows, cols = made["video_grid_thw"][0].tolist()
    edges = (np.linspace(0, 1, length // videos.merge_size + 1) for length in (rows, cols))
    step = one_grid(stretched(width, height, *edges))
    each = videos.temporal_patch_size
    return tuple(replace(step, frames=min(each, frames - start)) for start in range(0, steps * each, each))


def _internvl(config: Any, _: Any, made: Any, frames: int, width: int, height: int) -> tuple[Layout, ...]:
    """Each frame stretched to a tile."""
    patch = config.vision_config.patch_size
    patches = (patch, patch) if isinstance(patch, int) else patch
    sides = made["pixel_values_videos"][0].shape[-2:]
    merged = [round(one / config.downsample_ratio) for one in patches]
    edges = (tile_edges(1, side, side // step, step) / side for side, step in zip(sides, merged, strict=True))
    return (one_grid(stretched(width, height, *edges)),) * frames


def _llava_onevision(config: Any, _: Any, made: Any, frames: int, width: int, height: int) -> tuple[Layout, ...]:
    """Each frame stretched to the tower's input, its patches interpolated to half as many; a separator comes last."""
    patch = config.vision_config.patch_size
    sides = made["pixel_values_videos"][0].shape[-2:]
    edges = (np.linspace(0, side // patch * patch / side, -(-(side // patch) // 2) + 1) for side in sides)
    step = one_grid(stretched(width, height, *edges))
    return (*(step,) * (frames - 1), replace(step, count=step.count + 1))


_Rule = Callable[[Any, Any, Any, int, int, int], tuple[Layout, ...]]

# Of each family (config.model_type): the rule.
VIDEOS = MappingProxyType[str, _Rule](
    {
        "internvl": _internvl,
        "llava_onevision": _llava_onevision,
        "qwen2_5_vl": _qwen,
        "qwen2_vl": _qwen,
        "qwen3_5": _qwen,
        "qwen3_vl": _qwen,
        "qwen3_vl_moe": _qwen,
    }
)

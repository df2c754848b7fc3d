"""Processors of families that read videos too, where transformers' own want torchvision: Pillow resizes the frames."""

# transformers declares arrays where its video processors pass tensors
# mypy: disable-error-code="override, misc"

from __future__ import annotations

__all__ = ["complete", "processor_from", "reads_videos"]

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedConfig, ProcessorMixin
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import BaseVideoProcessor

_NONE: Mapping[str, Any] = MappingProxyType({})


class PillowVideoProcessor(BaseVideoProcessor):
    """Frames stretched to one size, by Pillow. `stands_for`: the family's own, which is what is saved."""

    stands_for = "BaseVideoProcessor"
    resample = Image.Resampling.BICUBIC
    size: ClassVar[dict[str, int]] = {"height": 384, "width": 384}
    image_mean, image_std = OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    do_resize = do_rescale = do_normalize = True
    do_sample_frames = False

    def convert_to_rgb(self, video: Tensor) -> Tensor:
        """As it is: frames are RGB."""
        return video

    def resize(self, image: Tensor, size: Any, resample: Any = None, **_: Any) -> Tensor:
        """Frames (..., 3, height, width) at another height and width."""
        frames = image.reshape(-1, *image.shape[-3:]).permute(0, 2, 3, 1).numpy()
        way = Image.Resampling(int(resample or self.resample))
        resized = [np.asarray(Image.fromarray(frame).resize((size.width, size.height), way)) for frame in frames]
        return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).unflatten(0, image.shape[:-3])

    def normalize(self, image: Tensor, mean: Any, std: Any, **_: Any) -> Tensor:
        """Less the mean, over the standard deviation, of each color."""
        return (image - torch.as_tensor(mean)[:, None, None]) / torch.as_tensor(std)[:, None, None]

    def to_dict(self) -> dict[str, Any]:
        """Its settings, under the name of the family's own."""
        return {**super().to_dict(), "video_processor_type": self.stands_for}


class PillowOneVisionVideos(PillowVideoProcessor):
    """For LLaVA-OneVision."""

    stands_for = "LlavaOnevisionVideoProcessor"


class PillowInternVideos(PillowVideoProcessor):
    """For InternVL."""

    stands_for = "InternVLVideoProcessor"


class PillowQwen3Videos(Qwen3VLVideoProcessor, PillowVideoProcessor):
    """For Qwen3-VL: sides within a budget of pixels over all frames, patches of two frames."""

    stands_for = "Qwen3VLVideoProcessor"
    cap_pixels_per_frame: Any = False


class PillowQwen2Videos(PillowQwen3Videos):
    """For Qwen2-VL and Qwen2.5-VL: sides within a budget of pixels of each frame."""

    stands_for = "Qwen2VLVideoProcessor"
    size: ClassVar[dict[str, int]] = {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}
    image_mean, image_std = OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    patch_size = 14

    def __init__(self, **settings: Any) -> None:
        edges = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}  # as older files have them
        known = {edges[name]: settings.pop(name) for name in edges if settings.get(name) is not None}
        size = dict(settings.pop("size", None) or self.size) | known
        super().__init__(**settings, size=size)

    def resize(self, videos: Tensor, size: Any, resample: Any, factor: int, **_: Any) -> Tensor:
        """Videos (videos, frames, 3, height, width) at the size that each frame's budget allows."""
        height, width = smart_resize(videos.shape[-2], videos.shape[-1], factor, size.shortest_edge, size.longest_edge)
        return PillowVideoProcessor.resize(self, videos, type(size)(height=height, width=width), resample)


_BY_PILLOW: Mapping[str, type[PillowVideoProcessor]] = MappingProxyType(
    {
        "internvl": PillowInternVideos,
        "llava_onevision": PillowOneVisionVideos,
        "qwen2_vl": PillowQwen2Videos,
        "qwen2_5_vl": PillowQwen2Videos,
        "qwen3_vl": PillowQwen3Videos,
        "qwen3_vl_moe": PillowQwen3Videos,
        "qwen3_5": PillowQwen3Videos,
    }
)


def reads_videos(config: PreTrainedConfig) -> bool:
    """Whether transformers' processor of this family has a part for videos beside those for pictures and text."""
    kind: Any = PROCESSOR_MAPPING.get(type(config), None)
    return kind is not None and set(kind.get_attributes()) == {"tokenizer", "image_processor", "video_processor"}


def processor_from(folder: Path, config: PreTrainedConfig) -> ProcessorMixin:
    """A folder's processor, pictures by Pillow: transformers loads no part for videos beside those."""
    kind: Any = PROCESSOR_MAPPING[type(config)]
    settings, _ = kind.get_processor_dict(folder)
    parts: dict[str, Any] = {
        "tokenizer": AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
        "image_processor": AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False),
        "video_processor": _videos_of(folder, config),
    }
    return complete(kind, parts, settings)


def complete(
    kind: type[ProcessorMixin], parts: Mapping[str, Any], settings: Mapping[str, Any] = _NONE
) -> ProcessorMixin:
    """A processor of its parts by name, and of settings as in its file.

    transformers asks for a part for videos, and where torchvision is missing it takes none.
    """

    class Unchecked(kind):  # type: ignore[valid-type]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == "video_processor":
                return BaseVideoProcessor
            return super().check_argument_for_proper_class(argument_name, argument)

    made: Any = Unchecked.from_args_and_dict([parts[name] for name in kind.get_attributes()], dict(settings))
    made.__class__ = kind
    return made


def _videos_of(folder: Path, config: PreTrainedConfig) -> BaseVideoProcessor | None:
    """The folder's processor of videos; None where it needs torchvision, which is missing."""
    if is_torchvision_available():
        return AutoVideoProcessor.from_pretrained(folder, config=config, trust_remote_code=False)
    if config.model_type not in _BY_PILLOW:
        return None
    settings, _ = BaseVideoProcessor.get_video_processor_dict(folder)
    return _BY_PILLOW[config.model_type](**settings)

"""A picture's way to the models: opened once, brought to each model's input by that model's own image processor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from relevancy.data.items import FilmSource, PictureSource, picture_hash
from relevancy.errors import RelevancyError
from relevancy.geometry import grid_for
from relevancy.images import Picture, open_picture
from relevancy.models.model import Model
from relevancy.models.prepared import ProcessedPicture
from relevancy.videos import Film, Video, open_video


@dataclass(frozen=True)
class OpenedPicture:
    """What models need of one picture, or why there is none. It travels to other processes.

    size: width and height of the upright picture. digest: of the encoded file. pixels: for each of the
    `ImageProcessors` the input (channels, height, width), float32; None for one whose model takes the picture itself.
    """

    size: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = ()
    digest: str | None = None
    pixels: tuple[np.ndarray | None, ...] = ()
    fault: str | None = None

    def of(self, processor: int) -> ProcessedPicture | None:
        """The picture as one of the processors left it; None for a model that takes it as it is."""
        pixels = self.pixels[processor]
        return None if pixels is None else ProcessedPicture(self.size, torch.from_numpy(pixels), notes=self.notes)


@dataclass(frozen=True)
class ImageProcessors:
    """The image processors of several models; equal ones work once. They travel to other processes.

    processors: None stands for models whose processor cuts or stretches each picture in a way of its own: they take
    the pictures themselves, opened again with their batch, so that memory holds no more of them.
    """

    processors: tuple[Any | None, ...]
    of_model: tuple[int, ...]
    max_pixels: int

    @classmethod
    def of(cls, models: Sequence[Model], max_pixels: int) -> ImageProcessors:
        """Of the models, in their order."""
        different: dict[str, int] = {}
        kept: list[Any] = []
        of_model = []
        for model in models:
            processor = model.processor.image_processor if model.patchwise else None
            settings = {} if processor is None else processor.to_dict()
            told = f"{type(processor).__name__} {json.dumps(settings, sort_keys=True, default=str)}"
            if told not in different:
                different[told] = len(kept)
                kept.append(processor)
            of_model.append(different[told])
        return cls(tuple(kept), tuple(of_model), max_pixels)

    def picture(self, source: PictureSource) -> Picture:
        """One picture as it is. Raises RelevancyError."""
        return open_picture(source.encoded, max_pixels=self.max_pixels)

    def video(self, source: FilmSource) -> Video:
        """A video's frames. Raises RelevancyError."""
        return open_video(Film([frame.encoded for frame in source.frames], source.fps), max_pixels=self.max_pixels)

    def opened(self, source: PictureSource) -> OpenedPicture:
        """One picture for every model. Never raises for what is wrong with the picture."""
        try:
            encoded = source.encoded
            picture = open_picture(encoded, max_pixels=self.max_pixels)
            for processor in filter(None, self.processors):
                grid_for(processor, *picture.image.size, 1, 1)  # refuses what would be blown up beyond reason
            pixels = tuple(one and _pixels(one, picture.image) for one in self.processors)
            return OpenedPicture(picture.image.size, picture.notes, picture_hash(encoded), pixels)
        except RelevancyError as error:
            return OpenedPicture(fault=str(error))
        except Exception as error:  # whatever a picture does to a processor, the other pictures must not pay for it
            return OpenedPicture(fault=f"{type(error).__name__}: {error}")

    def all_opened(self, sources: Sequence[PictureSource]) -> list[OpenedPicture]:
        """Every picture, in order."""
        return [self.opened(source) for source in sources]


def _pixels(processor: Any, image: Any) -> np.ndarray:
    return np.asarray(processor(images=[image], return_tensors="np")["pixel_values"][0])

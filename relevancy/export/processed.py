"""A picture's way to the models: opened once, brought to each model's input by that model's own image processor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature

from relevancy.data.items import PictureSource, picture_hash
from relevancy.errors import RelevancyError
from relevancy.geometry import grid_for
from relevancy.images import open_picture


@dataclass(frozen=True)
class Seen:
    """What models need of one picture, or why there is none.

    size: width and height of the upright picture. digest: of the encoded file. pixels: for each of the `Eyes`'
    processors the input (channels, height, width), float32.
    """

    size: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = ()
    digest: str | None = None
    pixels: tuple[np.ndarray, ...] = ()
    fault: str | None = None


@dataclass(frozen=True)
class Eyes:
    """The image processors of several models; equal ones work once. It travels to other processes."""

    processors: tuple[Any, ...]
    of_model: tuple[int, ...]
    max_pixels: int

    @classmethod
    def of(cls, processors: Sequence[Any], max_pixels: int) -> Eyes:
        """Of the models' image processors, in the models' order."""
        different: dict[str, int] = {}
        kept: list[Any] = []
        of_model = []
        for processor in processors:
            told = f"{type(processor).__name__} {json.dumps(processor.to_dict(), sort_keys=True, default=str)}"
            if told not in different:
                different[told] = len(kept)
                kept.append(processor)
            of_model.append(different[told])
        return cls(tuple(kept), tuple(of_model), max_pixels)

    def see(self, source: PictureSource) -> Seen:
        """One picture for every model. Never raises for what is wrong with the picture."""
        try:
            encoded = source.encoded
            picture = open_picture(encoded, max_pixels=self.max_pixels)
            for processor in self.processors:
                grid_for(processor, *picture.image.size, 1, 1)  # refuses what would be blown up beyond reason
            pixels = tuple(_pixels(processor, picture.image) for processor in self.processors)
            return Seen(picture.image.size, picture.notes, picture_hash(encoded), pixels)
        except RelevancyError as error:
            return Seen(fault=str(error))
        except Exception as error:  # whatever a picture does to a processor, the other pictures must not pay for it
            return Seen(fault=f"{type(error).__name__}: {error}")

    def see_all(self, sources: Sequence[PictureSource]) -> list[Seen]:
        """Every picture, in order."""
        return [self.see(source) for source in sources]


class Ready:
    """Stands in its place for an image processor, and hands out pixels that are there already.

    pixels: what the next call gives, (channels, height, width) for each of its pictures.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.pixels: list[torch.Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, *_: Any, **__: Any) -> BatchFeature:
        """What the processor would make of the pictures that come next."""
        return BatchFeature({"pixel_values": torch.stack(self.pixels)})


def _pixels(processor: Any, image: Any) -> np.ndarray:
    return np.asarray(processor(images=[image], return_tensors="np")["pixel_values"][0])

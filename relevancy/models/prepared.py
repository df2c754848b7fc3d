"""Questions about pictures as one model reads them: token ids, pixels or features, and where the image tokens lie."""

from __future__ import annotations

__all__ = ["Example", "Prepared", "ProcessedPicture"]

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from relevancy.errors import RelevancyError
from relevancy.families.videos import AS_GIVEN
from relevancy.families.views import Layout
from relevancy.images import Picture
from relevancy.models.conversation import Conversation
from relevancy.videos import Video

FEATURES = "mm_encoder_outputs"
"""Under this name a model takes what its tower and connector made of the pictures, in the pixels' place."""

_BLANK = Image.new("RGB", (1, 1))
_OF_PAGES = frozenset({"GotOcr2Processor"})  # to which several pictures of a text are pages of one document


@dataclass(frozen=True, eq=False)
class ProcessedPicture:
    """What a model needs of a picture whose own pixels are no longer at hand.

    size: width and height of the upright picture. pixels: what the model's image processor made of it, (channels,
    height, width). features: what tower and connector made of that, (image tokens, width), or (1, image tokens, width)
    for a model that wants all pictures in one tensor; None where they have not run. notes: what was done to it.
    """

    size: tuple[int, int]
    pixels: Tensor
    features: Tensor | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Example:
    """A question about pictures and videos, or a conversation with them, in the order in which they stand there.

    answer: ids of an answer that is given, None for the model's own.
    """

    pictures: tuple[Picture | ProcessedPicture | Video, ...]
    question: str | Conversation
    answer: tuple[int, ...] | None = None

    @property
    def images(self) -> tuple[Image.Image | ProcessedPicture | Video, ...]:
        """The pictures as `Model.prepare` takes them."""
        return tuple(one.image if isinstance(one, Picture) else one for one in self.pictures)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A batch of examples, ready for the model.

    inputs: the model's own arguments, on its device; `input_ids` and `attention_mask` are (batch, tokens), padded on
    the left. layouts: of each example, where the image tokens of each of its pictures lie, and of each step of its
    videos. notes: of each example, what was done to it.
    """

    inputs: BatchFeature
    image_token_id: int
    layouts: tuple[tuple[Layout, ...], ...] = ()
    notes: tuple[tuple[str, ...], ...] = ()
    video_token_id: int = -1

    @property
    def ids(self) -> Tensor:
        """Token ids, (batch, tokens)."""
        return self.inputs["input_ids"]

    @property
    def kept(self) -> Tensor:
        """Which tokens are an example's own and no padding, bool (batch, tokens)."""
        return self.inputs["attention_mask"].bool()

    def own_ids(self, row: int) -> Tensor:
        """One example's ids, without padding."""
        return self.ids[row][self.kept[row]]

    def image_places(self, row: int) -> Tensor:
        """Where one example's image tokens stand among its own, those of all pictures and videos, (image tokens,)."""
        own = self.own_ids(row)
        return ((own == self.image_token_id) | (own == self.video_token_id)).nonzero()[:, 0]

    def equals(self, other: Prepared) -> bool:
        """Whether the model would read the very same."""
        mine, others = _tensors(self.inputs), _tensors(other.inputs)
        return mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)

    def rest(self, tokens: int) -> dict[str, Any]:
        """What the model still needs of one example, without padding, whose first tokens are in a cache."""
        own = {"input_ids": self.ids[:, tokens:], "attention_mask": self.inputs["attention_mask"]}
        if "position_ids" in self.inputs:
            own["position_ids"] = self.inputs["position_ids"][..., tokens:]
        return own

    def only(self, row: int, length: int | None = None) -> Prepared:
        """One example by itself, as a batch of 1 without padding: its first `length` own tokens, or all."""
        shape = self.ids.shape
        kept = self.kept[row].nonzero()[:length, 0]
        own: dict[str, Any] = {}
        for name, value in self.inputs.items():
            if name == "position_ids" and value.shape == shape:
                continue  # they were told for padding's sake: without it the model counts by itself
            if isinstance(value, Tensor) and value.shape[-2:] == shape:  # positions may have axes in front
                own[name] = value[..., row : row + 1, kept]
            elif isinstance(value, Tensor):
                own[name] = value[self._entries(len(value), row)]
            else:
                own[name] = value
        if FEATURES in own:
            held = own[FEATURES]["image"].pooler_output
            own[FEATURES] = _as_outputs(held[self._entries(len(held), row)])
        return replace(
            self, inputs=BatchFeature(own), layouts=self.layouts[row : row + 1], notes=self.notes[row : row + 1]
        )

    def repeated(self, times: int) -> Prepared:
        """A single example, so many times."""
        shape = self.ids.shape
        own = {
            name: value.repeat_interleave(times, -2)
            if value.shape[-2:] == shape
            else value.repeat(times, *[1] * (value.ndim - 1))
            for name, value in self.inputs.items()
        }
        return replace(self, inputs=BatchFeature(own), layouts=self.layouts * times, notes=self.notes * times)

    def _entries(self, count: int, row: int) -> slice:
        """Which of so many entries are an example's; one with videos is a batch of its own.

        One for each example, one for each picture, or as many as go with its image tokens: tiles, or the patches that
        tokens are merged of, of all pictures in one row.
        """
        if len(self.ids) == 1:
            return slice(count)
        pictures = torch.tensor([len(own) for own in self.layouts])
        if count == len(self.ids):
            shares = torch.ones(count, dtype=torch.long)
        elif count == pictures.sum():
            shares = pictures
        else:
            shares = (self.ids == self.image_token_id).sum(-1).cpu()
        ends = shares.cumsum(0) * count
        whole = int(shares.sum())
        if (ends % whole).any():
            raise RelevancyError(
                f"{count} parts of pictures cannot be told apart by their {shares.tolist()} image tokens: ask these "
                "questions one by one"
            )
        stop = int(ends[row]) // whole
        return slice(stop - int(shares[row]) * count // whole, stop)


class _GivenPixels:
    """Stands in an image processor's place and hands out pixels that are there already.

    What else a processor has is asked of the one it stands for, so that the text around the pictures stays the same.
    """

    def __init__(self, processor: Any, pixels: Tensor) -> None:
        self._processor, self._pixels = processor, pixels

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, *_: Any, **__: Any) -> BatchFeature:
        return BatchFeature({"pixel_values": self._pixels})


def processed(
    processor: Any, images: Sequence[Sequence[Image.Image | ProcessedPicture | Video]], **asked: Any
) -> BatchFeature:
    """What a processor makes of each text's pictures; `asked` is for the processor, the texts included.

    Texts without pictures are no batch with those that have some. Pictures that were processed before, all or none,
    are not processed again; features stand in the pixels' place.
    """
    before = [image for own in images for image in own if isinstance(image, ProcessedPicture)]
    if not before:
        stills = [[image for image in own if not isinstance(image, Video)] for own in images]
        films = [image for own in images for image in own if isinstance(image, Video)]
        if type(processor).__name__ in _OF_PAGES and all(len(own) == 1 for own in stills):
            shown: dict[str, Any] = {"images": [only for (only,) in stills]}
        else:
            shown = {"images": stills} if any(stills) else {}
        if films:
            shown |= {"videos": [film.pixels() for film in films], "videos_kwargs": _as_given(films)}
        return BatchFeature(dict(processor(**shown, **asked)))
    stand_in = copy.copy(processor)
    stand_in.image_processor = _GivenPixels(processor.image_processor, torch.stack([one.pixels for one in before]))
    inputs = stand_in(images=[[_BLANK] * len(own) for own in images], **asked)
    features = [one.features for one in before if one.features is not None]
    if features:
        del inputs["pixel_values"]
        inputs[FEATURES] = _as_outputs(torch.cat(features) if features[0].ndim == 3 else features)
    return inputs


def _as_given(films: Sequence[Video]) -> dict[str, Any]:
    """How a processor takes videos: all of their frames, at the times that are known; the rest is its own."""
    every = [
        {"total_num_frames": len(film.frames), "fps": film.fps, "frames_indices": list(range(len(film.frames)))}
        for film in films
    ]
    return {**AS_GIVEN, "video_metadata": every}


def _tensors(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a model reads, features as one tensor."""
    found = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    if FEATURES in inputs:
        held = inputs[FEATURES]["image"].pooler_output
        found[FEATURES] = held if isinstance(held, Tensor) else torch.cat(list(held))
    return found


def _as_outputs(features: Tensor | list[Tensor]) -> dict[str, Any]:
    return {"image": SimpleNamespace(pooler_output=features)}

"""Dialogues -> token ids, labels and pixels. What cannot be read keeps its place, and is not trained on."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import ProcessorMixin

from relevancy.errors import RelevancyError
from relevancy.images import open_picture
from relevancy.models import compat
from relevancy.train.data.dialogues import Dialogue, Picture, on_disk
from relevancy.train.data.sources import Dialogues
from relevancy.train.stages import Stage, check_longest
from relevancy.train.template import IGNORED, IMAGE, OVERLONG, STYLES, BadDialogueError, Encoded, encode

logger = logging.getLogger(__name__)
_WARNINGS = 10  # of each process; the file has them all


class Encoder:
    """A model's processor, and how dialogues are written for it. style, max_length, overlong: see `encode`.

    Raises RelevancyError where the processor does not fit.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        *,
        style: str = "gemma",
        max_length: int = 2048,
        overlong: str = "cut",
    ) -> None:
        if style not in STYLES or overlong not in OVERLONG:
            raise RelevancyError(
                f"style {style!r} with over-long dialogues {overlong!r}: choose one of {', '.join(STYLES)} and one of "
                f"{', '.join(OVERLONG)}"
            )
        self.tokenizer, self._images = processor.tokenizer, processor.image_processor
        size = compat.output_size(self._images)
        if size is None or not hasattr(processor, "num_additional_image_tokens"):
            raise RelevancyError(
                f"{type(self._images).__name__} gives pictures of no fixed size: use a LLaVA processor"
            )
        if not self.tokenizer.is_fast or self.tokenizer.encode(IMAGE, add_special_tokens=False) != [
            self.tokenizer.convert_tokens_to_ids(IMAGE)
        ]:
            raise RelevancyError(f"the tokenizer must be a fast one to which {IMAGE} is one token")
        patches = (size[0] // processor.patch_size) * (size[1] // processor.patch_size)  # type: ignore[attr-defined]
        self.image_tokens = patches + compat.extra_image_tokens(processor)
        """Tokens that stand for one picture."""
        self.picture_shape = (3, *size)
        self.max_length = max_length
        self.style, self.overlong = style, overlong
        check_longest(max_length, self.image_tokens)

    @classmethod
    def of_stage(cls, processor: ProcessorMixin, stage: Stage) -> Encoder:
        """As a stage of training writes dialogues, and as they are checked for it."""
        return cls(processor, style=stage.style, max_length=stage.max_tokens, overlong=stage.overlong)

    def text(self, dialogue: Dialogue) -> Encoded:
        """Token ids and labels. Raises BadDialogueError."""
        if dialogue.fault is not None:
            raise BadDialogueError(dialogue.fault)
        return encode(
            dialogue.turns,
            self.tokenizer,
            self.image_tokens,
            style=self.style,
            max_length=self.max_length,
            overlong=self.overlong,
        )

    def pixels(self, images: tuple[Picture, ...]) -> Tensor:
        """Pixel values (pictures, 3, height, width) float32. Raises RelevancyError for one that will not open."""
        opened = [open_picture(on_disk(image)).image for image in images]
        return self._images(images=opened, return_tensors="pt")["pixel_values"]

    def __call__(self, dialogue: Dialogue) -> dict[str, Any]:
        """`input_ids`, `labels` and, where there are pictures, `pixel_values`. Raises as `text` and `pixels`."""
        encoded = self.text(dialogue)
        return _example(encoded, self.pixels(dialogue.images[: encoded.pictures]) if encoded.pictures else None)


class Skipped:
    """What was not trained on, and why: a line of JSON each, in a file that all processes of a run append to.

    Without a file it is remembered in this process alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._here: list[dict[str, Any]] = []
        self._warned = 0

    def add(self, position: int, name: str, why: str) -> None:
        """The sample at this position of the data was not trained on."""
        record = {"position": position, "id": name, "why": why}
        self._warned += 1
        if self._warned <= _WARNINGS:
            logger.warning("sample %d (%s) is skipped: %s", position, name, why)
        if self.path is None:
            self._here.append(record)
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, (json.dumps(record) + "\n").encode())  # one write: lines of others stay whole
            finally:
                os.close(descriptor)
        except OSError as error:  # a full disk must not end a training that goes well
            logger.warning("%s cannot be written: %s", self.path, error.strerror)

    def all(self) -> list[dict[str, Any]]:
        """Every skipped sample once, by position: `position`, `id`, `why`."""
        found = self._here
        if self.path is not None and self.path.exists():
            found = [json.loads(line) for line in self.path.read_text().splitlines() if line.endswith("}")]
        return [by for _, by in sorted({record["position"]: record for record in found}.items())]

    def __len__(self) -> int:
        return len(self.all())


class Examples(Dataset):
    """The dialogues as the model reads them, each at its own place.

    A dialogue that cannot be trained on is there with one token and no label; one whose picture will not open with a
    blank picture and no label. Neither moves another sample, and both are named in `skipped`.
    """

    def __init__(self, dialogues: Dialogues, encoder: Encoder, skipped: Skipped | None = None) -> None:
        self.dialogues, self.encoder = dialogues, encoder
        self.skipped = Skipped() if skipped is None else skipped

    def __len__(self) -> int:
        return len(self.dialogues)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """`input_ids`, `labels` and, where there are pictures, `pixel_values` (pictures, 3, height, width)."""
        dialogue, encoder = self.dialogues[position], self.encoder
        try:
            encoded = encoder.text(dialogue)
        except BadDialogueError as error:
            self.skipped.add(position, dialogue.id, str(error))
            return _example(Encoded([_harmless(encoder)], [IGNORED]), None)
        if not encoded.pictures:
            return _example(encoded, None)
        try:
            return _example(encoded, encoder.pixels(dialogue.images[: encoded.pictures]))
        except RelevancyError as error:
            self.skipped.add(position, dialogue.id, str(error))
            unsupervised = Encoded(encoded.ids, [IGNORED] * len(encoded.ids), encoded.pictures)
            return _example(unsupervised, torch.zeros(encoded.pictures, *encoder.picture_shape))


def _example(encoded: Encoded, pixels: Tensor | None) -> dict[str, Any]:
    example: dict[str, Any] = {"input_ids": encoded.ids, "labels": encoded.labels}
    return example if pixels is None else example | {"pixel_values": pixels}


def _harmless(encoder: Encoder) -> int:
    """A token that stands for nothing."""
    known = encoder.tokenizer.bos_token_id, encoder.tokenizer.eos_token_id, 0
    return next(token for token in known if token is not None)

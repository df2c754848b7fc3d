"""Rows with their pictures through the models, to records: the one place where an export computes."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from types import SimpleNamespace
from typing import Any, cast

import torch
from PIL import Image
from transformers import BatchFeature

from relevancy.core import patching
from relevancy.core.targets import Choice, shown
from relevancy.data.answer_match import correct
from relevancy.data.boxes import in_pixels
from relevancy.data.fields import short
from relevancy.data.items import Item
from relevancy.errors import RelevancyError
from relevancy.explanations.evidence import NUMBERS
from relevancy.explanations.explain import ExplainConfig, explain_batch
from relevancy.explanations.explanation import Explanation
from relevancy.export.overlays import Wanted
from relevancy.export.processed import Ready, Seen
from relevancy.export.schema import EVIDENCE
from relevancy.images import Picture
from relevancy.methods.registry import DEFAULT
from relevancy.models import generation
from relevancy.models.model import FEATURES, Model
from relevancy.models.vision_cache import VisionCache

_TOWER_PICTURES = 8  # run through the tower together: its activations still fit a CPU's cache
_ANY_PICTURE = Image.new("RGB", (1, 1))


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture's size, where its pixels are no longer needed."""

    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height


@dataclass(eq=False)
class Reader(Model):
    """A model that reads pictures which were processed before, or even seen by its tower."""

    _known: dict[Frame, tuple[torch.Tensor, Any]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._ready = Ready(self.processor.image_processor)
        processor = copy.copy(self.processor)
        processor.image_processor = self._ready
        self._inner = Model(self.model, processor, self.name)

    @classmethod
    def of(cls, model: Model) -> Reader:
        """The same model."""
        return cls(model.model, model.processor, model.name)

    @property
    def shares_features(self) -> bool:
        """Whether the model takes its tower's features ready made."""
        return FEATURES in signature(self.model.forward).parameters

    def expect(self, known: Mapping[Frame, tuple[torch.Tensor, Any]]) -> None:
        """Until the next call: each picture's pixels and, where the tower has run, its features."""
        self._known = dict(known)

    def prepare(
        self, images: Sequence[Any], questions: Sequence[str], continuations: Sequence[Sequence[int]] | None = None
    ) -> BatchFeature:
        """As a model does, with features in the pixels' place where they are known."""
        pixels, features = zip(*(self._known[image] for image in images), strict=True)
        self._ready.pixels = list(pixels)
        inputs = self._inner.prepare([_ANY_PICTURE] * len(images), questions, continuations)
        if features[0] is not None:
            del inputs["pixel_values"]
            inputs[FEATURES] = {"image": SimpleNamespace(pooler_output=list(features))}
        return inputs


@dataclass(frozen=True)
class ExplainBatches:
    """How rows are explained: as in `explain`, how many at once, and of which rows there is a map.

    Of the others there is the answer alone, with the probability of its first token.
    """

    wish: ExplainConfig
    batch: int
    maps: Wanted = field(default=Wanted(every=True))

    def batches(self, items: Sequence[Item]) -> Iterator[list[int]]:
        """Places of the items, those of like length together, so that little is padded."""
        order = sorted(range(len(items)), key=lambda place: (len(items[place].question or ""), place))
        for start in range(0, len(order), self.batch):
            yield order[start : start + self.batch]


class RecordMaker:
    """Models in memory that turn items with their seen pictures into records."""

    def __init__(self, models: Sequence[Model], eyes_of_model: Sequence[int], way: ExplainBatches) -> None:
        self.readers, self.eyes, self.way = [Reader.of(model) for model in models], eyes_of_model, way

    def records(self, items: Sequence[Item], seen: Mapping[str, Seen]) -> list[dict[str, Any]]:
        """One record for each item and model, results and faults."""
        asked = [item for item in items if seen[_key(item)].fault is None]
        records = [
            faulty(item, reader.name, cast(str, seen[_key(item)].fault))
            for reader in self.readers
            for item in items
            if seen[_key(item)].fault is not None
        ]
        known = {key: one for key, one in seen.items() if one.fault is None}
        frames = {key: Frame(*one.size) for key, one in known.items()}
        pixels = {key: [torch.from_numpy(values) for values in one.pixels] for key, one in known.items()}
        features = self._features(pixels)
        for reader, which, own in zip(self.readers, self.eyes, features, strict=True):
            reader.expect({frames[key]: (pixels[key][which], own and own[key]) for key in frames})
            for mapped in (True, False):
                alike = [item for item in asked if self.way.maps.has(item.row) == mapped]
                for places in self.way.batches(alike):
                    records += self._tried(reader, [alike[place] for place in places], frames, known)
            reader.expect({})
        return records

    def _features(self, pixels: Mapping[str, Sequence[torch.Tensor]]) -> list[dict[str, Any] | None]:
        """What each model's tower and connector make of each picture; None for a model that wants to run its own.

        With scope "full" gradients go through the tower for each question, and other methods change the pixels
        themselves: nothing is shared then.
        """
        wish = self.way.wish
        shared = wish.scope == "language" and wish.method == DEFAULT
        found: list[dict[str, Any] | None] = [
            {} if shared and reader.shares_features else None for reader in self.readers
        ]
        keys = list(pixels)
        for start in range(0, len(keys), _TOWER_PICTURES):
            some = keys[start : start + _TOWER_PICTURES]
            memory = VisionCache()
            for reader, which, own in zip(self.readers, self.eyes, found, strict=True):
                if own is None:
                    continue
                batch = torch.stack([pixels[key][which] for key in some]).to(reader.device, reader.dtype)
                model: Any = reader.model
                with reader.lock, torch.no_grad(), patching.eval_mode(model), memory.shared(reader):
                    output = model.get_image_features(batch, return_dict=True)
                pooled = output.pooler_output
                own.update(zip(some, (one[None] if one.ndim == 2 else one for one in pooled), strict=True))
        return found

    def _tried(
        self, reader: Reader, items: list[Item], frames: Mapping[str, Frame], seen: Mapping[str, Seen]
    ) -> list[dict[str, Any]]:
        """One batch; where it fails, its halves, down to the row that is at fault."""
        pictures = [Picture(cast(Any, frames[_key(item)]), seen[_key(item)].notes) for item in items]
        mapped = self.way.maps.has(items[0].row)
        start = time.perf_counter()
        try:
            found = (self._explained if mapped else self._answered)(reader, items, pictures)
        except Exception as error:  # whatever a row does to a model, the other rows must not pay for it
            if len(items) == 1:
                return [faulty(items[0], reader.name, _reason(error))]
            if reader.device.type == "cuda":
                torch.cuda.empty_cache()
            half = len(items) // 2
            return [
                record for part in (items[:half], items[half:]) for record in self._tried(reader, part, frames, seen)
            ]
        seconds = (time.perf_counter() - start) / len(items)
        return [
            record | {"picture_hash": seen[_key(item)].digest, "seconds": seconds}
            for item, record in zip(items, found, strict=True)
        ]

    def _explained(self, reader: Reader, items: list[Item], pictures: list[Picture]) -> list[dict[str, Any]]:
        results = explain_batch(reader, pictures, [item.question or "" for item in items], self.way.wish)
        return [_record(item, result) for item, result in zip(items, results, strict=True)]

    def _answered(self, reader: Reader, items: list[Item], pictures: list[Picture]) -> list[dict[str, Any]]:
        """Answers without maps; the token is their first."""
        questions = [item.question or "" for item in items]
        notes = [picture.notes + reader.question_notes(one) for picture, one in zip(pictures, questions, strict=True)]
        with reader.lock, generation.oom_as_error():
            prompt = generation.read(reader, [picture.image for picture in pictures], questions)
            answers = generation.answers(reader, prompt, self.way.wish.max_new_tokens)
        return [
            _answer(reader, item, picture, said, logits, reader.notes + own)
            for item, picture, said, logits, own in zip(items, pictures, answers, prompt.logits, notes, strict=True)
        ]


def faulty(item: Item, model: str, reason: str) -> dict[str, Any]:
    """An error's record: what is known of the row, and why there is no more."""
    return _given(item, model) | {"error": short(" ".join(reason.split()))}


def _given(item: Item, model: str) -> dict[str, Any]:
    """What the input says of a row."""
    return {
        "row": item.row,
        "id": item.id,
        "model": model,
        "picture": item.picture.name if item.picture else None,
        "question": item.question,
        "expected": item.expected,
        "boxes": None if item.boxes is None else [list(box) for box in item.boxes],
        "mask": item.mask,
        "mask_png": item.mask_png,
        "notes": list(item.notes),
        **item.extras,
    }


def _answer(
    reader: Reader, item: Item, picture: Picture, said: list[int], logits: torch.Tensor, notes: tuple[str, ...]
) -> dict[str, Any]:
    target = Choice(0, int(logits.argmax())).described(logits, reader.tokenizer)
    answer = shown(reader.tokenizer, *said).strip()
    width, height = picture.image.size
    boxes, wrong = in_pixels(item.boxes or (), width, height)
    given = _given(item, reader.name)
    return given | {
        "answer": answer,
        "token": target.token,
        "token_id": target.id,
        "position": target.position,
        "probability": target.probability,
        "logit": target.logit,
        "correct": correct(answer, item.expected),
        "width": width,
        "height": height,
        "answer_tokens": reader.tokenizer.convert_ids_to_tokens(said),
        "boxes": boxes or given["boxes"],
        "notes": [*item.notes, *wrong, *notes],
    }


def _record(item: Item, result: Explanation) -> dict[str, Any]:
    target, grid = result.target, result.grid
    boxes, notes = in_pixels(item.boxes or (), grid.width, grid.height)
    given = _given(item, result.model)
    return given | {
        "answer": result.answer,
        "token": target.token,
        "token_id": target.id,
        "position": target.position,
        "probability": target.probability,
        "logit": target.logit,
        "contrast": target.contrast,
        "contrast_id": target.contrast_id,
        "contrast_logit": target.contrast_logit,
        "correct": correct(result.answer, item.expected),
        "share_image": result.shares["image"],
        "share_text": result.shares["text"],
        "share_first_token": result.shares["first_token"],
        "width": grid.width,
        "height": grid.height,
        "rows": grid.rows,
        "cols": grid.cols,
        "x_edges": grid.x_edges,
        "y_edges": grid.y_edges,
        "image_map": result.image_map.ravel(),
        "tokens": list(result.tokens),
        "is_image": result.is_image,
        "relevance": result.relevance,
        "answer_tokens": list(result.answer_tokens),
        "cut": result.cut,
        **_evidence(result),
        "boxes": boxes or given["boxes"],
        "notes": [*item.notes, *notes, *result.notes],
        "scope": result.scope,
        "method": result.method,
    }


def _evidence(result: Explanation) -> dict[str, Any]:
    found = result.evidence
    if found is None:
        return {}
    numbers = {f"{EVIDENCE}{name}": getattr(found, name) for name in NUMBERS}
    blind = found.says.get("blind")
    return {"verdict": found.verdict, f"{EVIDENCE}shared": found.shared, f"{EVIDENCE}blind_token": blind, **numbers}


def _key(item: Item) -> str:
    assert item.picture is not None
    return item.picture.key


def _reason(error: Exception) -> str:
    text = str(error)
    return text if isinstance(error, RelevancyError) else f"{type(error).__name__}: {text}"

"""Rows with their pictures through the models, to records: the one place where an export computes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from relevancy.core.targets import Choice, shown
from relevancy.data.answer_match import correct
from relevancy.data.boxes import in_pixels
from relevancy.data.fields import short
from relevancy.data.items import FilmSource, Item, picture_hash
from relevancy.errors import RelevancyError
from relevancy.explanations.evidence import NUMBERS
from relevancy.explanations.explanation import Explanation
from relevancy.explanations.map_batch import ExplainConfig, MapBatch, resumes
from relevancy.export.overlays import Wanted
from relevancy.export.processed import ImageProcessors, OpenedPicture
from relevancy.export.schema import EVIDENCE
from relevancy.images import Picture
from relevancy.models.conversation import Conversation, read_messages
from relevancy.models.model import Model
from relevancy.models.prepared import Example, ProcessedPicture
from relevancy.models.session import Session
from relevancy.models.vision_cache import VisionCache


@dataclass(frozen=True)
class ExplainBatches:
    """How rows are explained: as in `explain`, how many at once, and of which rows there is a map.

    Of the others there is the answer alone, with the probability of its first token.
    """

    wish: ExplainConfig
    batch: int
    maps: Wanted = field(default=Wanted(every=True))

    def batches(self, items: Sequence[Item], sizes: Sequence[int], *, by_picture: bool = False) -> Iterator[list[int]]:
        """Places of the items, those of like length together, so that little is padded.

        sizes: how many image tokens each has. by_picture: the questions about one picture are a batch of their own, for
        a model that reads it once for all.
        """
        alone = list(range(len(items)))
        if by_picture:
            together: dict[str, list[int]] = {}
            for place in alone:
                together.setdefault(_key(items[place]), []).append(place)
            yield from (places for places in together.values() if len(places) > 1)
            alone = [place for places in together.values() for place in places if len(places) == 1]
        order = sorted(alone, key=lambda place: (sizes[place], len(items[place].question or ""), place))
        for start in range(0, len(order), self.batch):
            yield order[start : start + self.batch]


class RecordMaker:
    """Models in memory that turn items with their processed pictures into records."""

    def __init__(self, models: Sequence[Model], processors: ImageProcessors, way: ExplainBatches) -> None:
        self.models, self.processors, self.way = models, processors, way

    def records(self, items: Sequence[Item], opened: Mapping[str, OpenedPicture]) -> list[dict[str, Any]]:
        """One record for each item and model, results and faults; towers run once for a picture."""
        faults: dict[int, str] = {}
        for item in items:
            wrong = (opened[source.key].fault for source in item.sources)
            if (fault := next(filter(None, wrong), None)) is not None:
                faults[item.row] = fault
        asked = [item for item in items if item.row not in faults]
        records = [
            faulty(item, model.name, faults[item.row]) for model in self.models for item in items if item.row in faults
        ]
        mapped = [item for item in asked if self.way.maps.has(item.row)]
        answered = [item for item in asked if not self.way.maps.has(item.row)]
        towers = VisionCache()
        for model, which in zip(self.models, self.processors.of_model, strict=True):
            pictures = {key: one.of(which) for key, one in opened.items() if one.fault is None}
            way = replace(self.way, batch=1) if model.one_at_a_time else self.way
            if self.way.wish.sees_first and model.patchwise:
                pictures = self._seen(model, pictures, towers)
            for rows, read, by_picture in (
                (mapped, self._explained, resumes(model, self.way.wish)),
                (answered, self._answered, False),
            ):
                for count in (1, 0, 2):  # pictures; several are read in another way than one
                    own = [one for one in rows if min(len(one.pictures), 2) == count and not one.films]
                    sizes = [_image_tokens(model, one, opened) for one in own]
                    for places in way.batches(own, sizes, by_picture=by_picture and count == 1):
                        records += self._tried(read, model, [own[place] for place in places], pictures, opened)
                for one in (one for one in rows if one.films):  # a video is a batch of its own
                    records += self._tried(read, model, [one], pictures, opened)
        return records

    def _seen(
        self, model: Model, pictures: Mapping[str, ProcessedPicture | None], towers: VisionCache
    ) -> dict[str, ProcessedPicture | None]:
        """Every picture of the chunk with its features, before the questions about it are put."""
        known = {key: picture for key, picture in pictures.items() if picture is not None}
        with Session(model, towers) as session:
            found = session.seen(list(known.values()))
        return {key: found[id(picture)] for key, picture in known.items()}

    def _examples(self, items: Sequence[Item], pictures: Mapping[str, ProcessedPicture | None]) -> list[Example]:
        """The rows as they are asked; a picture that the model takes as it is, is opened once for all of them."""
        ready: dict[str, Picture | ProcessedPicture] = {}
        for picture in (picture for item in items for picture in item.pictures):
            if picture.key not in ready:
                ready[picture.key] = pictures[picture.key] or self.processors.picture(picture)
        return [
            Example(
                tuple(
                    self.processors.video(one) if isinstance(one, FilmSource) else ready[one.key] for one in item.shown
                ),
                _said(item),
            )
            for item in items
        ]

    def _tried(
        self,
        read: Callable[[Session, list[Item], list[Example]], list[dict[str, Any]]],
        model: Model,
        items: list[Item],
        pictures: Mapping[str, ProcessedPicture | None],
        opened: Mapping[str, OpenedPicture],
    ) -> list[dict[str, Any]]:
        """One batch; where it fails, its halves, down to the row that is at fault."""
        start = time.perf_counter()
        try:
            with Session(model) as session:
                found = read(session, items, self._examples(items, pictures))
        except Exception as error:  # whatever a row does to a model, the other rows must not pay for it
            if len(items) == 1:
                return [faulty(items[0], model.name, _reason(error))]
            if model.device.type == "cuda":
                torch.cuda.empty_cache()
            half = len(items) // 2
            return [
                record
                for part in (items[:half], items[half:])
                for record in self._tried(read, model, part, pictures, opened)
            ]
        seconds = (time.perf_counter() - start) / len(items)
        return [
            _hashed(record, [opened[source.key].digest for source in item.sources]) | {"seconds": seconds}
            for item, record in zip(items, found, strict=True)
        ]

    def _explained(self, session: Session, items: list[Item], examples: list[Example]) -> list[dict[str, Any]]:
        results = MapBatch(session, examples, self.way.wish).results()
        return [_record(item, result) for item, (result,) in zip(items, results, strict=True)]

    def _answered(self, session: Session, items: list[Item], examples: list[Example]) -> list[dict[str, Any]]:
        """Answers without maps; the token is their first."""
        prepared = session.prepare(examples, features=True)
        prompt = session.prefill(prepared)
        answers = session.generate(prompt.branch(), self.way.wish.max_new_tokens)
        return [
            _answer(session.model, item, [one.size[-2:] for one in example.pictures], said, logits, notes)
            for item, example, said, logits, notes in zip(
                items, examples, answers, prompt.logits, prepared.notes, strict=True
            )
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
        "picture": next((source.name for source in item.sources), None),
        "question": item.question,
        "messages": item.messages,
        "expected": item.expected,
        "boxes": None if item.boxes is None else [list(box) for box in item.boxes],
        "mask": item.mask,
        "mask_png": item.mask_png,
        "notes": list(item.notes),
        **item.extras,
    }


def _answer(
    model: Model,
    item: Item,
    sizes: Sequence[tuple[int, int]],
    said: list[int],
    logits: torch.Tensor,
    notes: tuple[str, ...],
) -> dict[str, Any]:
    target = Choice(0, int(logits.argmax())).described(logits, model.tokenizer)
    answer = shown(model.tokenizer, *said).strip()
    width, height = sizes[0] if sizes else (None, None)
    boxes, wrong = in_pixels(item.boxes or (), *sizes[0]) if sizes else ([], [])
    given = _given(item, model.name)
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
        "answer_tokens": model.tokenizer.convert_ids_to_tokens(said),
        "boxes": boxes or given["boxes"],
        "notes": [*item.notes, *wrong, *notes],
    }


def _record(item: Item, result: Explanation) -> dict[str, Any]:
    target = result.target
    boxes, notes = in_pixels(item.boxes or (), result.grid.width, result.grid.height) if result.pictures else ([], [])
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
        "length": target.length,
        "log_probability": target.log_probability,
        "correct": correct(result.answer, item.expected),
        "share_image": result.shares["image"] if result.pictures else None,
        "share_text": result.shares["text"],
        "share_first_token": result.shares["first_token"],
        "rows": result.image_map.shape[0],
        "cols": result.image_map.shape[1],
        "image_map": _whole_map(result).ravel(),
        **_placed(result),
        "pictures": _pictures(item, result) if item.others or item.films else None,
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


def _placed(result: Explanation) -> dict[str, Any]:
    """Where the map lies; nothing of words alone."""
    if not result.pictures:
        return {}
    grid = result.grid
    return {"width": grid.width, "height": grid.height, "x_edges": grid.x_edges, "y_edges": grid.y_edges}


def _whole_map(result: Explanation) -> np.ndarray:
    """The first picture's map; where a video comes first, the sum of its frames' maps."""
    if not result.pictures or result.pictures[0].video is None:
        return result.image_map
    return np.sum([frame.image_map for frame in result.frames(result.pictures[0].video)], axis=0)


def _pictures(item: Item, result: Explanation) -> list[dict[str, Any]]:
    """Of several pictures, and of the frames of videos, each with its map; what knocking it out does.

    A video is knocked out as a whole: all of its frames say the same of that.
    """
    found = result.evidence
    frames = [len(one.frames) if isinstance(one, FilmSource) else 1 for one in item.shown]
    nothing = (None,) * len(frames)
    each = (found.without, found.without_tv) if found is not None and found.without else (nothing, nothing)
    without, without_tv = (
        [value for value, times in zip(own, frames, strict=True) for _ in range(times)] for own in each
    )
    return [
        {
            "picture": source.name, "share": one.share, "without": value, "without_tv": tv, "video": one.video,
            "width": one.grid.width, "height": one.grid.height, "rows": one.grid.rows, "cols": one.grid.cols,
            "x_edges": one.grid.x_edges, "y_edges": one.grid.y_edges, "image_map": one.image_map.ravel(),
        }
        for source, one, value, tv in zip(item.sources, result.pictures, without, without_tv, strict=True)
    ]  # fmt: skip


def _hashed(record: dict[str, Any], digests: Sequence[str | None]) -> dict[str, Any]:
    """With the digests of the encoded pictures; a row of videos is about all of their frames."""
    each = record.get("pictures") and [
        one | {"picture_hash": digest} for one, digest in zip(record["pictures"], digests, strict=True)
    ]
    filmed = any(one["video"] is not None for one in each or ())
    whole = picture_hash(" ".join(map(str, digests)).encode()) if filmed else digests[0] if digests else None
    return record | {"picture_hash": whole, "pictures": each}


def _said(item: Item) -> str | Conversation:
    return item.question or "" if item.messages is None else read_messages(json.loads(item.messages))[0]


def _evidence(result: Explanation) -> dict[str, Any]:
    found = result.evidence
    if found is None:
        return {}
    numbers = {f"{EVIDENCE}{name}": getattr(found, name) for name in NUMBERS}
    blind = found.says.get("blind")
    return {"verdict": found.verdict, f"{EVIDENCE}shared": found.shared, f"{EVIDENCE}blind_token": blind, **numbers}


def _image_tokens(model: Model, item: Item, opened: Mapping[str, OpenedPicture]) -> int:
    """How many a row has; 0 where all have as many, or where it is refused later."""
    try:
        sizes = [opened[picture.key].size for picture in item.pictures]
        return 0 if model.patchwise else sum(layout.count for layout in model.layouts(sizes))
    except RelevancyError:
        return 0


def _key(item: Item) -> str:
    """Of its picture; of a row in words alone, one that no picture has."""
    return item.picture.key if item.picture else f"row {item.row}"


def _reason(error: Exception) -> str:
    text = str(error)
    return text if isinstance(error, RelevancyError) else f"{type(error).__name__}: {text}"

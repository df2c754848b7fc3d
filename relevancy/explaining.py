"""`explain(model, image, question)`: the map of what made a model say a token of its answer."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, GenerationConfig

from relevancy import targets
from relevancy.errors import RelevancyError
from relevancy.explanation import Explanation
from relevancy.geometry import Grid
from relevancy.models import Model, load
from relevancy.pictures import MAX_PIXELS, Picture, Source, open_picture
from relevancy.tape import SCOPES, Scope, Tape, record

METHODS = ("relevancy",)
MAX_NEW_TOKENS = 64
_OUT_OF_MEMORY = (
    "Out of memory: ask fewer questions at once, load with dtype bfloat16 or quantization 4bit, use scope language, "
    "or a smaller model."
)


def explain(
    model: Model | str,
    image: Source | Sequence[Source],
    question: str | Sequence[str],
    *,
    target: str | int = "first",
    scope: Scope = "language",
    method: str = "relevancy",
    layers: Iterable[int] | None = None,
    answer: str | Sequence[str] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    max_pixels: int = MAX_PIXELS,
) -> Any:
    """Why the model says what it says about a picture: an Explanation, or a list of them.

    model: what `load` or `wrap` gave, or a name for `load`.
    image, question: one each, or lists of equal length (or one beside a list), which run as one batch.
    target: "first" (the answer's first token), "first-relevant" (skips brackets, quotes and the like), a position, a
        string in the answer, "A|B" (why A rather than B), or "all" (a list: one result per token of the answer).
    scope: "language" reads the decoder's image tokens; "full" goes on through the vision tower.
    layers: decoder layers that take part, all by default.
    answer: explain this answer, teacher-forced, instead of the one the model gives.
    Raises RelevancyError. Source: Chefer, Gur and Wolf, ICCV 2021, eqs. 5 and 6.
    """
    if method not in METHODS:
        raise RelevancyError(f"Unknown method {method!r}; there is {', '.join(METHODS)}.")
    if scope not in SCOPES:
        raise RelevancyError(f"Unknown scope {scope!r}; choose from {', '.join(SCOPES)}.")
    wanted = targets.parsed(target)
    many, images, questions, answers = _paired(image, question, answer)
    chosen = None if layers is None else tuple(layers)
    if isinstance(model, str):
        model = load(model)
    items = [_item(model, *parts, max_pixels) for parts in zip(images, questions, answers, strict=True)]
    with model.lock, _memory_named():
        results = _Run(model, items, wanted, scope, chosen, max_new_tokens).results()
    by_item: list[Any] = results if wanted == "all" else [only for (only,) in results]
    return by_item if many else by_item[0]


@dataclass(frozen=True)
class _Item:
    """One question about one picture."""

    picture: Picture
    question: str
    answer: tuple[int, ...] | None
    grid: Grid
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Reading:
    """One item's row: its own tokens up to the explained position."""

    choice: targets.Choice
    logits: Tensor  # (vocabulary,) at the target's position
    row: Tensor  # (tokens,)
    vision: Tensor | None  # (tower tokens,)


class _Run:
    """One batch: the answers, the targets in them, and a backward pass for each round of targets."""

    def __init__(
        self,
        model: Model,
        items: list[_Item],
        target: str | int,
        scope: Scope,
        layers: tuple[int, ...] | None,
        max_new_tokens: int,
    ) -> None:
        self.model, self.items, self.target = model, items, target
        self.scope, self.layers, self.max_new_tokens = scope, layers, max_new_tokens
        self.pictures = [item.picture.image for item in items]
        self.questions = [item.question for item in items]

    def results(self) -> list[list[Explanation]]:
        """For each item, an Explanation of each of its targets."""
        given = [item.answer for item in self.items if item.answer is not None]
        if not given and not targets.needs_answer(self.target):
            return self._at_the_first_token()
        answers = [list(ids) for ids in given] if given else self._answers()
        choices = [targets.choose(self.target, answer, self.model.tokenizer) for answer in answers]
        return self._teacher_forced(answers, choices)

    def _at_the_first_token(self) -> list[list[Explanation]]:
        """One forward pass serves map and answer: the answer goes on from the cache that the map leaves behind."""
        inputs = self.model.prepare(self.pictures, self.questions)
        with record(self.model.model, self.scope, layers=self.layers) as tape:
            output = self.model.model(**inputs, logits_to_keep=1, use_cache=True)
            logits = output.logits[:, -1]
            first = logits.argmax(-1)
            choices = [targets.Choice(0, int(token)) for token in first]
            readings = self._read(tape, inputs, logits[:, None], [[choice] for choice in choices], [0] * len(choices))
            answers = self._continued(inputs, first[:, None], output.past_key_values)
        return self._explained(inputs, answers, readings)

    def _teacher_forced(self, answers: list[list[int]], choices: list[list[targets.Choice]]) -> list[list[Explanation]]:
        """One forward pass over prompts with their answers, as far as the last target needs."""
        last = [max(choice.position for choice in chosen) for chosen in choices]
        said = [answer[:position] for answer, position in zip(answers, last, strict=True)]
        inputs = self.model.prepare(self.pictures, self.questions, said)
        with record(self.model.model, self.scope, layers=self.layers) as tape:
            logits = self.model.model(**inputs, logits_to_keep=max(last) + 1, use_cache=False).logits
            readings = self._read(tape, inputs, logits, choices, last)
        return self._explained(inputs, answers, readings)

    def _read(
        self, tape: Tape, inputs: BatchFeature, logits: Tensor, choices: list[list[targets.Choice]], last: list[int]
    ) -> list[list[_Reading]]:
        """A backward pass for each round: the first target of every item, then the second, and so on.

        logits: (batch, kept, vocabulary), the sequences' last positions. An item whose targets are used up repeats its
        last one and is not read.
        """
        readings: list[list[_Reading]] = [[] for _ in choices]
        rounds = max(len(chosen) for chosen in choices)
        kept = inputs["attention_mask"].bool()
        for number in range(rounds):
            now = [chosen[min(number, len(chosen) - 1)] for chosen in choices]
            places = [choice.position - end - 1 for choice, end in zip(now, last, strict=True)]
            here = torch.stack([logits[index, place] for index, place in enumerate(places)])
            scalars = torch.stack([choice.scalar(scores) for choice, scores in zip(now, here, strict=True)])
            positions = torch.tensor(places, device=scalars.device)
            rows = tape.relevance(scalars, positions, retain_graph=number < rounds - 1)
            for index, choice in enumerate(now):
                if number < len(choices[index]):
                    row = rows.language[index].clone()
                    row[places[index]] -= 1  # e_t, the position's own unit
                    own = row[kept[index]].cpu()
                    read = own[: len(own) + 1 + places[index]]  # what comes after the position has no part in it
                    vision = None if rows.vision is None else rows.vision[index].cpu()
                    readings[index].append(_Reading(choice, here[index].detach(), read, vision))
        return readings

    def _answers(self) -> list[list[int]]:
        inputs = self.model.prepare(self.pictures, self.questions)
        return self._generated(self.max_new_tokens, **inputs)

    def _continued(self, inputs: BatchFeature, first: Tensor, cache: Any) -> list[list[int]]:
        """The whole answers, ids, from their first tokens and the cache of everything before."""
        opening = first.tolist()
        stops = set(self.model.stop_token_ids)
        if self.max_new_tokens <= 1 or all(token in stops for (token,) in opening):
            return [_before_stop(ids, stops) for ids in opening]
        ids, mask = torch.cat([inputs["input_ids"], first], 1), inputs["attention_mask"]
        rest = self._generated(
            self.max_new_tokens - 1,
            input_ids=ids,
            attention_mask=torch.cat([mask, mask.new_ones(mask.shape[0], 1)], 1),
            # The forward pass before counted padding too, `generate` by itself would not: keys would be shifted.
            position_ids=torch.arange(ids.shape[1], device=ids.device).expand_as(ids),
            past_key_values=cache,
        )
        return [_before_stop(ids, stops) and ids + more for ids, more in zip(opening, rest, strict=True)]

    def _generated(self, length: int, **inputs: Any) -> list[list[int]]:
        """Greedy continuations, whatever a checkpoint's own generation settings are; stop tokens left out."""
        generate: Any = self.model.model.generate
        room = self.model.room - inputs["input_ids"].shape[1]
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=max(1, min(length, room)),
            eos_token_id=list(self.model.stop_token_ids),
            pad_token_id=self.model.tokenizer.pad_token_id,
        )
        with torch.no_grad():
            sequences: Tensor = generate(**inputs, generation_config=settings)
        stops = set(self.model.stop_token_ids)
        return [_before_stop(ids, stops) for ids in sequences[:, inputs["input_ids"].shape[1] :].tolist()]

    def _explained(
        self, inputs: BatchFeature, answers: list[list[int]], readings: list[list[_Reading]]
    ) -> list[list[Explanation]]:
        kept = inputs["attention_mask"].bool()
        ids = [row[mask].cpu() for row, mask in zip(inputs["input_ids"], kept, strict=True)]
        return [
            [self._explanation(item, item_ids, answer, reading) for reading in read]
            for item, item_ids, answer, read in zip(self.items, ids, answers, readings, strict=True)
        ]

    def _explanation(self, item: _Item, ids: Tensor, answer: list[int], reading: _Reading) -> Explanation:
        tokenizer = self.model.tokenizer
        row = reading.row.numpy()
        ids = ids[: len(row)]
        is_image = (ids == self.model.image_token_id).numpy()
        image_map = self._image_map(item.grid, row[is_image], reading.vision)
        notes = list(item.notes)
        if not answer:
            notes.append("the model ended its answer at once; explained is why it said nothing")
        if not np.isfinite(image_map).all():
            notes.append("the relevance is not a number here, so there is no map: try dtype float32")
        elif not image_map.any():
            notes.append("the relevance of the picture is zero everywhere, so there is no map")
        return Explanation(
            model=self.model.name,
            method="relevancy",
            scope=self.scope,
            question=item.question,
            answer=targets.shown(tokenizer, *answer).strip(),
            target=reading.choice.described(reading.logits, tokenizer),
            image=item.picture.image,
            grid=item.grid,
            tokens=tuple(tokenizer.convert_ids_to_tokens(ids.tolist())),
            is_image=is_image,
            relevance=row,
            image_map=image_map,
            shares=shares(row, is_image),
            layers=self.layers,
            notes=tuple(notes),
            versions=versions(),
        )

    def _image_map(self, grid: Grid, image_row: np.ndarray, vision: Tensor | None) -> np.ndarray:
        patches = grid.rows * grid.cols
        values = image_row if vision is None else vision.float().numpy()
        return values[len(values) - patches :].reshape(grid.rows, grid.cols).astype(np.float32)


def _before_stop(ids: list[int], stops: set[int]) -> list[int]:
    return list(takewhile(lambda token: token not in stops, ids))


def shares(row: np.ndarray, is_image: np.ndarray) -> dict[str, float]:
    """How the row's mass falls to the picture, the words and the first token; they sum to 1, or to 0 without mass.

    The first token is apart because attention that has nothing to do rests there, which says nothing about words.
    """
    total = float(row.sum(dtype=np.float64))
    if not np.isfinite(total) or total <= 0:
        return {"image": 0.0, "text": 0.0, "first_token": 0.0}
    first = np.zeros_like(is_image)
    first[0] = not is_image[0]
    parts = {"image": is_image, "text": ~is_image & ~first, "first_token": first}
    return {name: float(row[part].sum(dtype=np.float64)) / total for name, part in parts.items()}


@cache
def versions() -> dict[str, str]:
    """Versions of what made a result."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in ("relevancy", "torch", "transformers")
    }


def _item(model: Model, source: Source, question: str, answer: str | None, max_pixels: int) -> _Item:
    picture = open_picture(source, max_pixels=max_pixels)
    grid = model.grid(picture.image.width, picture.image.height)
    notes = picture.notes + model.question_notes(question)
    ids = None
    if answer is not None:
        ids = tuple(model.tokenizer.encode(answer.strip(), add_special_tokens=False))
        if not ids:
            raise RelevancyError("The given answer is empty: give at least one word, or leave it out.")
    return _Item(picture, question, ids, grid, notes)


def _paired(
    image: Source | Sequence[Source], question: str | Sequence[str], answer: str | Sequence[str] | None
) -> tuple[bool, list[Source], list[str], list[str | None]]:
    """Whether lists were given, and lists of equal length; what was given once stands beside every other."""
    given: tuple[Any, ...] = (image, question, answer)
    listed = [value for value in given if isinstance(value, (list, tuple))]
    lengths = {len(value) for value in listed}
    if len(lengths) > 1:
        raise RelevancyError(f"Lists must be of equal length, not {' and '.join(map(str, sorted(lengths)))}.")
    count = lengths.pop() if lengths else 1
    if not count:
        raise RelevancyError("The list is empty: give at least one picture and one question.")
    images, questions, answers = (
        list(value) if isinstance(value, (list, tuple)) else [value] * count for value in given
    )
    return bool(listed), images, questions, answers


@contextmanager
def _memory_named() -> Iterator[None]:
    """Turn a failed allocation into a line that says what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise RelevancyError(_OUT_OF_MEMORY) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise RelevancyError(_OUT_OF_MEMORY) from error
        raise

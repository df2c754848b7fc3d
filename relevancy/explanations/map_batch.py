"""A batch of examples on its way to explanations: the answers, the targets in them, the method's rows, the evidence."""

from __future__ import annotations

__all__ = ["ExplainConfig", "MapBatch", "versions"]

import itertools
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from relevancy.core import targets
from relevancy.core.tape import SCOPES, Scope, whole_numbers
from relevancy.errors import RelevancyError, shortened
from relevancy.explanations.evidence import Evidence
from relevancy.explanations.explanation import Explanation
from relevancy.explanations.knockouts import MapInQuestion, evidence_for
from relevancy.explanations.picture_map import PictureMap
from relevancy.families import views
from relevancy.families.views import Layout
from relevancy.images import Picture
from relevancy.methods import registry
from relevancy.methods.base import Attribution, Attributor, MethodSettings, TargetBatch, opened
from relevancy.methods.registry import MapFunction, Method
from relevancy.models import generation
from relevancy.models.conversation import question_in
from relevancy.models.generation import MAX_NEW_TOKENS, Prefill
from relevancy.models.model import Model
from relevancy.models.prepared import Example, Prepared
from relevancy.models.session import Session
from relevancy.plotting.overlay import FLOOR, percent
from relevancy.videos import Video

_GONE = Image.new("L", (1, 1))  # of a picture whose pixels are no longer at hand; the grid has its size
_LONG = 256  # image tokens: with fewer, a batch of questions is read faster all at once
_MUCH_CUT = 0.75  # of the row's flow: three times what is left of it


@dataclass(frozen=True)
class ExplainConfig:
    """What is to be explained and how, as in `explain`; raises RelevancyError for what there is not.

    heads: layers of which what each head adds is explained by itself; None for the whole row.
    """

    target: str | int = "first"
    scope: Scope = "language"
    method: str | MapFunction = registry.DEFAULT
    layers: Iterable[int] | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    evidence: bool = True
    heads: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise RelevancyError(f"Unknown scope {self.scope!r}; choose from {', '.join(SCOPES)}.")
        method = registry.chosen(self.method, self.scope, self.layers)
        if self.heads is not None:
            registry.require_heads(method)
        object.__setattr__(self, "target", targets.parsed(self.target))
        object.__setattr__(self, "max_new_tokens", generation.checked_length(self.max_new_tokens))
        object.__setattr__(self, "layers", None if self.layers is None else whole_numbers(self.layers))

    @property
    def several(self) -> bool:
        """Whether each example has a list of results, of one token each, or of one head."""
        return self.heads is not None or targets.gives_several(self.target)

    @property
    def explainer(self) -> Method:
        """The method itself."""
        return registry.found(self.method)

    @property
    def sees_first(self) -> bool:
        """Whether the tower may run beforehand: for methods that ask about the decoder's own tokens alone."""
        return self.scope == "language" and self.explainer.by_token


def resumes(model: Model, wish: ExplainConfig, longest: int | None = None) -> bool:
    """Whether it pays to read a picture once for all questions about it, and is exact for sequences up to `longest`.

    longest: tokens, the answer's included; all that the model can read where None.
    """
    exact = model.patchwise and generation.shares_prefix(model, model.room if longest is None else longest)
    return exact and wish.explainer.resumes and model.layout(64, 64).count >= _LONG


def require_known(model: Model, wish: ExplainConfig, pictures: int = 1, *, videos: bool = False) -> None:
    """Raise RelevancyError for a scope or a method that cannot be followed to so many pictures of this family.

    videos: whether there are some among them.
    """
    by_token = wish.explainer.by_token
    if (pictures != 1 or videos) and (wish.scope != "language" or not by_token):
        shown = "a video" if videos else "several pictures" if pictures else "words alone"
        case = f"With {shown}, scope language of these methods is"
    elif not model.patchwise and not by_token:
        case = f"With {model.model.config.model_type}, these methods are"
    else:
        return
    known = (name for name, method in registry.METHODS.usable().items() if method.by_token)
    raise RelevancyError(f"{case} known here: {', '.join(known)}.")


@dataclass(frozen=True)
class _Reading:
    """One item's row: its own tokens up to the explained position."""

    choice: targets.Choice
    logits: Tensor  # as `Choice.scalar` takes them
    row: Tensor  # (tokens,)
    notes: tuple[str, ...]
    cut: float | None
    head: tuple[int, int] | None
    image_maps: tuple[np.ndarray, ...]  # of each picture, (rows, cols)


class MapBatch:
    """One batch: the answers, the targets in them, and the method's rows for each round of targets.

    prompt: after `results`, the prompts as the model has read them, if they were to be kept; None where they were read
    together with given answers only.
    """

    def __init__(
        self, session: Session, examples: Sequence[Example], wish: ExplainConfig, *, keep_prompt: bool = False
    ) -> None:
        self.session, self.model, self.examples, self.wish = session, session.model, examples, wish
        self.method = wish.explainer
        self.layers = None if wish.layers is None else tuple(wish.layers)
        self.keep_prompt = keep_prompt
        self.prompt: Prefill | None = None

    def results(self) -> list[list[Explanation]]:
        """For each example, an Explanation of each of its targets."""
        given = [list(example.answer) for example in self.examples if example.answer is not None]
        numbers = list(range(len(self.examples)))
        if given:
            chosen = self._chosen(given)
            prepared = self._prepared(numbers, given, chosen)
            resume = self._shares(prepared)
            with self._opened(prepared, resume=resume) as reader:
                return self._apart(
                    prepared,
                    lambda part, own: self._given(
                        reader, part, own, [given[one] for one in own], [chosen[one] for one in own]
                    ),
                    resume=resume,
                )
        prepared = self._prepared(numbers)
        resume = self._shares(prepared)
        with self._opened(prepared, resume=resume) as reader:
            return self._apart(prepared, lambda part, own: self._asked(reader, part, own), resume=resume)

    def _prepared(
        self, numbers: Sequence[int], answers: Sequence[list[int]] = (), choices: Sequence[list[targets.Choice]] = ()
    ) -> Prepared:
        """Some examples, with their answers as far as the last target needs them.

        The tower has seen their pictures already where the method asks about the decoder's own tokens alone.
        """
        said = [answer[: _last(chosen)] for answer, chosen in zip(answers, choices, strict=True)] or None
        return self.session.prepare([self.examples[one] for one in numbers], said, features=self.wish.sees_first)

    def _chosen(self, answers: Sequence[list[int]]) -> list[list[targets.Choice]]:
        return [targets.choose(self.wish.target, answer, self.model.tokenizer) for answer in answers]

    def _apart(
        self, prepared: Prepared, read: Callable[[Prepared, list[int]], list[list[Explanation]]], *, resume: bool
    ) -> list[list[Explanation]]:
        """What `read` makes of the batch, or with `resume` of each example by itself, its picture read before.

        read: takes examples and their numbers. The questions about one picture then come one after the other.
        """
        numbers = list(range(len(self.examples)))
        if not resume:
            return read(prepared, numbers)
        pictures = list(map(_picture_ids, self.examples))
        found: dict[int, list[Explanation]] = {}
        for number in sorted(numbers, key=lambda one: (pictures.index(pictures[one]), one)):
            (found[number],) = read(prepared.only(number), [number])
        return [found[number] for number in numbers]

    def _shares(self, prepared: Prepared) -> bool:
        """Whether pictures are read once for all of their questions."""
        if set(map(len, prepared.layouts)) != {1}:
            return False
        pictures, count = len(set(map(_picture_ids, self.examples))), len(self.examples)
        kept = count == 1 and self.session.prefixes.budget > 0
        if not (pictures < count or kept):
            return False
        return resumes(self.model, self.wish, int(prepared.kept.sum(-1).max()) + self.wish.max_new_tokens)

    def _asked(self, reader: Attributor, part: Prepared, numbers: list[int]) -> list[list[Explanation]]:
        """Questions whose answers are the model's own: one forward pass serves the first token's map and the answer."""
        output = self._forward(reader, part, 1, use_cache=True)
        logits, prefill = output.logits[:, -1:], Prefill.of(part, output)
        if not targets.needs_answer(self.wish.target):
            choices = [[targets.Choice(0, int(token))] for token in logits[:, 0].argmax(-1)]
            readings = self._read(reader, part, logits, choices)
            return self._explained(part, numbers, prefill, self._answers(prefill), readings)
        answers = self._answers(prefill)
        choices = self._chosen(answers)
        if max(map(_last, choices)) > 0:
            del output, logits, prefill  # of two forward passes only one keeps its graph
            later = self._prepared(numbers, answers, choices)
            return self._given(reader, later, numbers, answers, choices)
        return self._explained(part, numbers, prefill, answers, self._read(reader, part, logits, choices))

    def _given(
        self,
        reader: Attributor,
        part: Prepared,
        numbers: Sequence[int],
        answers: Sequence[list[int]],
        choices: Sequence[list[targets.Choice]],
    ) -> list[list[Explanation]]:
        """Questions with the answers that follow them, read in one forward pass."""
        keep = max(_last(chosen) - min(choice.position for choice in chosen) + 1 for chosen in choices)
        output = self._forward(reader, part, keep, use_cache=self.wish.evidence)
        readings = self._read(reader, part, output.logits, choices)
        return self._explained(part, numbers, Prefill.of(part, output), answers, readings)

    def _forward(self, reader: Attributor, part: Prepared, keep: int, *, use_cache: bool) -> Any:
        """The method's forward pass. Raises RelevancyError for pictures that only transformers' own model refuses."""
        try:
            return reader.forward(part, keep, use_cache=use_cache)
        except (IndexError, RuntimeError, ValueError) as error:
            short_of_memory = isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
            if self.model.patchwise or not any(part.layouts) or short_of_memory:
                raise
            raise RelevancyError(
                f"{self.model.name} cannot read this ({shortened(error)}): a picture is too small or too large for it, "
                "or the processor belongs to another model"
            ) from error

    def _opened(self, prepared: Prepared, *, resume: bool) -> AbstractContextManager[Attributor]:
        model, scope = self.model, self.wish.scope
        videos = any(layout.video is not None for own in prepared.layouts for layout in own)
        require_known(model, self.wish, max(map(len, prepared.layouts)), videos=videos)
        grids = [layout.grid for own in prepared.layouts for layout in own]
        # of a patchwise family: as many patches on every picture, wherever they lie
        rows, cols = (grids[0].rows, grids[0].cols) if grids else (0, 0)
        prefixes = self.session.prefixes if resume else None
        setting = MethodSettings(scope, self.layers, rows, cols, prefixes, self.wish.heads is not None)
        return opened(self.method, model, setting)

    def _read(
        self,
        reader: Attributor,
        prepared: Prepared,
        logits: Tensor,
        choices: Sequence[list[targets.Choice]],
    ) -> list[list[_Reading]]:
        """A round for the first target of every item, one for the second, and so on.

        logits: (batch, kept, vocabulary), the sequences' last positions. An item whose targets are used up repeats its
        last one and is not read.
        """
        last = [_last(chosen) for chosen in choices]
        readings: list[list[_Reading]] = [[] for _ in choices]
        rounds = max(len(chosen) for chosen in choices)
        kept = prepared.kept
        for number in range(rounds):
            now = [chosen[min(number, len(chosen) - 1)] for chosen in choices]
            places = [choice.last - end - 1 for choice, end in zip(now, last, strict=True)]
            now = [choice.against(own[place]) for choice, own, place in zip(now, logits, places, strict=True)]
            wanted = [number < len(chosen) for chosen in choices]
            round_ = TargetBatch(now, places, wanted, number == rounds - 1)
            found, here = reader.read(round_), round_.here(logits.detach())
            for index in (index for index, read in enumerate(wanted) if read):
                notes = found.notes[index] if found.notes else ()
                for head, row, image, cut in self._parts(found, index):
                    own = row[kept[index]].float().cpu()
                    own = own[: len(own) + 1 + places[index]]  # what comes after the position has no part in it
                    shown = own if image is None else image[kept[index]].float().cpu()[: len(own)]
                    image_maps = _image_maps(prepared, index, shown)
                    readings[index].append(_Reading(now[index], here[index], own, notes, cut, head, image_maps))
        return readings

    def _parts(
        self, found: Attribution, index: int
    ) -> Iterator[tuple[tuple[int, int] | None, Tensor, Tensor | None, float | None]]:
        """What is read of one example: layer and head, row, what the map shows if not that, and what was cut."""
        if self.wish.heads is None:
            image = None if found.image is None else found.image[index]
            yield None, found.rows[index], image, None if found.cut is None else float(found.cut[index])
            return
        assert found.heads is not None
        for layer in sorted(found.heads.keys() & self.wish.heads):
            for head, row in enumerate(found.heads[layer][index]):
                yield (layer, head), row, None, None

    def _answers(self, prompt: Prefill) -> list[list[int]]:
        """The model's own answers, ids."""
        if self.keep_prompt:
            self.prompt = prompt.branch()
        return self.session.generate(prompt.branch(), self.wish.max_new_tokens)

    def _explained(
        self,
        prepared: Prepared,
        numbers: Sequence[int],
        prefill: Prefill,
        answers: Sequence[list[int]],
        readings: list[list[_Reading]],
    ) -> list[list[Explanation]]:
        judged = iter(self._judged(prepared, prefill, readings))
        return [
            [self._explanation(prepared, row, number, answer, reading, next(judged)) for reading in read]
            for row, (number, answer, read) in enumerate(zip(numbers, answers, readings, strict=True))
        ]

    def _judged(
        self, prepared: Prepared, prefill: Prefill, readings: list[list[_Reading]]
    ) -> Sequence[Evidence | None]:
        """The evidence for each reading's map, in order."""
        maps = [
            MapInQuestion(
                row, len(reading.row), reading.choice, reading.logits, reading.image_maps, prepared.layouts[row]
            )
            for row, read in enumerate(readings)
            for reading in read
        ]
        return evidence_for(self.model, prepared, prefill, maps) if self.wish.evidence else [None] * len(maps)

    def _explanation(
        self,
        prepared: Prepared,
        place: int,
        number: int,
        answer: list[int],
        reading: _Reading,
        evidence: Evidence | None,
    ) -> Explanation:
        """Of the example of this number, at this place in what was prepared."""
        tokenizer, example, layouts = self.model.tokenizer, self.examples[number], prepared.layouts[place]
        row, maps = reading.row.numpy(), reading.image_maps
        ids = prepared.own_ids(place)[: len(row)].cpu()
        is_image = self.model.shown_at(ids).numpy()
        different = list(dict.fromkeys(ids.tolist()))  # a picture's are all the same
        names = dict(zip(different, tokenizer.convert_ids_to_tokens(different), strict=True))
        notes = [*prepared.notes[place], *reading.notes, *_method_notes(self.method)]
        placed = np.concatenate([np.ones(0, bool), *(layout.placed for layout in layouts)])
        if not placed.all():
            apart = np.flatnonzero(is_image)[~placed]
            notes.append(_placeless(np.abs(row[apart]).sum() / max(np.abs(row).sum(), np.finfo(np.float32).tiny)))
        if not answer:
            notes.append("the model ended its answer at once; explained is why it said nothing")
        sizes = np.abs(row) if self.method.signed else row
        mass = shares(sizes, is_image)
        if not np.isfinite(row).all() or not all(np.isfinite(one).all() for one in maps):
            notes.append("the relevance is not a number here, so there is no map: try dtype float32")
        elif not layouts:
            notes.append("there is no picture: all relevance is on words, and there is no evidence of a picture's part")
        elif not any(one.any() for one in maps):
            notes.append("the relevance of the picture is zero everywhere, so there is no map")
        elif mass["image"] < FLOOR and reading.head is None:
            notes.append(_faint(mass["image"], known=evidence is not None))
        if reading.cut is not None and reading.cut >= _MUCH_CUT:
            notes.append(
                f"the clamp of eq. 5 removed {percent(reading.cut)} of the relevance on its way; method "
                "relevancy-magnitude keeps it"
            )
        return Explanation(
            model=self.model.name,
            method=self.method.name,
            scope=self.wish.scope,
            question=question_in(example.question),
            conversation=example.question if isinstance(example.question, tuple) else (),
            answer=targets.shown(tokenizer, *answer).strip(),
            answer_tokens=tuple(tokenizer.convert_ids_to_tokens(answer)),
            target=reading.choice.described(reading.logits, tokenizer),
            pictures=_picture_maps(example, layouts, maps, picture_shares(sizes, is_image, layouts)),
            tokens=tuple(names[token] for token in ids.tolist()),
            is_image=is_image,
            relevance=row,
            shares=mass,
            cut=reading.cut,
            evidence=evidence,
            layers=self.layers,
            head=reading.head,
            notes=tuple(notes),
            versions=versions() | {package: metadata.version(package) for package in self.method.needs},
        )


def _picture_ids(example: Example) -> tuple[int, ...]:
    return tuple(map(id, example.pictures))


def _last(choices: Sequence[targets.Choice]) -> int:
    """The last position of an answer that is explained."""
    return max(choice.last for choice in choices)


def _image_maps(prepared: Prepared, number: int, row: Tensor) -> tuple[np.ndarray, ...]:
    """Each picture's map, (rows, cols), from what an example's own tokens say of it."""
    layouts, places = prepared.layouts[number], prepared.image_places(number).cpu()
    on_pictures = views.parted(row[places[places < len(row)]].numpy(), layouts)
    return tuple(layout.image_map(own) for layout, own in zip(layouts, on_pictures, strict=True))


def _picture_maps(
    example: Example, layouts: Sequence[Layout], maps: Sequence[np.ndarray], shares: Sequence[float]
) -> tuple[PictureMap, ...]:
    """Each picture and frame with its map and its share; the frames of one step have equal parts of the step's."""
    frames = itertools.chain.from_iterable(
        [frame.image for frame in one.frames]
        if isinstance(one, Video)
        else [one.image if isinstance(one, Picture) else _GONE]
        for one in example.pictures
    )
    return tuple(
        PictureMap(
            next(frames), layout.grid, image_map / np.float32(layout.frames), share / layout.frames, layout.video
        )
        for layout, image_map, share in zip(layouts, maps, shares, strict=True)
        for _ in range(layout.frames)
    )


def _method_notes(method: Method) -> list[str]:
    """What a reader of a method's numbers must know of them."""
    notes = []
    if method.signed:
        notes.append(f"{method.name} has negative numbers for what speaks against the token; shares are of sizes alone")
    if not method.words:
        notes.append(f"{method.name} asks about the picture only: words are zero, and shares say nothing")
    return notes


def _placeless(share: float) -> str:
    return (
        f"{percent(share)} of the relevance is on image tokens that have no place in the picture (separators of rows, "
        "class tokens): it is in the image's share and not on the map"
    )


def _faint(share: float, *, known: bool) -> str:
    asking = "" if known else ". The picture may have decided the answer all the same: explain with evidence=True"
    return (
        f"{percent(share)} of the relevance is on the picture, less than {percent(FLOOR)}: the map is drawn as "
        f"empty, since so faint a map mostly points at the wrong place{asking}"
    )


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


def picture_shares(row: np.ndarray, is_image: np.ndarray, layouts: Sequence[Layout]) -> list[float]:
    """How much of the row's mass falls to each picture; they sum to the image's share."""
    total = float(row.sum(dtype=np.float64))
    known = np.isfinite(total) and total > 0
    parts = views.parted(row[is_image], layouts)
    return [float(part.sum(dtype=np.float64)) / total if known else 0.0 for part in parts]


@cache
def versions() -> dict[str, str]:
    """Versions of what made a result."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in ("relevancy", "torch", "transformers")
    }

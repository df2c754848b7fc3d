"""`explain(model, image, question)`: the map of what made a model say a token of its answer."""

from __future__ import annotations

__all__ = ["ExplainConfig", "ExplainOptions", "explain"]

import platform
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, overload

import numpy as np
from torch import Tensor
from transformers import BatchFeature

from relevancy.core import targets
from relevancy.core.tape import SCOPES, Scope, whole_numbers
from relevancy.errors import RelevancyError
from relevancy.explanations.evidence import Evidence, MapInQuestion, evidence_for
from relevancy.explanations.explanation import Explanation
from relevancy.families.views import Layout
from relevancy.images import MAX_PIXELS, Picture, Source, open_picture
from relevancy.methods import registry
from relevancy.methods.base import Attributor, MethodSettings, TargetBatch, opened
from relevancy.methods.registry import MapFunction, Method
from relevancy.models import generation
from relevancy.models.generation import MAX_NEW_TOKENS, Prefill
from relevancy.models.model import Model, load
from relevancy.plotting.overlay import FLOOR, percent

if TYPE_CHECKING:
    from typing_extensions import Unpack

_MUCH_CUT = 0.75  # of the row's flow: three times what is left of it


Several: TypeAlias = list[Any] | tuple[Any, ...]
"""What makes a batch: a list where one thing could stand. A string or another sequence is one thing."""


class ExplainOptions(TypedDict, total=False):
    """The options of `explain` that decide nothing about the form of its result."""

    scope: Scope
    method: str | MapFunction
    layers: Iterable[int] | None
    max_new_tokens: int
    evidence: bool
    max_pixels: int


# A target that is only known to be a string is taken for one token: "all" must be written out to be told apart.
@overload
def explain(  # type: ignore[overload-overlap]
    model: Model | str,
    image: Source,
    question: str,
    *,
    target: Literal["all"],
    answer: str | None = ...,
    **options: Unpack[ExplainOptions],
) -> list[Explanation]: ...
@overload
def explain(
    model: Model | str,
    image: Source,
    question: str,
    *,
    target: str | int = ...,
    answer: str | None = ...,
    **options: Unpack[ExplainOptions],
) -> Explanation: ...
@overload
def explain(  # type: ignore[overload-overlap]
    model: Model | str,
    image: Source | Several,
    question: Several,
    *,
    target: Literal["all"],
    answer: str | Several | None = ...,
    **options: Unpack[ExplainOptions],
) -> list[list[Explanation]]: ...
@overload
def explain(
    model: Model | str,
    image: Source | Several,
    question: Several,
    *,
    target: str | int = ...,
    answer: str | Several | None = ...,
    **options: Unpack[ExplainOptions],
) -> list[Explanation]: ...
@overload
def explain(  # type: ignore[overload-overlap]
    model: Model | str,
    image: Several,
    question: str,
    *,
    target: Literal["all"],
    answer: str | Several | None = ...,
    **options: Unpack[ExplainOptions],
) -> list[list[Explanation]]: ...
@overload
def explain(
    model: Model | str,
    image: Several,
    question: str,
    *,
    target: str | int = ...,
    answer: str | Several | None = ...,
    **options: Unpack[ExplainOptions],
) -> list[Explanation]: ...
@overload
def explain(  # type: ignore[overload-overlap]
    model: Model | str,
    image: Source,
    question: str,
    *,
    target: Literal["all"],
    answer: Several,
    **options: Unpack[ExplainOptions],
) -> list[list[Explanation]]: ...
@overload
def explain(
    model: Model | str,
    image: Source,
    question: str,
    *,
    target: str | int = ...,
    answer: Several,
    **options: Unpack[ExplainOptions],
) -> list[Explanation]: ...
def explain(
    model: Model | str,
    image: Source | Sequence[Source],
    question: str | Sequence[str],
    *,
    target: str | int = "first",
    scope: Scope = "language",
    method: str | MapFunction = registry.DEFAULT,
    layers: Iterable[int] | None = None,
    answer: str | Sequence[str] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    evidence: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> Any:
    """Why the model says what it says about a picture: an Explanation, or a list of them.

    model: what `load` or `wrap` gave, or a name for `load`.
    image, question: one each, or lists of equal length (or one beside a list), which run as one batch.
    target: "first" (the answer's first token), "first-relevant" (skips brackets, quotes and the like), "contrast" (the
        first relevant token against the likeliest other one there), a position (2 or "2", from 0; -1 is the last), a
        string in the answer, "A|B" (why A rather than B), or "all" (a list: one result per token of the answer).
        "word:2" is the string 2 in the answer, and so for all that read as another target.
    scope: "language" reads the decoder's image tokens; "full" goes on through the vision tower.
    method: one of `relevancy.methods.registry.METHODS`, which says of each what it computes, costs and needs; numbers
        are as it gives them, and a note says where they may be negative. Or a function of your own that gives the maps
        of a batch, as `relevancy.register_method` takes.
    layers: decoder layers that take part, all by default; for methods that read the layers' attention.
    answer: explain this answer, teacher-forced, instead of the one the model gives: greedy, each token the likeliest,
        whatever generation settings came with the checkpoint.
    evidence: knock parts of the picture out and see what becomes of the token, see `Explanation.evidence`.
    Raises RelevancyError. Source of the default: Chefer, Gur and Wolf, ICCV 2021, eqs. 5 and 6.
    """
    wish = ExplainConfig(target, scope, method, layers, max_new_tokens, evidence)
    many, images, questions, answers = _paired(image, question, answer)
    if isinstance(model, str):
        model = load(model)
    pictures = (open_picture(source, max_pixels=max_pixels) for source in images)
    items = [_item(model, *parts) for parts in zip(pictures, questions, answers, strict=True)]
    with model.lock, generation.oom_as_error():
        results = _Run(model, items, wish).results()
    by_item: list[Any] = results if wish.target == "all" else [only for (only,) in results]
    return by_item if many else by_item[0]


@dataclass(frozen=True)
class ExplainConfig:
    """What is to be explained and how, as in `explain`; raises RelevancyError for what there is not."""

    target: str | int = "first"
    scope: Scope = "language"
    method: str | MapFunction = registry.DEFAULT
    layers: Iterable[int] | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    evidence: bool = True

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise RelevancyError(f"Unknown scope {self.scope!r}; choose from {', '.join(SCOPES)}.")
        registry.chosen(self.method, self.scope, self.layers)
        object.__setattr__(self, "target", targets.parsed(self.target))
        object.__setattr__(self, "layers", None if self.layers is None else whole_numbers(self.layers))

    @property
    def explainer(self) -> Method:
        """The method itself."""
        return registry.found(self.method)


def explain_one(
    model: Model, picture: Picture, question: str, answer: str | None, wish: ExplainConfig
) -> tuple[Explanation, Prefill | None]:
    """What `explain` gives for one token of one answer, and the prompt as the model has read it.

    The prompt is None where it was read together with a given answer only.
    """
    with model.lock, generation.oom_as_error():
        run = _Run(model, [_item(model, picture, question, answer)], wish, keep_prompt=True)
        ((result,),) = run.results()
    return result, run.prompt


def explain_batch(
    model: Model, pictures: Sequence[Picture], questions: Sequence[str], wish: ExplainConfig
) -> list[Explanation]:
    """What `explain` gives for one target of each answer, read as one batch; pictures are open already."""
    with model.lock, generation.oom_as_error():
        items = [_item(model, *asked, None) for asked in zip(pictures, questions, strict=True)]
        return [only for (only,) in _Run(model, items, wish).results()]


@dataclass(frozen=True)
class _Item:
    """One question about one picture."""

    picture: Picture
    question: str
    answer: tuple[int, ...] | None
    layout: Layout
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Reading:
    """One item's row: its own tokens up to the explained position."""

    choice: targets.Choice
    logits: Tensor  # (vocabulary,) at the target's position
    row: Tensor  # (tokens,)
    vision: Tensor | None  # (tower tokens,)
    notes: tuple[str, ...]
    cut: float | None
    image_map: np.ndarray  # (rows, cols)


class _Run:
    """One batch: the answers, the targets in them, and the method's rows for each round of targets."""

    def __init__(self, model: Model, items: list[_Item], wish: ExplainConfig, *, keep_prompt: bool = False) -> None:
        self.model, self.items, self.target = model, items, wish.target
        self.scope, self.max_new_tokens, self.evidence = wish.scope, wish.max_new_tokens, wish.evidence
        self.method = wish.explainer
        self.layers = None if wish.layers is None else tuple(wish.layers)
        self.keep_prompt = keep_prompt
        self.prompt: Prefill | None = None
        self.pictures = [item.picture.image for item in items]
        self.questions = [item.question for item in items]

    def results(self) -> list[list[Explanation]]:
        """For each item, an Explanation of each of its targets."""
        given = [item.answer for item in self.items if item.answer is not None]
        if not given and not targets.needs_answer(self.target):
            return self._at_the_first_token()
        if given:
            answers = [list(ids) for ids in given]
        else:
            answers = self._answers(generation.read(self.model, self.pictures, self.questions))
        choices = [targets.choose(self.target, answer, self.model.tokenizer) for answer in answers]
        return self._teacher_forced(answers, choices)

    def _at_the_first_token(self) -> list[list[Explanation]]:
        """One forward pass serves map and answer: the answer goes on from the cache that the map leaves behind."""
        inputs = self.model.prepare(self.pictures, self.questions)
        with self._opened() as reader:
            output = reader.forward(inputs, 1, use_cache=True)
            logits = output.logits[:, -1:]
            choices = [[targets.Choice(0, int(token))] for token in logits[:, 0].argmax(-1)]
            readings = self._read(reader, inputs, logits, choices, [0] * len(choices))
            prefill = Prefill.of(inputs, output)
            answers = self._answers(prefill.branch())
        return self._explained(inputs, prefill, answers, readings)

    def _teacher_forced(self, answers: list[list[int]], choices: list[list[targets.Choice]]) -> list[list[Explanation]]:
        """One forward pass over prompts with their answers, as far as the last target needs."""
        last = [max(choice.position for choice in chosen) for chosen in choices]
        said = [answer[:position] for answer, position in zip(answers, last, strict=True)]
        inputs = self.model.prepare(self.pictures, self.questions, said)
        with self._opened() as reader:
            output = reader.forward(inputs, max(last) + 1, use_cache=self.evidence)
            readings = self._read(reader, inputs, output.logits, choices, last)
        return self._explained(inputs, Prefill.of(inputs, output), answers, readings)

    def _opened(self) -> AbstractContextManager[Attributor]:
        layout, model = self.items[0].layout, self.model
        if not model.patchwise and (self.scope != "language" or not self.method.by_token):
            raise RelevancyError(
                f"With {model.model.config.model_type}, scope language of these methods is known here: "
                f"{', '.join(name for name, other in registry.METHODS.usable().items() if other.by_token)}."
            )
        grid = layout.grid  # of a family that is patchwise: as many patches on every picture, wherever they lie on it
        return opened(self.method, self.model, MethodSettings(self.scope, self.layers, grid.rows, grid.cols))

    def _read(
        self,
        reader: Attributor,
        inputs: BatchFeature,
        logits: Tensor,
        choices: list[list[targets.Choice]],
        last: list[int],
    ) -> list[list[_Reading]]:
        """A round for the first target of every item, one for the second, and so on.

        logits: (batch, kept, vocabulary), the sequences' last positions. An item whose targets are used up repeats its
        last one and is not read.
        """
        readings: list[list[_Reading]] = [[] for _ in choices]
        rounds = max(len(chosen) for chosen in choices)
        kept = inputs["attention_mask"].bool()
        for number in range(rounds):
            now = [chosen[min(number, len(chosen) - 1)] for chosen in choices]
            places = [choice.position - end - 1 for choice, end in zip(now, last, strict=True)]
            now = [choice.against(own[place]) for choice, own, place in zip(now, logits, places, strict=True)]
            wanted = [number < len(chosen) for chosen in choices]
            round_ = TargetBatch(now, places, wanted, number == rounds - 1)
            found, here = reader.read(round_), round_.here(logits).detach()
            for index in (index for index, read in enumerate(wanted) if read):
                own = found.rows[index][kept[index]].float().cpu()
                own = own[: len(own) + 1 + places[index]]  # what comes after the position has no part in it
                vision = None if found.vision is None else found.vision[index].cpu()
                notes = found.notes[index] if found.notes else ()
                cut = None if found.cut is None else float(found.cut[index])
                ids = inputs["input_ids"][index][kept[index]]
                image_map = self._image_map(self.items[index].layout, own, ids, vision)
                readings[index].append(_Reading(now[index], here[index], own, vision, notes, cut, image_map))
        return readings

    def _answers(self, prompt: Prefill) -> list[list[int]]:
        """The model's own answers, ids; they go on from the prompt's cache."""
        if self.keep_prompt:
            self.prompt = prompt.branch()
        return generation.answers(self.model, prompt, self.max_new_tokens)

    def _explained(
        self, inputs: BatchFeature, prefill: Prefill, answers: list[list[int]], readings: list[list[_Reading]]
    ) -> list[list[Explanation]]:
        kept = inputs["attention_mask"].bool()
        ids = [row[mask].cpu() for row, mask in zip(inputs["input_ids"], kept, strict=True)]
        judged = iter(self._judged(inputs, prefill, readings))
        return [
            [self._explanation(item, item_ids, answer, reading, next(judged)) for reading in read]
            for item, item_ids, answer, read in zip(self.items, ids, answers, readings, strict=True)
        ]

    def _judged(
        self, inputs: BatchFeature, prefill: Prefill, readings: list[list[_Reading]]
    ) -> Sequence[Evidence | None]:
        """The evidence for each reading's map, in order."""
        maps = [
            MapInQuestion(row, len(reading.row), reading.choice, reading.image_map, self.items[row].layout)
            for row, read in enumerate(readings)
            for reading in read
        ]
        return evidence_for(self.model, prefill, inputs, maps) if self.evidence else [None] * len(maps)

    def _explanation(
        self, item: _Item, ids: Tensor, answer: list[int], reading: _Reading, evidence: Evidence | None
    ) -> Explanation:
        tokenizer = self.model.tokenizer
        row, image_map = reading.row.numpy(), reading.image_map
        ids = ids[: len(row)]
        is_image = (ids == self.model.image_token_id).numpy()
        notes = [*item.notes, *reading.notes, *_method_notes(self.method)]
        if not item.layout.placed.all():
            apart = np.flatnonzero(is_image)[~item.layout.placed]
            notes.append(_placeless(np.abs(row[apart]).sum() / max(np.abs(row).sum(), np.finfo(np.float32).tiny)))
        if not answer:
            notes.append("the model ended its answer at once; explained is why it said nothing")
        if not np.isfinite(image_map).all():
            notes.append("the relevance is not a number here, so there is no map: try dtype float32")
        elif not image_map.any():
            notes.append("the relevance of the picture is zero everywhere, so there is no map")
        mass = shares(np.abs(row) if self.method.signed else row, is_image)
        if image_map.any() and mass["image"] < FLOOR:
            notes.append(_faint(mass["image"], known=evidence is not None))
        if reading.cut is not None and reading.cut >= _MUCH_CUT:
            notes.append(
                f"the clamp of eq. 5 removed {percent(reading.cut)} of the relevance on its way; method "
                "relevancy-magnitude keeps it"
            )
        return Explanation(
            model=self.model.name,
            method=self.method.name,
            scope=self.scope,
            question=item.question,
            answer=targets.shown(tokenizer, *answer).strip(),
            answer_tokens=tuple(tokenizer.convert_ids_to_tokens(answer)),
            target=reading.choice.described(reading.logits, tokenizer),
            image=item.picture.image,
            grid=item.layout.grid,
            tokens=tuple(tokenizer.convert_ids_to_tokens(ids.tolist())),
            is_image=is_image,
            relevance=row,
            image_map=image_map,
            shares=mass,
            cut=reading.cut,
            evidence=evidence,
            layers=self.layers,
            notes=tuple(notes),
            versions=versions() | {package: metadata.version(package) for package in self.method.needs},
        )

    def _image_map(self, layout: Layout, row: Tensor, ids: Tensor, vision: Tensor | None) -> np.ndarray:
        """The picture's map, (rows, cols), from a row with its own ids or from the tower's tokens."""
        on_picture = row[ids[: len(row)].cpu() == self.model.image_token_id].numpy()
        layout.check(len(on_picture))
        if vision is None:
            return layout.image_map(on_picture)
        rows, cols = layout.grid.rows, layout.grid.cols
        return vision.float().numpy()[len(vision) - rows * cols :].reshape(rows, cols)


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


@cache
def versions() -> dict[str, str]:
    """Versions of what made a result."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in ("relevancy", "torch", "transformers")
    }


def _item(model: Model, picture: Picture, question: str, answer: str | None) -> _Item:
    layout = model.layout(picture.image.width, picture.image.height)
    notes = model.notes + picture.notes + model.question_notes(question)
    return _Item(picture, question, None if answer is None else generation.encoded(model, answer), layout, notes)


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
    if any(one is None for one in answers) and any(one is not None for one in answers):
        raise RelevancyError("Some answers are given and some are not: give one for each question, or none at all.")
    return bool(listed), images, questions, answers

"""Is the verdict of a map's evidence right? Held-out scenes, whose objects are known, and explainers planted to lie."""

from __future__ import annotations

__all__ = ["CollectedMaps", "Truth", "collect"]

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from relevancy.checking.store import ANSWER, Store, locked_store
from relevancy.demo.evaluation import held_out
from relevancy.demo.liars import another, blinded, blob, outline, planting
from relevancy.demo.questions import YES_NO, Question
from relevancy.demo.world import Scene
from relevancy.explanations.evidence import NUMBERS, Evidence
from relevancy.explanations.explain import explain
from relevancy.explanations.explanation import Explanation
from relevancy.explanations.knockouts import BEST, DRAWS, PEAK
from relevancy.geometry import Grid
from relevancy.methods.registry import MapFunction, chosen
from relevancy.metrics.evidence import JudgedMap, concentration
from relevancy.metrics.localization import peak_on, pointing_patch
from relevancy.models.model import Model
from relevancy.models.vision_cache import digest_of

FORMS = ("open", "yes or no", "with options")
"""Forms of question: any word can be the answer, Yes or No is, a letter is."""

OUTLINE, BLIND, OTHER, BLOB, NOISE = (
    "outline", "outline, blind model", "outline of another object", "centre blob", "random"
)  # fmt: skip
"""Planted maps. The first is right by construction, and shows which right maps can be confirmed at all."""

Truth = Literal["middle", "touch"]
"""When a map's peak lies on the object: the highest patch has its middle there, or any of the object's pixels."""

_SCENES = 8  # read together; each is the other picture of the next one
_EVERY = 4  # of so many such parts one is shown to planted explainers, of which there are more than of methods
_EVIDENCE = "evidence"


def other_picture(method: str) -> str:
    """The planted explainer that gives what a method has given for the scene before."""
    return f"{method} of another picture"


def planted_names(methods: Sequence[str]) -> tuple[str, ...]:
    """All planted explainers, by name."""
    return (OUTLINE, BLIND, OTHER, *map(other_picture, methods), BLOB, NOISE)


@dataclass(frozen=True)
class _Asked:
    """A question about one object of a scene."""

    scene: Scene
    number: int
    question: Question

    @property
    def key(self) -> str:
        return f"{self.scene.seed}/{self.number}"

    @property
    def form(self) -> str:
        if self.question.form == "ab":
            return "with options"
        return "yes or no" if self.question.answer in YES_NO else "open"


@dataclass
class CollectedMaps:
    """What is stored about questions: how many were asked and answered rightly, and every map."""

    asked: int = 0
    right: int = 0
    _found: list[tuple[str, str, str, Mapping[str, Any]]] = field(default_factory=list)

    def take(self, asked: Sequence[_Asked], store: Store, explainers: Sequence[str]) -> None:
        """Take these questions, as these explainers answered them."""
        for one in asked:
            self.asked += 1
            self.right += store.found[one.key, "", ANSWER]["right"]
            for name in explainers:
                if values := store.found.get((one.key, name, _EVIDENCE)):
                    self._found.append((name, one.form, str(one.scene.seed), values))

    def maps(self, truth: Truth) -> dict[str, dict[str, list[JudgedMap]]]:
        """Every map by explainer and form of question, right or wrong by this truth."""
        found: dict[str, dict[str, list[JudgedMap]]] = {}
        for name, form, picture, values in self._found:
            evidence = Evidence.from_json({number: values[number] for number in NUMBERS})
            own = JudgedMap(picture, values[truth], values["share"], values["concentration"], evidence)
            found.setdefault(name, {each: [] for each in FORMS})[form].append(own)
        return found


def collect(
    model: Model,
    folder: Path,
    *,
    scenes: int,
    seed: int,
    methods: Sequence[str],
    progress: Callable[[float], None] = lambda _: None,
) -> CollectedMaps:
    """The evidence for maps of every question about exactly one visible object, kept in `folder` as it comes.

    Maps of methods by name are read where the model's answer is right; those of planted explainers too, for a quarter
    of the scenes; those of the blinded model for all its answers there. Stopped at any moment, the same call goes on;
    with more scenes it goes further.
    Raises RelevancyError for a folder of other weights or other settings.
    """
    for method in methods:
        chosen(method, "language", None)
    decided = {"model": model.name, "weights": digest_of(model.model.state_dict()), "seed": seed}
    settings = decided | {"methods": list(methods), "best": BEST, "peak": PEAK, "draws": DRAWS}
    blind = blinded(model)
    found = CollectedMaps()
    drawn = held_out(scenes, seed)
    with locked_store(folder, settings) as store:
        for start in range(0, scenes, _SCENES):
            asked = [
                _Asked(one, number, question)
                for one in islice(drawn, _SCENES)
                for number, question in enumerate(one.questions)
                if len(question.items) == 1
            ]
            planted = start // _SCENES % _EVERY == 0
            if asked:
                _judge(model, blind if planted else None, store, asked, methods)
            found.take(asked, store, (*methods, *(planted_names(methods) if planted else ())))
            progress(min(start + _SCENES, scenes) / scenes)
    return found


_Result = tuple[tuple[str, str, str], dict[str, Any]]


def _judge(model: Model, blind: Model | None, store: Store, asked: Sequence[_Asked], methods: Sequence[str]) -> None:
    """What is not stored yet of these questions: first which are answered rightly, then one explainer after the other.

    blind: the blinded model; without it there are no planted explainers.
    """
    first: list[Explanation] = []
    if any((one.key, "", ANSWER) not in store.found for one in asked):
        results = _explained(model, asked, methods[0])
        hits = [result.answer.strip() == one.question.answer for one, result in zip(asked, results, strict=True)]
        store.add(((one.key, "", ANSWER), {"right": hit}) for one, hit in zip(asked, hits, strict=True))
        first = list(compress(results, hits))
    right = [one for one in asked if store.found[one.key, "", ANSWER]["right"]]
    answers = [one.question.answer for one in right]
    side = asked[0].scene.side
    grid = model.grid(side, side)
    if blind is not None and _missing(store, BLIND, asked):
        whole = [outline(one.scene, one.question.items, grid) for one in asked]
        store.add(_judged(BLIND, asked, _explained(blind, asked, planting(whole)), right=False))
    several = blind is not None and len({one.scene.seed for one in right}) > 1
    for number, method in enumerate(methods):
        other = other_picture(method)
        wanted = several and _missing(store, other, right)
        if not (wanted or _missing(store, method, right)):
            continue
        results = first if first and not number else _explained(model, right, method, answers)
        store.add(_judged(method, right, results))
        if wanted:
            copied = _of_the_scene_before(right, [result.image_map for result in results])
            store.add(_judged(other, right, _explained(model, right, planting(copied), answers)))
    for name, some, maps in _planted(right, grid) if blind is not None else ():
        if _missing(store, name, some):
            given = [one.question.answer for one in some]
            store.add(_judged(name, some, _explained(model, some, planting(maps), given)))


def _missing(store: Store, explainer: str, asked: Sequence[_Asked]) -> bool:
    return any((one.key, explainer, _EVIDENCE) not in store.found for one in asked)


def _planted(asked: Sequence[_Asked], grid: Grid) -> Iterator[tuple[str, Sequence[_Asked], list[np.ndarray]]]:
    """Planted maps that ask no model: their name, the questions that have one, and the maps."""
    yield OUTLINE, asked, [outline(one.scene, one.question.items, grid) for one in asked]
    others = [(one, item) for one in asked if (item := another(one.scene, one.question.items)) is not None]
    if others:
        yield OTHER, [one for one, _ in others], [outline(one.scene, [item], grid) for one, item in others]
    yield BLOB, asked, [blob(grid.rows, grid.cols)] * len(asked)
    noise = [np.random.default_rng([one.scene.seed, one.number]) for one in asked]
    yield NOISE, asked, [rng.random((grid.rows, grid.cols)) for rng in noise]


def _judged(
    explainer: str, asked: Sequence[_Asked], results: Sequence[Explanation], *, right: bool = True
) -> Iterator[_Result]:
    """What is kept of maps. right: whether they can be right, as those of a model that sees nothing cannot."""
    for one, result in zip(asked, results, strict=True):
        assert result.evidence is not None
        numbers = {name: getattr(result.evidence, name) for name in NUMBERS}
        beside = {"share": result.shares["image"], "concentration": concentration(result.image_map)}
        truth = {name: right and found for name, found in _on_object(one, result).items()}
        yield (one.key, explainer, _EVIDENCE), numbers | beside | truth


def _on_object(asked: _Asked, result: Explanation) -> dict[Truth, bool]:
    """Whether a map's peak lies on the object that is asked about; of an empty map it does not."""
    items, values = asked.question.items, result.image_map
    pointing = pointing_patch(values, result.grid, asked.scene.mask(*items))
    touched = peak_on(values, outline(asked.scene, items, result.grid) > 0)
    return {"middle": pointing >= 0.5, "touch": touched >= 0.5 and not math.isnan(pointing)}


def _explained(
    model: Model, asked: Sequence[_Asked], method: str | MapFunction, answers: Sequence[str] | None = None
) -> list[Explanation]:
    images, questions = [one.scene.image for one in asked], [one.question.text for one in asked]
    return explain(model, images, questions, answer=None if answers is None else list(answers), method=method)


def _of_the_scene_before(asked: Sequence[_Asked], maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each question a map of the scene before its own; for the first scene's, of the last one."""
    by_scene: dict[int, list[np.ndarray]] = defaultdict(list)
    for one, image_map in zip(asked, maps, strict=True):
        by_scene[one.scene.seed].append(image_map)
    order = list(by_scene)
    copied = []
    for place, own in enumerate(order):
        before = by_scene[order[place - 1]]
        copied += [before[number % len(before)] for number in range(len(by_scene[own]))]
    return copied

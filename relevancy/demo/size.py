"""Does the smaller model look less? Models of several sizes, asked the same questions about held-out scenes.

The unit is a scene. Of all questions that it can be asked one is drawn, which is put openly and with options.
"""

from __future__ import annotations

__all__ = ["ModelRun", "SizeFindings", "SizedModel", "model_run", "size_findings", "sized_models"]

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, product
from pathlib import Path
from typing import Any

import numpy as np

from relevancy.checking.store import SCORES, locked_store
from relevancy.data.answer_match import correct
from relevancy.demo.evaluation import held_out
from relevancy.demo.questions import Question, ask_twice, chance
from relevancy.demo.world import Scene
from relevancy.errors import RelevancyError
from relevancy.explanations.evidence import BLIND_TV, NUMBERS, Evidence
from relevancy.explanations.explain import explain
from relevancy.explanations.explanation import Explanation
from relevancy.explanations.knockouts import BEST, DRAWS, PEAK
from relevancy.metrics.localization import against_truth
from relevancy.models.model import Model
from relevancy.models.vision_cache import digest_of
from relevancy.stats.intervals import Interval, interval
from relevancy.stats.runs import difference_over_runs, over_runs

TARGET = "first-relevant"
FORMS: Mapping[str, str] = {"open": "open", "ab": "with options"}
ALL = "all"
SAYS = 0.01  # of a map's relevance on the picture, without which it says nothing about it
_LONGEST = 16  # tokens of an answer
_SCENES = 8  # read together
_DRAWN = 0.4  # of the time that means and intervals take: the questions are drawn again


@dataclass(frozen=True)
class SceneQuestion:
    """The question of a scene in one form."""

    scene: Scene
    question: Question

    @property
    def key(self) -> str:
        """What it is called in files."""
        return f"{self.scene.seed}/{self.question.form}"


def scene_questions(scenes: int, seed: int) -> Iterator[tuple[SceneQuestion, SceneQuestion]]:
    """Of each held-out scene one of its questions, openly and with options."""
    for drawn in held_out(scenes, seed):
        both, *_ = ask_twice(drawn.layout, drawn.shares, np.random.default_rng([drawn.seed, 5]))
        openly, optional = (SceneQuestion(drawn, question) for question in both)
        yield openly, optional


@dataclass(frozen=True, eq=False)
class SizedModel:
    """One training of a kind of model. parameters: of all of it, and of them embeddings of words. weights: a digest."""

    kind: str
    model: Model
    parameters: int
    embeddings: int
    weights: str


def sized_models(given: Sequence[tuple[str, Model]]) -> list[SizedModel]:
    """Models with their kinds, from the smallest to the largest.

    Raises RelevancyError where trainings of one kind differ in size, or are the same one.
    """
    found: list[SizedModel] = []
    for kind, model in given:
        embeddings: Any = model.model.get_input_embeddings()
        own = SizedModel(
            kind,
            model,
            sum(weight.numel() for weight in model.model.parameters()),
            embeddings.weight.numel(),
            digest_of(model.model.state_dict()),
        )
        for other in (one for one in found if one.kind == kind):
            if other.weights == own.weights:
                raise RelevancyError(
                    f"{other.model.name} and {model.name} hold the same weights: a training of {kind} counts once."
                )
            if other.parameters != own.parameters:
                raise RelevancyError(
                    f"{other.model.name} has {other.parameters:,} parameters and {model.name} {own.parameters:,}: "
                    f"trainings of one kind ({kind}) differ by their seeds alone. Give them kinds of their own."
                )
        found.append(own)
    return sorted(found, key=lambda one: one.parameters)


@dataclass(frozen=True, eq=False)
class ModelRun:
    """What a model was found to do with each question, in their order."""

    of: SizedModel
    answers: Sequence[Mapping[str, float]]

    @property
    def seconds(self) -> float:
        """Of CPU, for an answer with its map and evidence."""
        return float(np.mean([one["seconds"] for one in self.answers]))


def model_run(
    sized: SizedModel,
    folder: Path,
    *,
    scenes: int,
    seed: int,
    method: str,
    progress: Callable[[float], None] = lambda _: None,
) -> ModelRun:
    """Ask a model, and keep what is found in `folder`, under the digest of its weights.

    Stopped at any moment, the same call goes on; so does one with more scenes, another seed or method.
    """
    settings = {"weights": sized.weights, "target": TARGET, "best": BEST, "peak": PEAK, "draws": DRAWS}
    asked = scene_questions(scenes, seed)
    answers: list[Mapping[str, float]] = []
    with locked_store(folder / sized.weights[:16], settings) as store:
        for start in range(0, scenes, _SCENES):
            pairs = list(islice(asked, _SCENES))
            for same_form in zip(*pairs, strict=True):  # those with options take a pass more
                missing = [one for one in same_form if (one.key, method, SCORES) not in store.found]
                store.add(((one.key, method, SCORES), found) for one, found in _found(sized.model, missing, method))
            answers += [store.found[one.key, method, SCORES] for pair in pairs for one in pair]
            progress(min(start + _SCENES, scenes) / scenes)
    return ModelRun(sized, answers)


def _found(
    model: Model, asked: Sequence[SceneQuestion], method: str
) -> Iterator[tuple[SceneQuestion, dict[str, float]]]:
    if not asked:
        return
    began = time.process_time()
    results = _explained(model, [one.scene.image for one in asked], [one.question.text for one in asked], method)
    seconds = (time.process_time() - began) / len(asked)
    for one, result in zip(asked, results, strict=True):
        yield one, _values(one, result) | {"seconds": seconds}


def _explained(model: Model, images: Sequence[Any], questions: Sequence[str], method: str) -> list[Explanation]:
    """The maps of the first relevant tokens; of who answers nothing, that of saying nothing."""
    asked: tuple[Model, list[Any], list[str]] = model, list(images), list(questions)
    try:
        return explain(*asked, target=TARGET, method=method, max_new_tokens=_LONGEST)
    except RelevancyError:
        if len(questions) == 1:
            return explain(*asked, target="first", method=method, max_new_tokens=_LONGEST)
        each = zip(images, questions, strict=True)
        return [result for image, question in each for result in _explained(model, [image], [question], method)]


def _values(asked: SceneQuestion, result: Explanation) -> dict[str, float]:
    """What is kept of an answer; against truth only of questions about one object, of which an empty map shows none."""
    question, evidence = asked.question, result.evidence
    values = {name: math.nan if evidence is None else getattr(evidence, name) for name in NUMBERS}
    values |= {"right": float(bool(correct(result.answer, question.answer))), "share": result.shares["image"]}
    if len(question.items) == 1:
        truth = against_truth(result, asked.scene.mask(*question.items))
        values |= {name: float(np.nan_to_num(truth[name])) for name in ("pointing", "energy")}
        values["object"] = truth["chance"]
    return values


_Values = Mapping[str, float]


def _needed(values: _Values) -> float:
    return math.nan if math.isnan(values["blind_tv"]) else float(values["blind_tv"] >= BLIND_TV)


def _confirmed(values: _Values) -> float:
    if math.isnan(values["blind_tv"]):
        return math.nan
    return float(Evidence.from_json({name: values[name] for name in NUMBERS}).verdict == "confirmed")


def _where_needed(read: Callable[[_Values], float]) -> Callable[[_Values], float]:
    return lambda values: read(values) if values["right"] and _needed(values) == 1 else math.nan


def _of_right(name: str) -> Callable[[_Values], float]:
    return lambda values: values.get(name, math.nan) if values["right"] else math.nan


@dataclass(frozen=True)
class SizeMeasure:
    """What is told of a model. read: what an answer counts, NaN where it does not count."""

    title: str
    meaning: str
    read: Callable[[_Values], float]


MEASURES: Mapping[str, SizeMeasure] = {
    "right": SizeMeasure(
        "right answers", "of all, by their words; with options by the letter", lambda one: one["right"]
    ),
    "needed": SizeMeasure(
        "answers that need the picture",
        f"of all, those where {BLIND_TV:g} or more of the next token's distribution moves when the picture is knocked "
        "out of attention",
        _needed,
    ),
    "use": SizeMeasure(
        "use of the picture", "how much of that distribution moves; mean of all answers", lambda one: one["blind_tv"]
    ),
    "share": SizeMeasure(
        "relevance on the picture",
        "its share of the map's row, words included; mean of all answers. It says how a map looks, not what the "
        "picture decides",
        lambda one: one["share"],
    ),
    "confirmed": SizeMeasure("maps confirmed", "of all answers, those whose map the evidence confirms", _confirmed),
    "confirmed_needed": SizeMeasure(
        "maps confirmed where needed",
        "the same of right answers that need the picture",
        _where_needed(_confirmed),
    ),
    "says_needed": SizeMeasure(
        "maps that say something where needed",
        f"of the same answers, those with more than {SAYS:.0%} of the relevance on the picture",
        _where_needed(lambda one: float(one["share"] > SAYS)),
    ),
    "pointing": SizeMeasure(
        "peak on the object",
        "of right answers about exactly one visible object: the map's highest patch has its middle on it. An empty map "
        "has no peak",
        _of_right("pointing"),
    ),
    "energy": SizeMeasure(
        "relevance on the object",
        "of the picture's relevance, the part on that object; mean of the same answers",
        _of_right("energy"),
    ),
}
"""In their order."""


@dataclass(frozen=True)
class SizedKind:
    """A kind of model. runs: the names of its trainings. seconds: of CPU for an answer with map and evidence."""

    name: str
    runs: tuple[str, ...]
    parameters: int
    embeddings: int
    seconds: float


@dataclass(frozen=True)
class KindNumber:
    """A mean of `MEASURES` over the answers of one form.

    over_scenes: the mean over all answers, how sure with other scenes, of these very models (bootstrap; the scene is
    drawn). over_runs: the mean over trainings, how sure with other ones (Student's t). runs: each training's mean.
    """

    kind: str
    form: str
    measure: str
    over_scenes: Interval
    over_runs: Interval
    runs: tuple[float, ...]


@dataclass(frozen=True)
class KindDifference:
    """The larger kind's mean less the smaller's.

    over_scenes: of the questions that both have a number for, question by question, a kind's number being the mean of
    its trainings'. over_runs: of the trainings' means (Welch's t).
    """

    larger: str
    smaller: str
    form: str
    measure: str
    over_scenes: Interval
    over_runs: Interval


@dataclass(frozen=True)
class SizeFindings:
    """Everything that was found, kinds from the smallest to the largest.

    chance: (form, measure) -> what is reached without the picture, of right answers, or by a map of noise.
    """

    scenes: int
    seed: int
    method: str
    kinds: tuple[SizedKind, ...]
    chance: Mapping[tuple[str, str], float]
    numbers: tuple[KindNumber, ...]
    differences: tuple[KindDifference, ...]

    def number(self, kind: str, form: str, measure: str) -> KindNumber:
        """The one of these names."""
        return next(one for one in self.numbers if (one.kind, one.form, one.measure) == (kind, form, measure))


def size_findings(
    runs: Sequence[ModelRun],
    *,
    scenes: int,
    seed: int,
    method: str,
    progress: Callable[[float], None] = lambda _: None,
) -> SizeFindings:
    """Means and differences of all kinds, of what their runs have answered of the same scenes."""
    by_kind: dict[str, list[ModelRun]] = {}
    for run in runs:
        by_kind.setdefault(run.of.kind, []).append(run)
    asked: list[SceneQuestion] = []
    for pair in scene_questions(scenes, seed):
        asked += pair
        progress(_DRAWN * len(asked) / (2 * scenes))
    places = {
        form: np.array([place for place, one in enumerate(asked) if form in (ALL, FORMS[one.question.form])])
        for form in (*FORMS.values(), ALL)
    }
    values = {
        (kind, measure): np.array([[kept.read(answer) for answer in run.answers] for run in own], np.float64)
        for kind, own in by_kind.items()
        for measure, kept in MEASURES.items()
    }
    seeds = np.array([one.scene.seed for one in asked])
    numbers, differences = [], []
    for done, (form, measure) in enumerate(product(places, MEASURES), 1):
        which = places[form]
        drawn = seeds[which].tolist()
        known = {kind: values[kind, measure][:, which] for kind in by_kind}
        means = {kind: [_mean(run) for run in own] for kind, own in known.items()}
        numbers += [
            KindNumber(
                kind, form, measure, interval(own.ravel(), drawn * len(own)), over_runs(_finite(means[kind])),
                tuple(means[kind]),
            )
            for kind, own in known.items()
        ]  # fmt: skip
        by_question = {kind: _over_first(own) for kind, own in known.items()}
        differences += [
            KindDifference(
                larger, smaller, form, measure, interval(by_question[larger] - by_question[smaller], drawn),
                difference_over_runs(_finite(means[larger]), _finite(means[smaller])),
            )
            for smaller, larger in combinations(by_kind, 2)
        ]  # fmt: skip
        progress(_DRAWN + (1 - _DRAWN) * done / (len(places) * len(MEASURES)))
    kinds = tuple(
        SizedKind(
            kind, tuple(one.of.model.name for one in own), own[0].of.parameters, own[0].of.embeddings,
            float(np.mean([one.seconds for one in own])),
        )
        for kind, own in by_kind.items()
    )  # fmt: skip
    guessed = _guessed(asked, places, runs[0].answers)
    return SizeFindings(scenes, seed, method, kinds, guessed, tuple(numbers), tuple(differences))


def _guessed(
    asked: Sequence[SceneQuestion], places: Mapping[str, np.ndarray], answers: Sequence[_Values]
) -> dict[tuple[str, str], float]:
    """Of right answers by form, and of maps the share of the picture that the object fills."""
    levels = np.array([chance(one.question.type, one.question.form) for one in asked])
    objects = np.array([one.get("object", math.nan) for one in answers])
    found = {}
    for form, which in places.items():
        found[form, "right"] = float(levels[which].mean())
        found[form, "pointing"] = found[form, "energy"] = _mean(objects[which])
    return found


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _over_first(values: np.ndarray) -> np.ndarray:
    """Means over the first axis of what is known, NaN where nothing is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = np.where(known, values, 0).sum(0) / known.sum(0)
    return means


def _finite(values: Sequence[float]) -> list[float]:
    return [one for one in values if math.isfinite(one)]

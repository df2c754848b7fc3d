"""One piece of a check at a time: what a model says about some rows, and numbers of the maps of some methods."""

from __future__ import annotations

__all__ = ["Settings"]

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from relevancy.checking.rows import CheckRow
from relevancy.checking.store import ALONE, ANSWER, BLIND, CENTRE, METRIC, RANDOM, RANDOMISED, SCORES, Key
from relevancy.core.targets import shown
from relevancy.data.answer_match import correct
from relevancy.errors import RelevancyError
from relevancy.explanations.explanation import Explanation
from relevancy.images import open_picture
from relevancy.metrics.answer_flip import SHARE, answer_flips
from relevancy.metrics.confirmation import confirmation, evidence_of
from relevancy.metrics.deletion_insertion import Budget, curves
from relevancy.metrics.explainers import Explainer, centre_maps, random_maps
from relevancy.metrics.localization import against_truth
from relevancy.metrics.patch_order import orders
from relevancy.metrics.randomization import Way, blocks, randomised, stages, usual_stages
from relevancy.metrics.registry import METRICS
from relevancy.metrics.sanity_checks import Asked, answer_swap, noisy, picture_swap, question_swap, similarities
from relevancy.metrics.teacher_forcing import GivenAnswer, Replacement, TeacherForcing
from relevancy.metrics.token_perturbation import perturbation
from relevancy.models.model import Model
from relevancy.models.prepared import Example
from relevancy.models.session import Session

_REMOVED = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True)
class Settings:
    """How much is done: what decides the numbers.

    steps, step, regions: of deletion and insertion, as in `Budget`. share: of the patches, hidden for answer flips.
    control_rows: how many rows the controls are made on. tokens: whether image tokens are removed, too. target: which
    token of an answer is explained. metrics: names of `metrics.registry.METRICS` that are taken, too.
    """

    steps: int = 8
    step: int | float | None = None
    regions: int | None = None
    share: float = SHARE
    replacement: Replacement = "grey"
    control_rows: int = 100
    tokens: bool = True
    target: str | int = "first-relevant"
    seed: int = 0
    metrics: tuple[str, ...] = ()

    @property
    def budget(self) -> Budget:
        """Of deletion and insertion."""
        return Budget(self.steps, self.step, self.regions)


@dataclass(frozen=True)
class Job:
    """A piece of a check.

    part: `ANSWER`, `SCORES` or a control. rows: their numbers. methods: by name; none for answers. said: the answers
    that are explained, by row; for a control those of all rows that it may take another question or picture from.
    """

    part: str
    rows: tuple[int, ...]
    methods: tuple[str, ...] = ()
    said: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JobResult:
    """What came of a job: numbers by row, method and part, and what is to be said about them.

    untrue: for each row whose truth could not be taken, why.
    """

    results: Sequence[tuple[Key, Mapping[str, Any]]]
    notes: Sequence[str]
    untrue: Mapping[str, str] = field(default_factory=dict)


class Worker:
    """A model, rows, and methods by name, at work on one job after the other; the baselines are always there."""

    def __init__(
        self, model: Model, rows: Sequence[CheckRow], methods: Mapping[str, Explainer], settings: Settings
    ) -> None:
        self.model, self.rows, self.settings = model, rows, settings
        self.methods = {**methods, CENTRE: centre_maps()}
        self._before: dict[tuple[str, tuple[int, ...]], list[np.ndarray]] = {}
        self._notes: list[str] = []
        self._untrue: dict[str, str] = {}

    def do(self, job: Job) -> JobResult:
        """The job, done."""
        self._notes, self._untrue = [], {}
        if job.part == ANSWER:
            results = self._answers(job)
        elif job.part == SCORES:
            results = self._scores(job)
        else:
            results = self._control(job)
        return JobResult(results, tuple(dict.fromkeys(self._notes)), self._untrue)

    def controls(self) -> list[str]:
        """The parts that are controls, in their order."""
        weights = [f"{RANDOMISED} {stage}" for stage in self._stages()]
        return [*weights, "question", "picture", "answer", "noise", ALONE]

    # -- answers

    def _answers(self, job: Job) -> list[tuple[Key, Mapping[str, Any]]]:
        rows = [self.rows[number] for number in job.rows]
        return [((row.key, "", ANSWER), values) for row, values in zip(rows, self._said(rows), strict=True)]

    def _said(self, rows: Sequence[CheckRow]) -> list[dict[str, Any]]:
        """What the model says, and whether it is right (1, 0 or NaN); of a row that it cannot read, why."""
        try:
            examples = [Example((open_picture(row.picture()),), row.question) for row in rows]
            with Session(self.model) as session:
                answers = session.generate(session.prefill(session.prepare(examples, features=True)))
        except RelevancyError as error:
            if len(rows) > 1:
                return [values for row in rows for values in self._said([row])]
            return [{"fault": str(error)}]
        said = [shown(self.model.tokenizer, *ids).strip() for ids in answers]
        grades = [correct(words, row.expected) for words, row in zip(said, rows, strict=True)]
        return [
            {"fault": f"The answer holds the control token {controls[0]}, so it cannot be given back to the model."}
            if (controls := self.model.controls_in(words))
            else {"said": words, "right": float("nan") if right is None else float(right)}
            for words, right in zip(said, grades, strict=True)
        ]

    # -- scores

    def _scores(self, job: Job) -> list[tuple[Key, Mapping[str, Any]]]:
        asked = self._asked(job.rows, job.said)
        results = {name: self._results(name, 0, job.rows, asked) for name in job.methods}
        found: list[tuple[Key, Mapping[str, Any]]] = []
        for place, number in enumerate(job.rows):
            own = {name: made[place] for name, made in results.items()}
            said = GivenAnswer.words(self.model, job.said[number], self.settings.target)
            scores, blind = self._judged(number, said, own)
            key = self.rows[number].key
            found += [((key, "", BLIND), blind)] if blind else []
            found += [((key, name, SCORES), values) for name, values in scores.items()]
        return found

    def _judged(
        self, number: int, said: GivenAnswer, results: Mapping[str, Explanation]
    ) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        """Every number of one row's maps, by method, what can be read together is; and those of the answer alone."""
        row, settings = self.rows[number], self.settings
        picture = open_picture(row.picture()).image
        sight = TeacherForcing(self.model, picture, row.question, said)
        maps, seed, budget = [one.image_map for one in results.values()], [settings.seed, number], settings.budget
        patches = [orders(one, sight.seen, seed) for one in maps]
        regions = [budget.orders(one, sight, seed) for one in maps]
        judged = evidence_of(self.model, picture, row.question, said, maps)
        found: dict[str, dict[str, float]] = {name: {} for name in results}
        drawn = curves(sight, regions, budget=budget, replacement=settings.replacement)
        flips = answer_flips(sight, patches, share=settings.share, replacement=settings.replacement)
        for values, curve, flip in zip(found.values(), drawn, flips, strict=True):
            values |= {"deletion": curve.deletion_auc, "insertion": curve.insertion_auc, "flips": float(flip)}
            values["faithfulness"] = curve.insertion_auc - curve.deletion_auc
        if settings.tokens:
            removed = perturbation(sight, patches, shares=_REMOVED)
            for values, both in zip(found.values(), removed, strict=True):
                values |= {"positive": both.positive_auc, "negative": both.negative_auc}
        for values, result, evidence in zip(found.values(), results.values(), judged, strict=True):
            truth, mask = self._truth(row, result)
            values |= truth | confirmation(evidence, truth.get("pointing", math.nan))
            values |= {f"{METRIC}{name}": float(METRICS[name](result, sight, mask)) for name in settings.metrics}
        known = next((one for one in judged if one is not None), None)
        if known is None:
            return found, {}
        return found, {"blind_tv": known.blind_tv, "probability": known.probability, "blind": known.blind}

    def _truth(self, row: CheckRow, result: Explanation) -> tuple[dict[str, float], np.ndarray | None]:
        """A map against the row's mask, and the mask; nothing where there is none, or none that can be read."""
        if row.mask is None:
            return {}, None
        try:
            mask = row.mask()
            return against_truth(result, mask), mask
        except RelevancyError as error:
            self._untrue[row.key] = str(error)
            return {}, None

    # -- controls

    def _control(self, job: Job) -> list[tuple[Key, Mapping[str, Any]]]:
        everything = tuple(job.said)
        asked, use = self._asked(everything, job.said), 2 + self.controls().index(job.part)
        places = [everything.index(number) for number in job.rows]
        before = {name: self._maps_before(name, job.rows, asked.only(places)) for name in job.methods}
        found: list[tuple[Key, Mapping[str, Any]]] = []
        with self._condition(job.part, asked, [self.rows[number].picture_key for number in everything]) as changed:
            for name in job.methods:
                after = None
                if changed is not None:
                    after = self._maps(name, use, job.rows, changed.only(places), alone=job.part == ALONE)
                found += [
                    ((self.rows[number].key, name, job.part), values)
                    for number, values in zip(job.rows, _compared(before[name], after), strict=True)
                ]
        return found

    def _maps_before(self, name: str, numbers: tuple[int, ...], asked: Asked) -> list[np.ndarray]:
        """The maps that a control's are compared with; made once for all of them."""
        if (name, numbers) not in self._before:
            self._before[name, numbers] = self._maps(name, 1, numbers, asked)
        return self._before[name, numbers]

    def _stages(self) -> dict[str, tuple[Way, str]]:
        """Short names of what is random, with what `randomising.stages` takes."""
        found: dict[str, tuple[Way, str]] = {f"to {name}": ("cascading", name) for name in usual_stages(self.model)}
        alone = [name for name in ("connector", "tower") if name in blocks(self.model)]
        return found | {f"{name} alone": ("independent", name) for name in alone}

    @contextmanager
    def _condition(self, part: str, asked: Asked, pictures: Sequence[str]) -> Iterator[Asked | None]:
        """What is explained for a control, while the model is as it must be; None where it cannot be made."""
        swaps: dict[str, Callable[[], Asked]] = {
            "question": lambda: question_swap(asked, pictures),
            "picture": lambda: picture_swap(asked, pictures),
            "answer": lambda: answer_swap(asked),
            "noise": lambda: noisy(asked, self.settings.seed),
            ALONE: lambda: asked,
        }
        if part in swaps:
            changed: Asked | None = None
            try:
                changed = swaps[part]()
            except RelevancyError as error:
                self._notes.append(str(error))
            yield changed
            return
        way, block = self._stages()[part.removeprefix(f"{RANDOMISED} ")]
        (weights,) = stages(self.model, way, [block]).values()
        with randomised(self.model, weights, self.settings.seed):
            yield asked

    # -- maps

    def _asked(self, numbers: Sequence[int], said: Mapping[int, str]) -> Asked:
        rows = [self.rows[number] for number in numbers]
        return Asked(
            [row.picture() for row in rows],
            [row.question for row in rows],
            [said[number] for number in numbers],
        )

    def _results(self, name: str, use: int, numbers: Sequence[int], asked: Asked) -> list[Explanation]:
        """A method's results; random maps are drawn anew for each use, and for each row the same again."""
        if name != RANDOM:
            return self.methods[name](self.model, asked.images, asked.questions, asked.answers)
        return [
            result
            for number, image, question in zip(numbers, asked.images, asked.questions, strict=True)
            for result in random_maps([self.settings.seed, use, number])(self.model, [image], [question], None)
        ]

    def _maps(
        self, name: str, use: int, numbers: Sequence[int], asked: Asked, *, alone: bool = False
    ) -> list[np.ndarray]:
        """Their maps; `alone`: no row is explained together with another."""
        parts = [[place] for place in range(len(asked))] if alone else [list(range(len(asked)))]
        return [
            result.image_map
            for part in parts
            for result in self._results(name, use, [numbers[place] for place in part], asked.only(part))
        ]


def _compared(before: Sequence[np.ndarray], after: Sequence[np.ndarray] | None) -> list[dict[str, float]]:
    """How alike each two maps are, with their signs and without; NaN where there is nothing to compare with."""
    if after is None:
        return [{"similarity": float("nan"), "similarity_abs": float("nan")}] * len(before)
    signed, plain = (similarities(before, after, signs=signs) for signs in (True, False))
    return [
        {"similarity": float(one), "similarity_abs": float(other)} for one, other in zip(signed, plain, strict=True)
    ]

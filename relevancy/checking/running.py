"""The check itself: every method on every row, then the controls on some of them; what is stored is not done again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from relevancy import answering
from relevancy.checking.rows import Row
from relevancy.checking.store import ALONE, ANSWER, RANDOM, RANDOMISED, SCORES, Store, fingerprint
from relevancy.checking.verdicts import Findings, summarise
from relevancy.errors import RelevancyError
from relevancy.explanation import Explanation
from relevancy.export.grading import correct
from relevancy.metrics.controls import Asked, answer_swap, noisy, picture_swap, question_swap, similarities
from relevancy.metrics.curves import curves
from relevancy.metrics.explainers import BATCH, Explainer, one_at_a_time, random_maps
from relevancy.metrics.flips import SHARE, answer_flips
from relevancy.metrics.forcing import Replacement, Said, Sight
from relevancy.metrics.orders import order
from relevancy.metrics.randomising import Way, blocks, randomised, stages, usual_stages
from relevancy.metrics.tokens import perturbation
from relevancy.metrics.truth import against_truth
from relevancy.models import Model
from relevancy.pictures import open_picture
from relevancy.targets import shown

_REMOVED = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
_ASKED_TOGETHER = 16

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Settings:
    """How much is done: what decides the numbers.

    steps: of deletion and insertion. share: of the patches, hidden for answer flips. control_rows: how many rows the
    controls are made on. tokens: whether image tokens are removed, too. target: which token of an answer is explained.
    """

    steps: int = 8
    share: float = SHARE
    replacement: Replacement = "grey"
    control_rows: int = 100
    tokens: bool = True
    target: str | int = "first-relevant"
    seed: int = 0


@dataclass(eq=False)
class Check:
    """One model, rows, and methods by name; `run` keeps what it finds in the folder.

    notes: what is to be said about the numbers, such as controls that could not be made.
    """

    model: Model
    rows: Sequence[Row]
    methods: Mapping[str, Explainer]
    folder: Path
    settings: Settings = field(default_factory=Settings)
    about: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def run(self, progress: Progress = lambda _, __: None) -> Findings:
        """Do what is not done yet, and judge. Stopped at any moment, the same call goes on."""
        if RANDOM in self.methods:
            raise RelevancyError(f"The method {RANDOM} is always there: leave it out.")
        data = fingerprint((row.key, row.question) for row in self.rows)
        decided = asdict(self.settings) | {"model": self.model.name, "data": data} | dict(self.about)
        store = Store(self.folder, decided)
        self._answer(store, progress)
        usable = self.usable(store)
        faults = [found["fault"] for (_, _, part), found in store.found.items() if part == ANSWER and "fault" in found]
        if faults:
            self._note(f"{len(faults)} rows could not be read, such as: {faults[0]}")
        if not usable:
            raise RelevancyError("No row can be checked: the model answers none of them as expected, or none at all.")
        self._score(store, usable, progress)
        self._control(store, usable[: self.settings.control_rows], progress)
        heading = f"{self.model.name}: {len(usable)} of {len(self.rows)} rows"
        if any(row.expected is not None for row in self.rows):
            heading += ", those answered rightly"
        summaries = summarise(store, self.rows, list(self.methods), self.settings.seed)
        return Findings(heading, summaries, tuple(self.notes))

    def usable(self, store: Store) -> list[tuple[Row, str]]:
        """Rows with the model's answer: those it answers at all, and where the right answer is known, rightly."""
        stored = [(row, store.found.get((row.key, "", ANSWER), {})) for row in self.rows]
        return [(row, found["said"]) for row, found in stored if found.get("said") and found["right"] != 0]

    def _answer(self, store: Store, progress: Progress) -> None:
        missing = [row for row in self.rows if (row.key, "", ANSWER) not in store.found]
        for number, part in enumerate(_parts(missing, _ASKED_TOGETHER)):
            store.add(((row.key, "", ANSWER), values) for row, values in zip(part, self._answers(part), strict=True))
            progress("answers", min(1.0, (number + 1) * _ASKED_TOGETHER / len(missing)))

    def _answers(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """What the model says, and whether it is right (1, 0 or NaN); of a row that it cannot read, why."""
        try:
            pictures = [open_picture(row.picture()).image for row in rows]
            with self.model.lock, answering.memory_named():
                prompt = answering.read(self.model, pictures, [row.question for row in rows])
                answers = answering.answers(self.model, prompt)
        except RelevancyError as error:
            if len(rows) > 1:
                return [values for row in rows for values in self._answers([row])]
            return [{"fault": str(error)}]
        said = [shown(self.model.tokenizer, *ids).strip() for ids in answers]
        grades = [correct(words, row.expected) for words, row in zip(said, rows, strict=True)]
        return [
            {"said": words, "right": float("nan") if right is None else float(right)}
            for words, right in zip(said, grades, strict=True)
        ]

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _explainer(self, method: str, *number: int) -> Explainer:
        """A method's explainer; random maps are drawn anew for each use, by its number."""
        return random_maps([self.settings.seed, *number]) if method == RANDOM else self.methods[method]

    def _score(self, store: Store, usable: Sequence[tuple[Row, str]], progress: Progress) -> None:
        names = [*self.methods, RANDOM]
        for number, part in enumerate(_parts(usable, BATCH)):
            missing = {name: [one for one in part if (one[0].key, name, SCORES) not in store.found] for name in names}
            maps: dict[str, dict[str, Explanation]] = {}
            for name, rows in missing.items():
                if rows:
                    asked = _asked(rows)
                    made = self._explainer(name, 0, number)(self.model, asked.images, asked.questions, asked.answers)
                    maps[name] = {row.key: result for (row, _), result in zip(rows, made, strict=True)}
            for row, words in part:
                own = {name: made[row.key] for name, made in maps.items() if row.key in made}
                if own:
                    scores = self._scores(row, words, own)
                    store.add(((row.key, name, SCORES), values) for name, values in scores.items())
            progress("maps", min(1.0, (number + 1) * BATCH / len(usable)))

    def _scores(self, row: Row, words: str, results: Mapping[str, Explanation]) -> dict[str, dict[str, float]]:
        """Every number of one row's maps, by method; what can be read together is."""
        settings = self.settings
        picture = open_picture(row.picture()).image
        sight = Sight(self.model, picture, row.question, Said.words(self.model, words, settings.target))
        orders = [order(result.image_map, sight.seen, settings.seed) for result in results.values()]
        found: dict[str, dict[str, float]] = {name: {} for name in results}
        drawn = curves(sight, orders, steps=settings.steps, replacement=settings.replacement)
        flips = answer_flips(sight, orders, share=settings.share, replacement=settings.replacement)
        for values, curve, flip in zip(found.values(), drawn, flips, strict=True):
            values |= {"deletion": curve.deletion_auc, "insertion": curve.insertion_auc, "flips": float(flip)}
            values["faithfulness"] = curve.insertion_auc - curve.deletion_auc
        if settings.tokens:
            removed = perturbation(sight, orders, shares=_REMOVED)
            for values, both in zip(found.values(), removed, strict=True):
                values |= {"positive": both.positive_auc, "negative": both.negative_auc}
        for values, result in zip(found.values(), results.values(), strict=True):
            values |= self._truth(row, result)
        return found

    def _truth(self, row: Row, result: Explanation) -> dict[str, float]:
        """A map against the row's mask; nothing where there is none, or none that can be read."""
        try:
            return {} if row.mask is None else against_truth(result, row.mask())
        except RelevancyError as error:
            self._note(f"row {row.key}: {error}")
            return {}

    def _control(self, store: Store, usable: Sequence[tuple[Row, str]], progress: Progress) -> None:
        names = [*self.methods, RANDOM]
        parts = [
            *(f"{RANDOMISED} {stage}" for stage in self._stages()),
            "question",
            "picture",
            "answer",
            "noise",
            ALONE,
        ]
        keys = [row.key for row, _ in usable]
        wanted = [
            (name, part)
            for name in names
            for part in parts
            if any((key, name, part) not in store.found for key in keys)
        ]
        if not wanted:
            return
        asked = _asked(usable)
        pictures = [row.picture_key for row, _ in usable]
        before = {
            name: asked.maps(self._explainer(name, 1, 0), self.model)
            for name in dict.fromkeys(name for name, _ in wanted)
        }
        done = 0
        for number, part in enumerate(parts):
            missing = [name for name, other in wanted if other == part]
            if not missing:
                continue
            with self._condition(part, asked, pictures) as changed:
                for name in missing:
                    explainer = self._explainer(name, 2, number)
                    explainer = one_at_a_time(explainer) if part == ALONE else explainer
                    after = None if changed is None else changed.maps(explainer, self.model)
                    found = _compared(before[name], after)
                    store.add(((key, name, part), values) for key, values in zip(keys, found, strict=True))
                    done += 1
                    progress("controls", done / len(wanted))

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
                self._note(str(error))
            yield changed
            return
        way, block = self._stages()[part.removeprefix(f"{RANDOMISED} ")]
        (weights,) = stages(self.model, way, [block]).values()
        with randomised(self.model, weights, self.settings.seed):
            yield asked


def _compared(before: Sequence[np.ndarray], after: Sequence[np.ndarray] | None) -> list[dict[str, float]]:
    """How alike each two maps are, with their signs and without; NaN where there is nothing to compare with."""
    if after is None:
        return [{"similarity": float("nan"), "similarity_abs": float("nan")}] * len(before)
    signed, plain = (similarities(before, after, signs=signs) for signs in (True, False))
    return [
        {"similarity": float(one), "similarity_abs": float(other)} for one, other in zip(signed, plain, strict=True)
    ]


def _asked(usable: Sequence[tuple[Row, str]]) -> Asked:
    return Asked(
        [row.picture() for row, _ in usable], [row.question for row, _ in usable], [words for _, words in usable]
    )


def _parts(values: Sequence, size: int) -> Iterator[Sequence]:
    return (values[start : start + size] for start in range(0, len(values), size))

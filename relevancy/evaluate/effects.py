"""What each design choice changes, as in Figure 1 of the LLaVA-Gemma paper: linear models of right answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from relevancy.errors import RelevancyError, shortened
from relevancy.evaluate.benchmarks import BENCHMARKS
from relevancy.evaluate.choices import PRETRAINED, SEED, Choices, read_choices
from relevancy.evaluate.files import read_rows
from relevancy.evaluate.paper import COLUMNS, FIGURE_1, GRID
from relevancy.evaluate.store import models_in, read_answer_scores
from relevancy.evaluate.table import check_protocols, scores_in
from relevancy.stats.clustered import Estimate
from relevancy.stats.linear import linear_model

_PRINTED = {"gqa": "GQA", "mme": "MME", "pope": "POPE acc.", "scienceqa": "SciQA-IMG"}  # benchmark -> Figure 1's


@dataclass(frozen=True)
class PublishedEffect:
    """Of a choice on a benchmark, from Table 1's cells and as Figure 1 prints it; None where there is none.

    In the table's units: shares, or points for MME, MM-Vet and VQAv2. The figure's MME rests on single answers, which
    the table does not have.
    """

    choice: str
    benchmark: str
    from_table: float | None
    printed: float | None


@dataclass(frozen=True)
class ChoiceEffect:
    """By how much the share of right answers changes from one value of a choice to the other, all else equal.

    With `also`, another choice: how much larger that change is at the second of its values than at the first.
    benchmark: empty for rows of a file. published: what Figure 1 prints of the same choice there, if anything.
    """

    choice: str
    low: str
    high: str
    estimate: Estimate
    benchmark: str = ""
    published: float | None = None
    also: str = ""

    @property
    def name(self) -> str:
        """The choice with its two values, or the two that act together."""
        return self.short if self.also else f"{self.choice}: {self.low} → {self.high}"

    @property
    def short(self) -> str:
        """The choice, or the two that act together."""
        return f"{self.choice} × {self.also}" if self.also else self.choice


@dataclass(frozen=True)
class ModelEffects:
    """Of scored models: what each choice changes on each benchmark, and what must be said of it."""

    effects: tuple[ChoiceEffect, ...]
    notes: tuple[str, ...]


def published_effects() -> list[PublishedEffect]:
    """Of the three choices on all columns of Table 1, and on Figure 1's MME."""
    terms = np.array([[not one.pretrained, one.tower == "DinoV2", one.decoder == "gemma-7b-it"] for one in GRID], float)
    found = []
    for place, column in enumerate(COLUMNS):
        cells = np.array([float(one.scores[place] or "nan") for one in GRID])
        _, *effects = linear_model(cells, terms, range(len(GRID)))
        found += [
            PublishedEffect(choice, column, one.value, FIGURE_1[choice].get(column))
            for choice, one in zip(FIGURE_1, effects, strict=True)
        ]
    found += [PublishedEffect(choice, "MME", None, printed["MME"]) for choice, printed in FIGURE_1.items()]
    order = list(FIGURE_1)
    return sorted(found, key=lambda one: order.index(one.choice))


def effects_of_rows(path: Path, choices: Sequence[str], *, interactions: bool = False) -> list[ChoiceEffect]:
    """Of answers: rows with `right` (0 to 1), `picture`, and for each choice one of two values. Raises RelevancyError.

    The effect is of the value that comes later among words. Standard errors are clustered by picture.
    """
    rows = read_rows(path)
    right = np.array([_right(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)])
    pairs = {choice: _pair([row.get(choice) for row in rows], choice, str(path)) for choice in choices}
    values = {choice: [str(row[choice]) for row in rows] for choice in choices}
    return _fitted(right, values, pairs, [str(row["picture"]) for row in rows], None, str(path), interactions)


def effects_of_models(
    folders: Sequence[Path], given: Mapping[str, Choices], by: Sequence[str] = (), *, interactions: bool = False
) -> ModelEffects:
    """Of models' scores, the folders of `relevancy evaluate`: on every benchmark that all of them answered.

    given: model -> its choices, beside those of the records of their training, which they override. by: the choices;
    without it, all that have two values among the models. Standard errors are clustered by picture and, where a model
    was trained with several seeds, by run. Raises RelevancyError.
    """
    named = models_in(folders)
    strange = next((name for name in given if name not in named), None)
    if strange is not None:
        raise RelevancyError(f"{shortened(strange)} is none of the scored models, {shortened(sorted(named))}.")
    scores = {name: scores_in(folder) for name, folder in named.items()}
    check_protocols(scores)
    known = {name: {**read_choices(folder), **given.get(name, {})} for name, folder in named.items()}
    pairs = _pairs(known, by)
    kinds = [tuple(own[choice] for choice in pairs) for own in known.values()]
    several = len(set(kinds)) < len(kinds)
    found: list[ChoiceEffect] = []
    for benchmark in BENCHMARKS:
        answers = {name: read_answer_scores(folder, benchmark) for name, folder in named.items()}
        scored = {name: own for name, own in answers.items() if own is not None}
        if len(scored) < len(named):
            continue
        first, asked = next(iter(scored.items()))
        other = next((name for name, own in scored.items() if own.questions != asked.questions), None)
        if other is not None:
            raise RelevancyError(f"{first} and {other} answered different questions of {benchmark}; score both anew.")
        rows = len(asked.questions)
        values = {choice: [own[choice] for own in known.values() for _ in range(rows)] for choice in pairs}
        effects = _fitted(
            np.concatenate([own.right for own in scored.values()]), values, pairs, list(asked.pictures) * len(scored),
            [name for name in scored for _ in range(rows)] if several else None, "The models", interactions,
        )  # fmt: skip
        found += [replace(one, benchmark=benchmark, published=_published(one, benchmark)) for one in effects]
    if not found:
        raise RelevancyError("No benchmark was answered by all of these models; score them with relevancy evaluate.")
    clustered = "by picture and by run" if several else "by picture; one run of each model cannot tell what seeds do"
    notes = [f"{len(named)} models. Standard errors are clustered {clustered}."]
    graded = sorted({benchmark for own in scores.values() for benchmark, one in own.items() if one["stand_in"]})
    notes += [f"{name} is not graded by its official judge: a stand-in decides what is right." for name in graded]
    return ModelEffects(tuple(found), tuple(notes))


def _fitted(
    right: np.ndarray,
    values: Mapping[str, Sequence[str]],
    pairs: Mapping[str, tuple[str, str]],
    pictures: Sequence[str],
    runs: Sequence[str] | None,
    where: str,
    interactions: bool,
) -> list[ChoiceEffect]:
    """values: choice -> its value in each row. runs: each row's, where they differ by more than the choices."""
    terms = {(choice, ""): np.array([one == pairs[choice][1] for one in values[choice]], float) for choice in pairs}
    if interactions:
        mains = {choice: term - term.mean() for (choice, _), term in terms.items()}
        terms |= {(one, other): mains[one] * mains[other] for one, other in combinations(pairs, 2)}
    try:
        _, *found = linear_model(right, np.stack(list(terms.values()), axis=1), pictures, runs)
    except ValueError as error:
        raise RelevancyError(f"{where}: {' and '.join(pairs)} change together; leave one of them out.") from error
    return [
        ChoiceEffect(choice, *pairs[choice], one, also=also) for (choice, also), one in zip(terms, found, strict=True)
    ]


def _right(row: dict[str, Any], where: str) -> float:
    right = row.get("right")
    if not isinstance(right, int | float) or not 0 <= right <= 1 or row.get("picture") is None:
        raise RelevancyError(f"{where}: needs right (0 to 1) and picture.")
    return float(right)


def _pairs(known: Mapping[str, Choices], by: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Choice -> its two values, ordered as in the paper where it has them."""
    models = list(known.values())
    names = by or [
        choice
        for choice in models[0]
        if choice != SEED and all(choice in own for own in models) and len({own[choice] for own in models}) == 2
    ]
    if not names:
        raise RelevancyError(
            "No choice has two values among these models: say how they differ in --choices FILE, a CSV of model and a "
            "column for each choice."
        )
    return {choice: _pair([own.get(choice) for own in models], choice, "The models") for choice in names}


def _pair(values: Sequence[Any], choice: str, where: str) -> tuple[str, str]:
    if all(value is None for value in values):
        raise RelevancyError(f"{where}: there is no {choice} among the choices.")
    two = sorted({str(value) for value in values})
    if len(two) != 2 or any(value is None for value in values):
        raise RelevancyError(f"{where}: everywhere one of two values of {choice} is needed, not {shortened(two)}.")
    low, high = two
    return (high, low) if _of_paper(choice, high, low) else (low, high)


def _of_paper(choice: str, low: str, high: str) -> str | None:
    """Which of the paper's choices this is, taken in the same direction."""
    low, high = low.lower(), high.lower()
    if choice == "connector" and (low, high) == PRETRAINED:
        return "skip pretraining"
    if choice == "tower" and "clip" in low and "dino" in high:
        return "DinoV2 for CLIP"
    return "7B for 2B" if choice == "decoder" and "2b" in low and "7b" in high else None


def _published(one: ChoiceEffect, benchmark: str) -> float | None:
    choice = None if one.also else _of_paper(one.choice, one.low, one.high)
    return None if choice is None else FIGURE_1[choice].get(_PRINTED.get(benchmark, ""))

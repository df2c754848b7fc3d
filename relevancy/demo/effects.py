"""What each choice of the grid changes: paired differences over all runs, with two kinds of intervals.

On a balanced grid the mean of paired differences is the coefficient of an additive linear model, which is what Fig. 1
of the LLaVA-Gemma paper shows (arXiv 2404.01331, section 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from relevancy.demo.cells import SIZES, TOWERS, Cell, CellResult
from relevancy.demo.questions import TYPES, Question, chance
from relevancy.stats.intervals import Interval, interval
from relevancy.stats.runs import over_runs

ALL = "all"
FACTORS: Mapping[str, tuple[str, object, object]] = {  # field of a cell, and the values whose difference is taken
    "connector pretrained − not": ("aligned", True, False),
    "large − small": ("size", SIZES[1], SIZES[0]),
    "DINOv2 − CLIP": ("tower", TOWERS[1], TOWERS[0]),
}
Asked = Sequence[tuple[int, Question]]


@dataclass(frozen=True)
class Mean:
    """Share of right answers of a kind of model, over seeds."""

    cell: Cell  # with seed 0, which stands for all
    type: str
    over_runs: Interval
    chance: float


@dataclass(frozen=True)
class Effect:
    """Mean difference in the share of right answers when one choice changes and all else stays.

    over_runs: Student's t over the pairs of runs (where the choices do not simply add up, that is in it), as if each
    were on its own; those of one seed begin with the same decoder, and there is one tower of each kind.
    over_scenes: how sure with other scenes, of these very models (bootstrap over scenes).
    """

    factor: str
    type: str
    over_runs: Interval
    over_scenes: Interval


def means(measured: Sequence[CellResult], asked: Asked) -> list[Mean]:
    """For each kind of model, over all questions and for each type."""
    found = []
    for kind in sorted({replace(one.cell, seed=0) for one in measured}, key=_order):
        runs = [one for one in measured if replace(one.cell, seed=0) == kind]
        for name, which in _types(asked).items():
            shares = [float(one.right[which].mean()) for one in runs]
            level = float(np.mean([chance(asked[number][1].type, "open") for number in which]))
            found.append(Mean(kind, name, over_runs(shares), level))
    return found


def effects(measured: Sequence[CellResult], asked: Asked) -> list[Effect]:
    """Of each factor, on all questions and on each type."""
    runs = {one.cell: one.right.astype(np.float64) for one in measured}
    scenes = np.array([number for number, _ in asked])
    found = []
    for factor, (field, high, low) in FACTORS.items():
        pairs = np.stack(
            [
                np.subtract(right, runs[replace(cell, **{field: low})])  # type: ignore[arg-type]
                for cell, right in runs.items()
                if getattr(cell, field) == high
            ]
        )
        for name, which in _types(asked).items():
            each = pairs[:, which]
            by_scene = interval(each.mean(0), scenes[which].tolist())
            found.append(Effect(factor, name, over_runs(each.mean(1)), by_scene))
    return found


def _types(asked: Asked) -> dict[str, np.ndarray]:
    """Which questions are of each type, and all of them."""
    kinds = np.array([question.type for _, question in asked])
    there = {name: np.flatnonzero(kinds == name) for name in TYPES}
    return {ALL: np.arange(len(kinds))} | {name: which for name, which in there.items() if len(which)}


def _order(cell: Cell) -> tuple[int, int, bool]:
    return SIZES.index(cell.size), TOWERS.index(cell.tower), not cell.aligned

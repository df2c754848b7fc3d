"""Several models, one picture and question: maps on one scale, and numbers that say how far they agree."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relevancy.errors import RelevancyError
from relevancy.explaining import explain
from relevancy.explanation import Explanation, written_whole
from relevancy.figures import figure
from relevancy.models import Model
from relevancy.pictures import Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP = 0.1  # of the pixels both models saw: what top_overlap compares
_SIDE = 128  # samples per side of the picture on which maps of different grids are compared


@dataclass(frozen=True)
class Agreement:
    """How far two maps of one picture agree, on the part of it that both models saw.

    rank_correlation: Spearman's, -1 to 1. top_overlap: the share of the most relevant tenth that is the same, 0 to 1;
    0.1 is chance. divergence: Jensen-Shannon's of the maps as distributions, in bits, 0 (same) to 1 (disjoint).
    NaN where a map is empty or the same everywhere.
    """

    models: tuple[str, str]
    rank_correlation: float
    top_overlap: float
    divergence: float
    same_answer: bool


@dataclass(frozen=True)
class Comparison:
    """Explanations of one question by several models, and the agreement of each two of them."""

    explanations: tuple[Explanation, ...]
    agreement: tuple[Agreement, ...]

    def figure(self, *, smooth: bool = True, **options: Any) -> Figure:
        """All maps side by side on one scale; `options` as in `relevancy.figures.figure`."""
        panels = [result.panel(smooth=smooth) for result in self.explanations]
        return figure(panels, question=self.explanations[0].question, **options)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write comparison.json, side-by-side.png and .pdf, and each model's results in a numbered folder."""
        path = Path(folder)
        for number, result in enumerate(self.explanations):
            result.save(path / f"{number}-{Path(result.model).name}")
        with written_whole(path) as part:
            (part / "comparison.json").write_text(json.dumps(self.to_json(), ensure_ascii=False, indent=1))
            drawn = self.figure()
            drawn.savefig(part / "side-by-side.png")
            drawn.savefig(part / "side-by-side.pdf")
        return path

    def to_json(self) -> dict[str, Any]:
        """The question, each model's answer with its numbers, and the agreements; not-a-number becomes null."""
        first = self.explanations[0]
        return {
            "question": first.question,
            "models": [
                {
                    "model": result.model,
                    "answer": result.answer,
                    "target": asdict(result.target),
                    "shares": dict(result.shares),
                    "notes": list(result.notes),
                }
                for result in self.explanations
            ],
            "agreement": [
                {key: None if value != value else value for key, value in asdict(pair).items()}
                for pair in self.agreement
            ],
        }


def compare(models: Iterable[Model | str], image: Source, question: str, **options: Any) -> Comparison:
    """Explain one question about one picture by each model; `options` as in `explain`.

    Models are taken one after the other: of names, or of a generator that loads, only one is in memory at a time.
    Every map equals that of a call of `explain` on its own.
    """
    if options.get("target") == "all":
        raise RelevancyError("A comparison explains one token of each answer: choose another target than all.")
    # map, not a loop: a loop's variable would hold one model while the next is loaded
    explanations = tuple(map(lambda model: explain(model, image, question, **options), models))  # noqa: C417
    if len(explanations) < 2:
        raise RelevancyError("A comparison needs at least two models.")
    return Comparison(explanations, tuple(agreement(*pair) for pair in combinations(explanations, 2)))


def agreement(first: Explanation, second: Explanation) -> Agreement:
    """The agreement of two maps, sampled on the original picture where both models looked."""
    one, other = _sampled(first), _sampled(second)
    seen = np.isfinite(one) & np.isfinite(other)
    values = one[seen].astype(np.float64), other[seen].astype(np.float64)
    drawable = seen.any() and all(np.ptp(each) > 0 for each in values)
    rank, top, divergence = (
        (_spearman(*values), _top_overlap(*values), _jensen_shannon(*values)) if drawable else (float("nan"),) * 3
    )
    same = first.answer.casefold() == second.answer.casefold()
    return Agreement((first.model, second.model), rank, top, divergence, same)


def _sampled(result: Explanation) -> np.ndarray:
    """The smooth map on an even raster of the picture."""
    heatmap = result.heatmap()
    rows, cols = (np.linspace(0, length - 1, min(length, _SIDE)).round().astype(int) for length in heatmap.shape)
    return heatmap[np.ix_(rows, cols)]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _top_overlap(one: np.ndarray, other: np.ndarray) -> float:
    count = max(1, round(TOP * one.size))
    tops = [set(np.argpartition(-each, count - 1)[:count].tolist()) for each in (one, other)]
    return len(tops[0] & tops[1]) / count


def _jensen_shannon(one: np.ndarray, other: np.ndarray) -> float:
    shares = [np.clip(each, 0, None) / np.clip(each, 0, None).sum() for each in (one, other)]
    middle = (shares[0] + shares[1]) / 2
    halves = [
        float(np.sum(share * np.log2(np.divide(share, middle, out=np.ones_like(share), where=share > 0))))
        for share in shares
    ]
    return sum(halves) / 2

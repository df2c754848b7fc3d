"""Does evidence tell right maps from wrong? Measured where it is known which maps are right."""

from __future__ import annotations

__all__ = ["JudgedMap", "VerdictScore", "areas_of_numbers", "concentration", "verdict_score"]

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from relevancy.explanations.evidence import BLIND_TV, Evidence
from relevancy.explanations.knockouts import BEST
from relevancy.stats.clustered import Estimate, Sample, areas, means
from relevancy.stats.intervals import Resamples


@dataclass(frozen=True)
class JudgedMap:
    """A map whose truth is known.

    picture: what it is about; maps of one picture are drawn together for intervals. right: whether it shows where the
    answer comes from, such as by its peak on the object that a rightly answered question asks about. share: the
    picture's, of the row's mass. concentration: see `concentration`.
    """

    picture: Hashable
    right: bool
    share: float
    concentration: float
    evidence: Evidence

    @property
    def dependent(self) -> bool:
        """Whether the answer needs the picture: whether knocking all of it out changes what is said."""
        return self.evidence.blind_tv >= BLIND_TV


@dataclass(frozen=True)
class VerdictScore:
    """What a verdict is worth, each with its 95 % interval over pictures; no value where there is nothing to count.

    right: share of maps that are right. words_alone, confirmed: share of maps with that verdict. precision: of those
    confirmed, the share that is right. recall: of those that are right and whose answer needs the picture, the share
    that is confirmed. false_alarms: of those that are wrong, the share that is confirmed.
    """

    right: Estimate
    words_alone: Estimate
    confirmed: Estimate
    precision: Estimate
    recall: Estimate
    false_alarms: Estimate


def concentration(image_map: np.ndarray) -> float:
    """The share of a map's positive mass that lies in its best eighth of the patches; NaN without any mass."""
    values = np.clip(np.asarray(image_map, np.float64), 0, None)
    best = np.sort(values, axis=None)[-math.ceil(values.size * BEST) :]
    return float(best.sum() / values.sum()) if values.sum() > 0 else math.nan


def _changed(part: str) -> Callable[[JudgedMap], float]:
    return lambda one: getattr(one.evidence, f"{part}_tv")


def _lost(part: str) -> Callable[[JudgedMap], float]:
    return lambda one: one.evidence.probability - getattr(one.evidence, part)


_PARTS = ("blind", "best", "peak", "elsewhere")
NUMBERS: Mapping[str, Callable[[JudgedMap], float]] = {
    "image share": lambda one: one.share,
    "concentration": lambda one: one.concentration,
    **{f"{part}_tv": _changed(part) for part in _PARTS},
    **{f"{part} drop": _lost(part) for part in _PARTS},
    "lead_tv": lambda one: one.evidence.lead_tv,
}
"""What might tell right maps from wrong; a drop is by how much the explained token's probability falls."""


def verdict_score(maps: Sequence[JudgedMap], *, seed: int = 0) -> VerdictScore:
    """How well verdicts tell right maps from wrong ones."""
    pictures, resamples = _drawn(maps, seed)
    everything = np.ones(len(maps), bool)
    right = np.array([one.right for one in maps], bool)
    dependent = np.array([one.dependent for one in maps], bool)
    verdicts = np.array([one.evidence.verdict for one in maps], object)
    confirmed = verdicts == "confirmed"
    shares = (
        (right, everything),
        (verdicts == "words alone", everything),
        (confirmed, everything),
        (right, confirmed),
        (confirmed, right & dependent),
        (confirmed, ~right),
    )
    return VerdictScore(
        *means([Sample(one[among].astype(np.float64), pictures[among]) for one, among in shares], resamples)
    )


def areas_of_numbers(maps: Sequence[JudgedMap], *, seed: int = 0) -> dict[str, Estimate]:
    """How well each of `NUMBERS` tells right maps from wrong ones: the area under its ROC curve.

    That is how often it is larger for a right map than for a wrong one, ties counting one half; maps without such a
    number are left out. Source: Hanley and McNeil, Radiology 1982.
    """
    pictures, resamples = _drawn(maps, seed)
    right = np.array([one.right for one in maps], bool)
    cases = []
    for number in NUMBERS.values():
        values = np.array([number(one) for one in maps], np.float64)
        cases.append([(Sample.of(values[right], pictures[right]), Sample.of(values[~right], pictures[~right]))])
    return dict(zip(NUMBERS, areas(cases, resamples), strict=True))


def _drawn(maps: Sequence[JudgedMap], seed: int) -> tuple[np.ndarray, Resamples]:
    """The number of each map's picture (maps,), and resamples of pictures."""
    places: dict[Hashable, int] = {}
    pictures = np.array([places.setdefault(one.picture, len(places)) for one in maps], int)
    return pictures, Resamples(len(places), seed=seed)

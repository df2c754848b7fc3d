"""What an export shows between two models: paired differences over the rows both have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from relevancy.report import maps
from relevancy.report.measures import Series
from relevancy.report.samples import FLIPS, SHOWN, USE, Histogram, histogram, kinds_of_questions, upper_end
from relevancy.stats.clustered import Estimate, Sample, effects, holm, means, medians, sign_flips
from relevancy.stats.intervals import Resamples

_STEP = 4096  # maps compared at once


@dataclass(frozen=True, eq=False)
class Pair:
    """Two series and the places in them, (rows,) each, of the rows both have."""

    first: Series
    second: Series
    in_first: np.ndarray
    in_second: np.ndarray

    @classmethod
    def of(cls, first: Series, second: Series) -> Pair:
        """The rows both have, in the order of their numbers."""
        _, in_first, in_second = np.intersect1d(first.keys, second.keys, assume_unique=True, return_indices=True)
        return cls(first, second, in_first, in_second)

    def values(self, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """A measure of both, (rows,) each."""
        return self.first.measures[measure][self.in_first], self.second.measures[measure][self.in_second]

    def difference(self, measure: str, chosen: np.ndarray | None = None) -> Sample:
        """First less second, of all rows or of those chosen (rows,) bool."""
        first, second = self.values(measure)
        difference = first - second
        return self.sample(difference if chosen is None else np.where(chosen, difference, np.nan))

    def sample(self, values: np.ndarray) -> Sample:
        """Values (rows,) of the shared rows."""
        return Sample.of(values, self.first.pictures[self.in_first])

    def confirmed(self) -> np.ndarray:
        """Whether both maps are confirmed, (rows,) 0 or 1; NaN where one of them has no evidence."""
        first, second = self.values("confirmed")
        return first * second

    def divergence(self) -> np.ndarray:
        """How far the two maps of each row lie apart, (rows,) in bits."""
        return np.concatenate(
            [
                maps.divergence(
                    self.first.rasters[self.in_first[start : start + _STEP]],
                    self.second.rasters[self.in_second[start : start + _STEP]],
                )
                for start in range(0, max(1, len(self.in_first)), _STEP)
            ]
        )


@dataclass(frozen=True)
class Difference:
    """One measure over the rows both models have, first less second, in pairs.

    first, second: the means. median: of the differences. lower: share of rows in which the first is lower. effect:
    Cohen's d_z. p: sign-flip test. p_adjusted: Holm's, over the report's main differences.
    """

    first: float
    second: float
    difference: Estimate
    median: Estimate
    effect: Estimate
    lower: float
    p: float | None
    p_adjusted: float | None = None


@dataclass(frozen=True)
class Outcome:
    """Paired differences where both, one, or none of two models is right."""

    first_right: bool
    second_right: bool
    differences: Mapping[str, Estimate]


@dataclass(frozen=True)
class FormDifferences:
    """Paired differences over the answers to one form of questions."""

    form: str
    differences: Mapping[str, Estimate]


@dataclass(frozen=True)
class PairFindings:
    """Two models over the rows both have.

    spread: of the difference of the main measure. divergence: of the two maps; divergence_confirmed of those where both
    are confirmed, divergence_others of the rest that have evidence.
    """

    first: str
    second: str
    rows: int
    pictures: int
    differences: Mapping[str, Difference]
    spread: Histogram
    divergence: Estimate
    divergence_confirmed: Estimate
    divergence_others: Estimate
    outcomes: tuple[Outcome, ...]
    forms: tuple[FormDifferences, ...]


def pair_findings(pairs: Sequence[Pair], forms: Sequence[str], main: str, drawn: Resamples) -> tuple[PairFindings, ...]:
    """Each pair's paired differences; p-values are adjusted over all pairs and measures (Holm)."""
    samples = [pair.difference(measure) for pair in pairs for measure in SHOWN]
    p_values = sign_flips(samples, drawn.pictures, flips=FLIPS, seed=drawn.seed + 1)
    numbers = (statistic(samples, drawn) for statistic in (means, medians, effects))
    tested = zip(*numbers, p_values, holm(p_values), strict=True)
    cases = [(one, other) for one in (True, False) for other in (True, False)]
    found = []
    for pair in pairs:
        apart, confirmed = pair.divergence(), pair.confirmed()
        chosen = (np.isfinite(apart), confirmed == 1, confirmed == 0)
        divergences = means([pair.sample(np.where(rows, apart, np.nan)) for rows in chosen], drawn)
        kinds = list(kinds_of_questions(forms, [pair.first.forms[place] for place in pair.in_first]))
        parts = [_outcome(pair, *case) for case in cases] + [rows for _, rows in kinds]
        by_part = iter(means([pair.difference(measure, rows) for rows in parts for measure in USE], drawn))
        main_differences = pair.difference(main).values
        end = upper_end([np.abs(main_differences)])
        found.append(
            PairFindings(
                first=pair.first.name,
                second=pair.second.name,
                rows=len(pair.in_first),
                pictures=len(np.unique(pair.first.pictures[pair.in_first])),
                differences={measure: _difference(pair, measure, *next(tested)) for measure in SHOWN},
                spread=histogram(main_differences, -end, end),
                divergence=divergences[0],
                divergence_confirmed=divergences[1],
                divergence_others=divergences[2],
                outcomes=tuple(Outcome(*case, {measure: next(by_part) for measure in USE}) for case in cases),
                forms=tuple(FormDifferences(name, {measure: next(by_part) for measure in USE}) for name, _ in kinds),
            )
        )
    return tuple(found)


def _outcome(pair: Pair, first_right: bool, second_right: bool) -> np.ndarray:
    first, second = pair.values("correct")
    return (first == first_right) & (second == second_right)


def _difference(
    pair: Pair,
    measure: str,
    mean: Estimate,
    median: Estimate,
    effect: Estimate,
    p: float | None,
    p_adjusted: float | None,
) -> Difference:
    first, second = pair.values(measure)
    both = np.isfinite(first) & np.isfinite(second)
    first, second = (values[both] for values in (first, second))
    shares = (float(values.mean()) if len(values) else float("nan") for values in (first, second, first < second))
    one, other, lower = shares
    return Difference(one, other, mean, median, effect, lower, p, p_adjusted)

"""What an export shows: estimates per model, between models and by group, with intervals and what they rest on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil

import numpy as np

from relevancy.report import maps
from relevancy.report.groups import Grouping
from relevancy.report.measures import Measures, Series
from relevancy.stats.clustered import Estimate, Sample, areas, effects, gaps, holm, means, medians, sign_flips
from relevancy.stats.intervals import Resamples

BINS = 40
SHOWN = ("image_share", "text_share", "first_token_share", "entropy", "top_mass", "probability", "correct")
SCORES = ("image_share", "entropy", "top_mass", "probability")  # held against being right
GROUPED = ("image_share", "top_mass", "probability", "correct")
FLIPS = 9999
SMALL_SHARE = 0.05  # an image share below this is counted as small; how small says nothing of what was used
STRATA = 24  # forms of questions within which right and wrong answers are compared, the most frequent ones
_STEP = 4096  # maps compared at once


@dataclass(frozen=True)
class Histogram:
    """How many rows lie in each of equally wide bins from low to high."""

    low: float
    high: float
    counts: tuple[int, ...]
    rows: int


@dataclass(frozen=True)
class ModelFindings:
    """One model: the mean and the median of each measure, and how it is spread over the rows.

    empty_maps: how many show nothing. small_shares: rows with an image share below `SMALL_SHARE`.
    """

    name: str
    model: str
    export: int
    results: int
    pictures: int
    errors: int
    grids: tuple[str, ...]
    empty_maps: int
    small_shares: int
    means: Mapping[str, Estimate]
    medians: Mapping[str, Estimate]
    spread: Mapping[str, Histogram]


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
    """The paired difference of the image share where both, one, or none of two models is right."""

    first_right: bool
    second_right: bool
    difference: Estimate


@dataclass(frozen=True)
class PairFindings:
    """Two models over the rows both have."""

    first: str
    second: str
    rows: int
    pictures: int
    differences: Mapping[str, Difference]
    spread: Histogram
    divergence: Estimate
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class GroupDifference:
    """The paired difference of the image share in one group, first less second; p_adjusted: Holm's over the split."""

    first: str
    second: str
    difference: Estimate
    p: float | None
    p_adjusted: float | None


@dataclass(frozen=True)
class GroupFindings:
    """One group of a split: each model's means, each pair's difference of the image share."""

    value: str
    rows: int
    means: Mapping[str, Mapping[str, Estimate]]
    differences: tuple[GroupDifference, ...]


@dataclass(frozen=True)
class SplitFindings:
    """The groups of one column, the largest first; how many smaller ones are left out."""

    column: str
    groups: tuple[GroupFindings, ...]
    left_out: int

    def estimates(self, measure: str) -> list[Estimate]:
        """Every model's mean of a measure in every group."""
        return [means[measure] for group in self.groups for means in group.means.values()]


@dataclass(frozen=True)
class Rightness:
    """One measure of one model, in right answers beside wrong ones.

    area: of the ROC curve, how often a right answer has the larger value than a wrong one; 0.5 by chance. gap_within,
    area_within: the same between answers to questions of one form alone, of `forms` forms with both kinds of answers;
    forms differ in how often they are answered rightly and in how much of the relevance falls to the picture.
    """

    right: Estimate
    wrong: Estimate
    gap: Estimate
    area: Estimate
    gap_within: Estimate
    area_within: Estimate
    forms: int


@dataclass(frozen=True)
class Localisation:
    """How well one model's maps meet boxes or masks, beside chance; above: less chance, in pairs."""

    pointing: Estimate
    pointing_chance: float
    pointing_above: Estimate
    energy: Estimate
    energy_chance: float
    energy_above: Estimate


@dataclass(frozen=True)
class ReportFindings:
    """Everything that is counted; by model name where a mapping is given."""

    models: tuple[ModelFindings, ...]
    pairs: tuple[PairFindings, ...]
    splits: tuple[SplitFindings, ...]
    rightness: Mapping[str, Mapping[str, Rightness]]
    localisation: Mapping[str, Localisation]
    pictures: int
    resamples: int
    flips: int
    seed: int
    tests: int
    failed: int
    errors: Mapping[str, int]
    repeated: int
    unreadable_masks: int


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


def find(
    measured: Measures,
    *,
    by: Sequence[str] = (),
    resamples: int = 2000,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda *_: None,
) -> ReportFindings:
    """All estimates of what was measured."""
    drawn = Resamples(measured.pictures, resamples, seed)
    series = measured.series
    pairs = [Pair.of(*two) for two in combinations(series, 2)]
    progress("means", 0.0)
    models = _models(series, drawn)
    progress("differences", 0.2)
    compared = _pairs(pairs, drawn)
    progress("groups", 0.5)
    splits = tuple(_split(column, series, pairs, drawn) for column in by)
    progress("right and wrong", 0.7)
    return ReportFindings(
        models=models,
        pairs=compared,
        splits=splits,
        rightness={one.name: _rightness(one, drawn) for one in series if np.isfinite(one.measures["correct"]).any()},
        localisation={one.name: _localisation(one, drawn) for one in series if _has_truth(one)},
        pictures=measured.pictures,
        resamples=resamples,
        flips=FLIPS,
        seed=seed,
        tests=sum(each.p is not None for pair in compared for each in pair.differences.values()),
        failed=measured.failed,
        errors=measured.errors,
        repeated=measured.repeated,
        unreadable_masks=measured.unreadable_masks,
    )


def _sample(one: Series, measure: str, chosen: np.ndarray | None = None) -> Sample:
    values = one.measures[measure]
    return Sample.of(values if chosen is None else np.where(chosen, values, np.nan), one.pictures)


def _models(series: Sequence[Series], drawn: Resamples) -> tuple[ModelFindings, ...]:
    samples = [_sample(one, measure) for one in series for measure in SHOWN]
    estimates, middles = iter(means(samples, drawn)), iter(medians(samples, drawn))
    ends = {measure: _end([one.measures[measure] for one in series]) for measure in SHOWN if measure != "correct"}
    return tuple(
        ModelFindings(
            name=one.name,
            model=one.model,
            export=one.source,
            results=len(one),
            pictures=len(np.unique(one.pictures)),
            errors=one.errors,
            grids=one.grids,
            empty_maps=int(np.isnan(one.measures["top_mass"]).sum()),
            small_shares=int((one.measures["image_share"] < SMALL_SHARE).sum()),
            means={measure: next(estimates) for measure in SHOWN},
            medians={measure: next(middles) for measure in SHOWN},
            spread={measure: histogram(one.measures[measure], 0, end) for measure, end in ends.items()},
        )
        for one in series
    )


def _end(columns: Sequence[np.ndarray]) -> float:
    """The tenth, up to 1, that all values of a share lie below."""
    known = np.concatenate([values[np.isfinite(values)] for values in columns])
    return min(1.0, max(1, ceil(10 * float(known.max()) - 1e-9)) / 10) if len(known) else 1.0


def histogram(values: np.ndarray, low: float, high: float) -> Histogram:
    """The spread of the values that are known; those beyond the ends count in the outermost bins."""
    known = np.clip(values[np.isfinite(values)], low, high)
    counts, _ = np.histogram(known, BINS, (low, high))
    return Histogram(low, high, tuple(counts.tolist()), len(known))


def _pairs(pairs: Sequence[Pair], drawn: Resamples) -> tuple[PairFindings, ...]:
    samples = [pair.difference(measure) for pair in pairs for measure in SHOWN]
    p_values = sign_flips(samples, drawn.pictures, flips=FLIPS, seed=drawn.seed + 1)
    numbers = (statistic(samples, drawn) for statistic in (means, medians, effects))
    tested = zip(*numbers, p_values, holm(p_values), strict=True)
    divergences = means([pair.sample(pair.divergence()) for pair in pairs], drawn)
    cases = [(one, other) for one in (True, False) for other in (True, False)]
    chosen = [pair.difference("image_share", _outcome(pair, *case)) for pair in pairs for case in cases]
    by_outcome = iter(zip(cases * len(pairs), means(chosen, drawn), strict=True))
    found = []
    for pair, divergence in zip(pairs, divergences, strict=True):
        image = pair.difference("image_share").values
        end = _end([np.abs(image)])
        found.append(
            PairFindings(
                first=pair.first.name,
                second=pair.second.name,
                rows=len(pair.in_first),
                pictures=len(np.unique(pair.first.pictures[pair.in_first])),
                differences={measure: _difference(pair, measure, *next(tested)) for measure in SHOWN},
                spread=histogram(image, -end, end),
                divergence=divergence,
                outcomes=tuple(Outcome(*case, estimate) for case, estimate in (next(by_outcome) for _ in cases)),
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


def _split(column: str, series: Sequence[Series], pairs: Sequence[Pair], drawn: Resamples) -> SplitFindings:
    """Each model's means, and each pair's difference of the image share, in each group of a column."""
    grouping = Grouping.of([one.groups[column] for one in series])
    labels = [grouping.places(one.groups[column]) for one in series]
    of_series = dict(zip([one.name for one in series], labels, strict=True))
    numbers = range(len(grouping.names))
    estimates = iter(
        means(
            [
                _sample(one, measure, of_series[one.name] == number)
                for number in numbers
                for one in series
                for measure in GROUPED
            ],
            drawn,
        )
    )
    samples = [
        pair.difference("image_share", of_series[pair.first.name][pair.in_first] == number)
        for number in numbers
        for pair in pairs
    ]
    p_values = sign_flips(samples, drawn.pictures, flips=FLIPS, seed=drawn.seed + 1)
    tested = iter(zip(means(samples, drawn), p_values, holm(p_values), strict=True))
    groups = tuple(
        GroupFindings(
            value=grouping.names[number],
            rows=len(np.unique(np.concatenate([one.keys[of_series[one.name] == number] for one in series]))),
            means={one.name: {measure: next(estimates) for measure in GROUPED} for one in series},
            differences=tuple(GroupDifference(pair.first.name, pair.second.name, *next(tested)) for pair in pairs),
        )
        for number in numbers
    )
    return SplitFindings(column, groups, grouping.left_out)


def _rightness(one: Series, drawn: Resamples) -> dict[str, Rightness]:
    correct, parts = one.measures["correct"], _mixed_forms(one)
    groups = [(_sample(one, measure, correct == 1), _sample(one, measure, correct == 0)) for measure in SCORES]
    averages = iter(means([group for pair in groups for group in pair], drawn))
    cases = [[pair] for pair in groups] + [
        [(_sample(one, measure, part & (correct == 1)), _sample(one, measure, part & (correct == 0))) for part in parts]
        for measure in SCORES
    ]
    differences, curves = gaps(cases, drawn), areas(cases, drawn)
    return {
        measure: Rightness(
            next(averages), next(averages), differences[place], curves[place],
            differences[place + len(SCORES)], curves[place + len(SCORES)], len(parts),
        )
        for place, measure in enumerate(SCORES)
    }  # fmt: skip


def _mixed_forms(one: Series) -> list[np.ndarray]:
    """Rows, bool (results,), of each of the most frequent forms of questions that has right and wrong answers."""
    correct, forms = one.measures["correct"], np.array(one.forms)
    mixed = [
        form for form in np.unique(forms) if {0, 1} <= set(correct[(forms == form) & np.isfinite(correct)].tolist())
    ]
    mixed.sort(key=lambda form: -int((forms == form).sum()))
    return [forms == form for form in mixed[:STRATA]]


def _has_truth(one: Series) -> bool:
    return bool(np.isfinite(one.measures["pointing"]).any())


def _localisation(one: Series, drawn: Resamples) -> Localisation:
    measures = one.measures
    columns = [
        measures["pointing"], measures["pointing"] - measures["pointing_chance"],
        measures["energy"], measures["energy"] - measures["energy_chance"],
    ]  # fmt: skip
    pointing, pointing_above, energy, energy_above = means(
        [Sample.of(values, one.pictures) for values in columns], drawn
    )
    chance = {name: float(np.nanmean(measures[name])) for name in ("pointing_chance", "energy_chance")}
    return Localisation(
        pointing, chance["pointing_chance"], pointing_above, energy, chance["energy_chance"], energy_above
    )

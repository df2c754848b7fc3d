"""What an export shows: estimates per model, between models and by group, with intervals and what they rest on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil

import numpy as np

from relevancy.report import maps
from relevancy.report.groups import Grouping
from relevancy.report.measures import OPTIONS, VERDICTS, Measures, Series
from relevancy.stats.clustered import (
    Estimate,
    Sample,
    areas,
    effects,
    gaps,
    holm,
    means,
    medians,
    rank_correlations,
    sign_flips,
)
from relevancy.stats.intervals import FEWEST, Resamples

BINS = 40
SHOWN = (
    "blind_tv", "blind_drop", "image_share", "text_share", "first_token_share", "entropy", "top_mass", "probability",
    "correct",
)  # fmt: skip
LEVELS = tuple(measure for measure in SHOWN if measure not in ("blind_drop", "correct"))  # spread from zero up
SCORES = ("blind_tv", "image_share", "entropy", "top_mass", "probability")  # held against being right
GROUPED = ("blind_tv", "blind_drop", "image_share", "top_mass", "probability", "correct")
USE = ("blind_tv", "blind_drop", "image_share")  # what tells, or seems to tell, of the picture's use
FLIPS = 9999
SMALL_SHARE = 0.05  # an image share below this is counted as small; how small says nothing of what was used
ALL = "all answers"
KINDS = 8  # forms of questions that are shown by themselves, the most frequent ones
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
class EvidencePart:
    """Some of a model's answers: means of what tells of the picture's use, and the share of each verdict on maps.

    form: whether they are the answers to one form of questions.
    """

    name: str
    form: bool
    means: Mapping[str, Estimate]
    verdicts: Mapping[str, Estimate]


@dataclass(frozen=True)
class ModelFindings:
    """One model: the mean and the median of each measure, and how it is spread over the rows.

    empty_maps: how many show nothing. judged: rows with evidence. evidence: of all answers, which come first, of right
    and of wrong ones, of those to some kinds of questions; () without evidence. share_and_use: rank correlation of
    image share and use of the picture; share_and_use_within: among answers to questions of one form. small_shares: rows
    with an image share below `SMALL_SHARE`; small_but_used: the share of them that need the picture.
    """

    name: str
    model: str
    export: int
    results: int
    pictures: int
    errors: int
    grids: tuple[str, ...]
    empty_maps: int
    judged: int
    evidence: tuple[EvidencePart, ...]
    share_and_use: Estimate
    share_and_use_within: Estimate
    small_shares: int
    small_but_used: Estimate
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


@dataclass(frozen=True)
class GroupDifference:
    """The paired difference of the main measure in one group, first less second; p_adjusted: Holm's over the split."""

    first: str
    second: str
    difference: Estimate
    p: float | None
    p_adjusted: float | None


@dataclass(frozen=True)
class GroupFindings:
    """One group of a split: each model's means, each pair's difference of the main measure."""

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
    """Everything that is counted; by model name where a mapping is given.

    main: the measure that models are compared by, the picture's use; the image share where a model has no evidence.
    """

    main: str
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
    main = "blind_tv" if all(np.isfinite(one.measures["blind_tv"]).any() for one in series) else "image_share"
    forms = _frequent(series)
    progress("means", 0.0)
    models = _models(series, forms, drawn)
    progress("differences", 0.2)
    compared = _pairs(pairs, forms, main, drawn)
    progress("groups", 0.5)
    splits = tuple(_split(column, series, pairs, main, drawn) for column in by)
    progress("right and wrong", 0.7)
    return ReportFindings(
        main=main,
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


def _frequent(series: Sequence[Series]) -> list[str]:
    """The most frequent forms of questions that are asked of enough pictures, sorted by name, if there are several."""
    forms = np.concatenate([one.forms for one in series])
    pictures = np.concatenate([one.pictures for one in series])
    if len(np.unique(forms)) < 2:
        return []
    enough = [form for form in np.unique(forms) if len(np.unique(pictures[forms == form])) >= FEWEST]
    enough.sort(key=lambda form: -int((forms == form).sum()))
    return sorted(map(str, enough[:KINDS]))


def _kinds(forms: Sequence[str], of_rows: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Kinds of questions and which rows have one, bool (rows,): with options and without, if there are both; forms."""
    given = np.array(of_rows, str)
    optional = np.char.endswith(given, OPTIONS)
    if 0 < optional.sum() < len(optional):
        yield "open questions", ~optional
        yield "questions with options", optional
    for form in forms:
        yield form, given == form


def _evidence(one: Series, forms: Sequence[str], drawn: Resamples) -> tuple[EvidencePart, ...]:
    if not np.isfinite(one.measures["blind_tv"]).any():
        return ()
    correct = one.measures["correct"]
    parts = [
        (ALL, np.ones(len(one), bool)),
        ("right answers", correct == 1),
        ("wrong answers", correct == 0),
        *_kinds(forms, one.forms),
    ]
    parts = [(name, rows) for name, rows in parts if rows.any()]
    asked = (*USE, *VERDICTS)
    found = iter(means([_sample(one, measure, rows) for _, rows in parts for measure in asked], drawn))
    return tuple(
        EvidencePart(name, name in forms, *({each: next(found) for each in names} for names in (USE, VERDICTS)))
        for name, _ in parts
    )


def _forms(one: Series) -> list[np.ndarray]:
    """Rows, bool (results,), of each of the most frequent forms of questions."""
    forms = np.array(one.forms)
    names, counts = np.unique(forms, return_counts=True)
    return [forms == names[place] for place in np.argsort(-counts, kind="stable")[:STRATA]]


def _shares_and_use(one: Series, parts: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Image share, use of the picture, and pictures, of each part of the rows."""
    columns = one.measures["image_share"], one.measures["blind_tv"], one.pictures
    return [(columns[0][rows], columns[1][rows], columns[2][rows]) for rows in parts]


def _models(series: Sequence[Series], forms: Sequence[str], drawn: Resamples) -> tuple[ModelFindings, ...]:
    samples = [_sample(one, measure) for one in series for measure in SHOWN]
    estimates, middles = iter(means(samples, drawn)), iter(medians(samples, drawn))
    ends = {measure: _end([one.measures[measure] for one in series]) for measure in LEVELS}
    cases = [_shares_and_use(one, parts) for one in series for parts in ([np.ones(len(one), bool)], _forms(one))]
    related = iter(rank_correlations(cases, drawn))
    small = [one.measures["image_share"] < SMALL_SHARE for one in series]
    used = [Sample.of(np.where(few, 1 - one.measures["words alone"], np.nan), one.pictures)
            for one, few in zip(series, small, strict=True)]  # fmt: skip
    small_used = iter(means(used, drawn))
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
            judged=int(np.isfinite(one.measures["blind_tv"]).sum()),
            evidence=_evidence(one, forms, drawn),
            share_and_use=next(related),
            share_and_use_within=next(related),
            small_shares=int(few.sum()),
            small_but_used=next(small_used),
            means={measure: next(estimates) for measure in SHOWN},
            medians={measure: next(middles) for measure in SHOWN},
            spread={measure: histogram(one.measures[measure], 0, end) for measure, end in ends.items()},
        )
        for one, few in zip(series, small, strict=True)
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


def _pairs(pairs: Sequence[Pair], forms: Sequence[str], main: str, drawn: Resamples) -> tuple[PairFindings, ...]:
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
        kinds = list(_kinds(forms, [pair.first.forms[place] for place in pair.in_first]))
        parts = [_outcome(pair, *case) for case in cases] + [rows for _, rows in kinds]
        by_part = iter(means([pair.difference(measure, rows) for rows in parts for measure in USE], drawn))
        main_differences = pair.difference(main).values
        end = _end([np.abs(main_differences)])
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


def _split(column: str, series: Sequence[Series], pairs: Sequence[Pair], main: str, drawn: Resamples) -> SplitFindings:
    """Each model's means, and each pair's difference of the main measure, in each group of a column."""
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
        pair.difference(main, of_series[pair.first.name][pair.in_first] == number)
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

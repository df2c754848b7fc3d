"""What an export shows of one model: estimates with intervals, and what right answers have beside wrong ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from relevancy.report.measures import VERDICTS, Series
from relevancy.report.samples import SHOWN, STRATA, USE, Histogram, histogram, kinds_of_questions, sample_of, upper_end
from relevancy.stats.clustered import Estimate, Sample, areas, gaps, means, medians, rank_correlations
from relevancy.stats.intervals import Resamples

LEVELS = tuple(measure for measure in SHOWN if measure not in ("blind_drop", "correct"))  # spread from zero up
SCORES = ("blind_tv", "image_share", "entropy", "top_mass", "probability")  # held against being right
SMALL_SHARE = 0.05  # an image share below this is counted as small; how small says nothing of what was used
ALL = "all answers"


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


def model_findings(series: Sequence[Series], forms: Sequence[str], drawn: Resamples) -> tuple[ModelFindings, ...]:
    """The findings of each model; forms: those whose evidence is shown by itself."""
    samples = [sample_of(one, measure) for one in series for measure in SHOWN]
    estimates, middles = iter(means(samples, drawn)), iter(medians(samples, drawn))
    ends = {measure: upper_end([one.measures[measure] for one in series]) for measure in LEVELS}
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


def _evidence(one: Series, forms: Sequence[str], drawn: Resamples) -> tuple[EvidencePart, ...]:
    if not np.isfinite(one.measures["blind_tv"]).any():
        return ()
    correct = one.measures["correct"]
    parts = [
        (ALL, np.ones(len(one), bool)),
        ("right answers", correct == 1),
        ("wrong answers", correct == 0),
        *kinds_of_questions(forms, one.forms),
    ]
    parts = [(name, rows) for name, rows in parts if rows.any()]
    asked = (*USE, *VERDICTS)
    found = iter(means([sample_of(one, measure, rows) for _, rows in parts for measure in asked], drawn))
    return tuple(
        EvidencePart(name, name in forms, *({each: next(found) for each in names} for names in (USE, VERDICTS)))
        for name, _ in parts
    )


def _shares_and_use(one: Series, parts: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Image share, use of the picture, and pictures, of each part of the rows."""
    columns = one.measures["image_share"], one.measures["blind_tv"], one.pictures
    return [(columns[0][rows], columns[1][rows], columns[2][rows]) for rows in parts]


def _forms(one: Series) -> list[np.ndarray]:
    """Rows, bool (results,), of each of the most frequent forms of questions."""
    forms = np.array(one.forms)
    names, counts = np.unique(forms, return_counts=True)
    return [forms == names[place] for place in np.argsort(-counts, kind="stable")[:STRATA]]


def rightness(one: Series, drawn: Resamples) -> dict[str, Rightness]:
    """By measure: what right answers have beside wrong ones."""
    correct, parts = one.measures["correct"], _mixed_forms(one)
    groups = [(sample_of(one, measure, correct == 1), sample_of(one, measure, correct == 0)) for measure in SCORES]
    averages = iter(means([group for pair in groups for group in pair], drawn))
    cases = [[pair] for pair in groups] + [
        [
            (sample_of(one, measure, part & (correct == 1)), sample_of(one, measure, part & (correct == 0)))
            for part in parts
        ]
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


def has_truth(one: Series) -> bool:
    """Whether any map can be held against boxes or masks."""
    return bool(np.isfinite(one.measures["pointing"]).any())


def localisation(one: Series, drawn: Resamples) -> Localisation:
    """Pointing game and energy of one model's maps, by themselves and above chance."""
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

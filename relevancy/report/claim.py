"""The claim under LLaVA-Gemma's Figure 2, read on many rows instead of one."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from relevancy.report.findings import SMALL_SHARE, Difference, ModelFindings, PairFindings, ReportFindings
from relevancy.report.words import effect, effect_interval, level, level_interval, step, step_interval
from relevancy.stats.clustered import FEWEST, Estimate

Verdict = Literal["supports", "against", "undecided", "not asked"]
ALPHA = 0.05
TARGET = "first-relevant"  # what the paper explains
CLAIM = "the smaller model does not attend to the visual input"
SOURCE = "LLaVA-Gemma, arXiv 2404.01331, Figure 2"
_BILLIONS = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)\s*b(?![a-z0-9])", re.IGNORECASE)
_WORDS = ("nano", "tiny", "mini", "small", "base", "medium", "large", "huge", "giant")


@dataclass(frozen=True)
class ClaimReading:
    """What the data say about the claim, in plain words and in the numbers behind them.

    What is measured is where the relevance lies; whether a picture was used is another question.

    smaller, larger: the models' names; assumed where nothing but their order tells. difference: of the image share,
    smaller less larger, in pairs. chosen_like_the_paper: the same over the rows only the larger model gets right.
    """

    verdict: Verdict
    headline: str
    sentences: tuple[str, ...]
    smaller: str | None = None
    larger: str | None = None
    assumed: bool = False
    difference: Difference | None = None
    chosen_like_the_paper: Estimate | None = None


def by_size(names: Sequence[str]) -> tuple[list[int], bool]:
    """Places of models' names from the smallest model to the largest, and whether the names tell.

    They tell by "2b" and "7b", or by words such as "small" and "large"; if they do not, the order stays.
    """
    for size in (_billions, _word):
        sizes = [size(name) for name in names]
        known = [each for each in sizes if each is not None]
        if len(known) == len(names) and len(set(known)) > 1:
            return sorted(range(len(names)), key=lambda place: known[place]), True
    return list(range(len(names))), False


def _billions(name: str) -> float | None:
    found = _BILLIONS.findall(name.replace("_", " "))
    return float(found[-1]) if found else None


def _word(name: str) -> float | None:
    found = [place for place, word in enumerate(_WORDS) if word in re.split(r"[^a-z]+", name.lower())]
    return float(found[-1]) if found else None


def read(findings: ReportFindings, *, assumed: bool, targets: Collection[str] = ()) -> ClaimReading:
    """The reading, the first model being the smallest and the last the largest; `assumed` if only their order tells.

    targets: which token of the answers was explained, as `explain` calls it, where that is known.
    """
    models = findings.models
    if len(models) < 2:
        return ClaimReading(
            "not asked",
            "One model, so nothing to compare.",
            ("The claim is about a smaller and a larger model: export with both, or give --compare another export.",),
        )
    smaller, larger = models[0], models[-1]
    if smaller.model == larger.model:
        return ClaimReading(
            "not asked",
            f"Both are {smaller.model}, so the claim about model size is not asked.",
            ("The differences below are between two exports of the same model.",),
        )
    (pair,) = (each for each in findings.pairs if (each.first, each.second) == (smaller.name, larger.name))
    difference = pair.differences["image_share"]
    (outcome,) = (one for one in pair.outcomes if not one.first_right and one.second_right)
    return ClaimReading(
        *_verdict(smaller, larger, difference),
        (*_sentences(smaller, larger, pair, outcome.difference), *_other_token(targets)),
        smaller.name,
        larger.name,
        assumed,
        difference,
        outcome.difference,
    )


def _verdict(smaller: ModelFindings, larger: ModelFindings, found: Difference) -> tuple[Verdict, str]:
    estimate = found.difference
    sure = found.p_adjusted is not None and found.p_adjusted < ALPHA
    if estimate.low is None and found.p is None:
        return "undecided", f"Too few rows or pictures to decide (n = {estimate.rows}; at least {FEWEST} of each)."
    if not sure or not estimate.decided or found.median.decided == -estimate.decided:
        return "undecided", (
            f"These data do not decide whose relevance lies less on the picture, {smaller.name}'s or {larger.name}'s, "
            "and so not who attends less."
        )
    less, more = (smaller, larger) if estimate.decided < 0 else (larger, smaller)
    verdict: Verdict = "supports" if less is smaller else "against"
    how = (
        "as the claim that it attends less has it"
        if less is smaller
        else "the opposite of who attends less by the claim"
    )
    return verdict, f"Less of {less.name}'s relevance lies on the picture than of {more.name}'s, {how}."


def _sentences(smaller: ModelFindings, larger: ModelFindings, pair: PairFindings, alike: Estimate) -> list[str]:
    found = pair.differences["image_share"]
    estimate = found.difference
    if estimate.value is None:
        return ["The two models have no row in common with an image share."]
    means = (
        f"On average {percent(found.first)} of {smaller.name}'s relevance lies on the picture, and "
        f"{percent(found.second)} of {larger.name}'s: a paired difference of {points(estimate)} over {estimate.rows:,} "
        f"rows about {estimate.pictures:,} pictures. {smaller.name} is the lower one in {percent(found.lower)} of them."
    )
    said = [means]
    if found.median.value is not None:
        medians = [model.medians["image_share"].value for model in (smaller, larger)]
        said.append(
            "Shares can run over many decades, and few large ones make a mean. The medians are "
            f"{' and '.join(level(value, True) for value in medians)}, that of the differences {points(found.median)}."
        )
    if found.effect.value is not None:
        said.append(
            "Over its standard deviation from row to row (d_z), the difference is "
            f"{_with_interval(effect(found.effect.value), effect_interval(found.effect))}."
        )
    said.append(_absolute(smaller))
    said.append(_concentration(smaller, larger, pair))
    if alike.rows and alike.value is not None:
        note = "" if alike.low is not None else f"; fewer than {FEWEST} rows or pictures, so no interval"
        said.append(
            f"The paper showed one picture, chosen because the smaller model fails on it and the larger one does not. "
            f"Over the {alike.rows:,} rows of that kind here, the difference is {points(alike)}{note}."
        )
    return said


def _other_token(targets: Collection[str]) -> list[str]:
    """What to say where other tokens than the paper's were explained."""
    other = " and ".join(sorted(set(targets) - {TARGET}))
    warning = (
        f"The paper explains the first relevant token of an answer; here it was “{other}”. Where that is a bracket or "
        f"a quote, no picture is needed to say it: export with --target {TARGET} to read the claim as it was meant."
    )
    return [warning] if other else []


def _absolute(smaller: ModelFindings) -> str:
    mean = smaller.means["image_share"]
    if mean.value is None:
        return f"No image share of {smaller.name} is known."
    below = smaller.small_shares
    value = _with_interval(percent(mean.value), level_interval(mean, share=True))
    return (
        f"Taken word for word, “does not attend” would need more than a small image share ({smaller.name}'s is {value} "
        f"on average, and below {SMALL_SHARE:.0%} in {below:,} of {mean.rows:,} rows): answers with hardly any "
        "relevance on the picture can depend on it all the same. Hiding it (relevancy.counterfactual) tells."
    )


def _concentration(smaller: ModelFindings, larger: ModelFindings, pair: PairFindings) -> str:
    top = pair.differences["top_mass"]
    if top.difference.value is None:
        return "No map of both models to compare for concentration."
    verdict = "which does not decide which is the more concentrated"
    if top.p_adjusted is not None and top.p_adjusted < ALPHA and top.difference.decided:
        focused = larger if top.difference.value < 0 else smaller
        verdict = f"so the maps of {focused.name} are the more concentrated"
    grids = "" if smaller.grids == larger.grids else " (the models' grids differ, which moves this number, too)"
    return (
        f"The paper also calls the smaller model's map dispersed. The most relevant tenth of the patches holds "
        f"{percent(top.first)} of {smaller.name}'s map and {percent(top.second)} of {larger.name}'s, a difference of "
        f"{points(top.difference)}, {verdict}{grids}."
    )


def percent(value: float) -> str:
    """A share as a percentage."""
    return level(value, share=True)


def points(estimate: Estimate) -> str:
    """A difference of shares in percentage points, with its interval."""
    in_words = step(estimate.value, share=True).replace("pp", "percentage points")
    return _with_interval(in_words, step_interval(estimate, share=True))


def _with_interval(value: str, interval: str) -> str:
    return f"{value} (95% interval {interval.strip('[]').replace(', ', ' to ')})" if interval else value

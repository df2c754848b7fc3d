"""The claim under LLaVA-Gemma's Figure 2, read on many rows instead of one."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from relevancy.explanations.evidence import BLIND_TV
from relevancy.report.findings import ReportFindings
from relevancy.report.model_findings import SMALL_SHARE, ModelFindings
from relevancy.report.pair_findings import Difference, PairFindings
from relevancy.report.words import level, level_interval, step, step_interval
from relevancy.stats.clustered import FEWEST, Estimate

Verdict = Literal["supports", "in part", "against", "undecided", "not measured", "not asked"]
ALPHA = 0.05
TARGET = "first-relevant"  # what the paper explains
CLAIM = "the smaller model does not attend to the visual input"
SOURCE = "LLaVA-Gemma, arXiv 2404.01331, Figure 2"
_UNKNOWN: tuple[Verdict, str] = ("not measured", "Whether the picture was used is not known: there is no evidence.")
MISSING = (
    "Evidence is what knocking out the picture does to each answer. An export has it unless it was made with "
    "--no-evidence or by an earlier version: export again without that option, into another folder."
)
_BILLIONS = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)\s*b(?![a-z0-9])", re.IGNORECASE)
_WORDS = ("nano", "tiny", "mini", "small", "base", "medium", "large", "huge", "giant")


@dataclass(frozen=True)
class ClaimReading:
    """What the data say about the claim, in plain words and in the numbers behind them.

    It rests on what knocking out the picture does to the answers. "supports": the smaller model uses the picture less,
    and most of its answers stand on words alone, in every kind of question; "in part": only the first of these. "not
    measured": no evidence.

    smaller, larger: the models' names; assumed where nothing but their order tells. difference: of the use of the
    picture, smaller less larger, in pairs. chosen_like_the_paper: the same over the rows only the larger model gets
    right.
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
    (outcome,) = (one for one in pair.outcomes if not one.first_right and one.second_right)
    difference, alike = pair.differences["blind_tv"], outcome.differences["blind_tv"]
    known = bool(smaller.evidence and larger.evidence)
    said = _of_use(smaller, larger, pair, alike) if known else [MISSING]
    return ClaimReading(
        *(_verdict(smaller, larger, pair) if known else _UNKNOWN),
        (*said, _of_shares(smaller, larger, pair), _concentration(smaller, larger, pair), *_other_token(targets)),
        smaller.name,
        larger.name,
        assumed,
        difference,
        alike,
    )


def _verdict(smaller: ModelFindings, larger: ModelFindings, pair: PairFindings) -> tuple[Verdict, str]:
    found, lost = pair.differences["blind_tv"], pair.differences["blind_drop"].difference
    estimate = found.difference
    if estimate.low is None and found.p is None:
        return "undecided", f"Too few rows or pictures to decide (n = {estimate.rows}; at least {FEWEST} of each)."
    sure = found.p_adjusted is not None and found.p_adjusted < ALPHA
    if not sure or not estimate.decided or lost.decided == -estimate.decided:
        return "undecided", f"These data do not decide who uses the picture less, {smaller.name} or {larger.name}."
    if estimate.decided > 0:
        return "against", f"{smaller.name} uses the picture more than {larger.name}, the opposite of the claim."
    alone = smaller.evidence[0].verdicts["words alone"]
    less = f"{smaller.name} uses the picture less than {larger.name}"
    if alone.low is None or alone.low <= 0.5:
        return "in part", f"{less}, but only {percent(alone.value or 0)} of its answers stand on words alone."
    said = f"{less}, and {percent(alone.value or 0)} of its answers stand on words alone"
    for kind, share in _alone_by_kind(smaller, pair):
        if share.pictures >= FEWEST and max(share.value or 0, share.high or 0) < 0.5:
            return "in part", f"{said}, but of “{kind}” only {percent(share.value or 0)}."
    return "supports", f"{said}."


def _alone_by_kind(model: ModelFindings, pair: PairFindings) -> list[tuple[str, Estimate]]:
    """The share of answers that stand on words alone in each kind of question."""
    kinds = {one.form for one in pair.forms}
    return [(part.name, part.verdicts["words alone"]) for part in model.evidence if part.name in kinds]


def _of_use(smaller: ModelFindings, larger: ModelFindings, pair: PairFindings, alike: Estimate) -> list[str]:
    """What knocking out the picture does, between the models and in the words of the claim."""
    used, lost = pair.differences["blind_tv"], pair.differences["blind_drop"]
    if used.difference.value is None:
        return ["The two models have no row in common with evidence."]
    moved = (
        f"With the picture knocked out of attention, {percent(used.first)} of the next token's probability moves in "
        f"{smaller.name}, and {percent(used.second)} in {larger.name}: a paired difference of "
        f"{points(used.difference)} over {used.difference.rows:,} rows about {used.difference.pictures:,} pictures, "
        "each model about its own answer."
    )
    loss = (
        f"The explained token itself loses {percent(lost.first)} and {percent(lost.second)} of probability, a "
        f"difference of {points(lost.difference)}."
    )
    alone = [model.evidence[0].verdicts["words alone"] for model in (smaller, larger)]
    literal = (
        "Taken word for word, “does not attend” would have every answer stand on words alone. So do "
        f"{_share(alone[0])} of {smaller.name}'s and {_share(alone[1])} of {larger.name}'s (less than "
        f"{BLIND_TV:.0%} of the probability moves)."
    )
    kinds = [(share.value, kind) for kind, share in _alone_by_kind(smaller, pair) if share.value is not None]
    if kinds:
        ends = (f"{percent(share)} (“{kind}”)" for share, kind in (min(kinds), max(kinds)))
        literal += f" By kind of question it is {' to '.join(ends)} of {smaller.name}'s."
    said = [moved, loss, literal, *_by_form(smaller, pair)]
    if alike.rows and alike.value is not None:
        note = "" if alike.low is not None else f"; fewer than {FEWEST} rows or pictures, so no interval"
        said.append(
            f"The paper showed one picture, chosen because the smaller model fails on it and the larger one does not. "
            f"Over the {alike.rows:,} rows of that kind here, the difference is {points(alike)}{note}."
        )
    return said


def _by_form(smaller: ModelFindings, pair: PairFindings) -> list[str]:
    """Whether the difference is the same in all kinds of questions."""
    sides = [(one.form, one.differences["blind_tv"].decided) for one in pair.forms if one.differences["blind_tv"].rows]
    if not sides:
        return []
    parts = []
    for side, how in ((-1, "less"), (1, "more"), (0, "undecided")):
        forms = [form for form, found in sides if found == side]
        if len(forms) == len(sides):
            parts.append(f"{how} in all {len(forms)}")
        elif forms:
            parts.append(f"{how} in {', '.join(f'“{form}”' for form in forms)}")
    said = f"By kind of question, {smaller.name}'s use of the picture is {'; '.join(parts)}"
    known = [(one.differences["blind_tv"].value, one.form) for one in pair.forms]
    least, most = (pick((value, form) for value, form in known if value is not None) for pick in (min, max))
    ends = (f"{step(value, share=True)} (“{form}”)" for value, form in (least, most))
    return [f"{said}. The difference reaches from {' to '.join(ends)}."]


def _of_shares(smaller: ModelFindings, larger: ModelFindings, pair: PairFindings) -> str:
    """The image share, from which the paper concludes, and what it is worth in these data."""
    found = pair.differences["image_share"]
    if found.difference.value is None:
        return "The two models have no row in common with an image share."
    said = (
        f"The image share, which the paper's maps show, is {percent(found.first)} in {smaller.name} and "
        f"{percent(found.second)} in {larger.name}, a paired difference of {points(found.difference)}. It is no "
        "measure of the picture's use"
    )
    related = [
        " and ".join(f"{_correlation(one)} in {name}" for name, one in estimates if one.value is not None)
        for estimates in (
            [(model.name, model.share_and_use) for model in (smaller, larger)],
            [(model.name, model.share_and_use_within) for model in (smaller, larger)],
        )
    ]
    if related[0]:
        said += f": here the rank correlation of the two is {related[0]} (1 would be the same order)"
    if related[1]:
        said += f", and among answers to questions of one form {related[1]}"
    used = [
        f"{_share(model.small_but_used)} of {model.name}'s {model.small_but_used.rows:,}"
        for model in (smaller, larger)
        if model.small_but_used.value is not None
    ]
    if used:
        said += f". Of answers with a share below {SMALL_SHARE:.0%}, {' and '.join(used)} need the picture"
    return f"{said}."


def _other_token(targets: Collection[str]) -> list[str]:
    """What to say where other tokens than the paper's were explained."""
    other = " and ".join(sorted(set(targets) - {TARGET}))
    warning = (
        f"The paper explains the first relevant token of an answer; here it was “{other}”. Where that is a bracket or "
        f"a quote, no picture is needed to say it: export with --target {TARGET} to read the claim as it was meant."
    )
    return [warning] if other else []


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


def _share(estimate: Estimate) -> str:
    """A mean share with its interval."""
    return _with_interval(percent(estimate.value or 0), level_interval(estimate, share=True))


def _correlation(estimate: Estimate) -> str:
    return _with_interval(step(estimate.value, share=False), step_interval(estimate, share=False))


def _with_interval(value: str, interval: str) -> str:
    return f"{value} (95% interval {interval.strip('[]').replace(', ', ' to ')})" if interval else value

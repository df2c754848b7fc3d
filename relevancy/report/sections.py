"""The page's sections of numbers: each model, differences, being right, localisation, groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from relevancy.report import charts, words
from relevancy.report.charts import Axis
from relevancy.report.findings import (
    Localisation,
    ModelFindings,
    PairFindings,
    ReportFindings,
    Rightness,
    SplitFindings,
)
from relevancy.report.pieces import axis_of, card, forest, heading, line, named, step, steps_forest, table, value
from relevancy.report.words import MEASURES
from relevancy.stats.clustered import FEWEST, Estimate

_UNIT = Axis(0, 1, (0, 0.25, 0.5, 0.75, 1))
Colors = Mapping[str, int]


def models(found: Sequence[ModelFindings], colors: Colors) -> str:
    """How each measure is spread over the rows, model under model."""
    grids = escape("; ".join(f"{one.name} {_grids(one)}" for one in found))
    under = (
        "How each number is spread over the rows. The line is the mean, the band around it its interval; the median is "
        "written under it, and says more where few rows make the mean. "
        f"Patches: {grids}."
    )
    panels = "".join(_panel(measure, found, colors) for measure in MEASURES)
    return f'{heading("Each model", under)}<div class="panels">{panels}</div>'


def _grids(model: ModelFindings) -> str:
    shown = ", ".join(model.grids[:3])
    return f"{shown} and {len(model.grids) - 3} more" if len(model.grids) > 3 else shown or "none"


def _panel(measure: str, found: Sequence[ModelFindings], colors: Colors) -> str:
    meaning = MEASURES[measure]
    spreads = {model.name: model.spread[measure] for model in found if measure in model.spread}
    top = charts.tallest(list(spreads.values()))
    end = max((spread.high for spread in spreads.values()), default=1.0)
    axis = _UNIT if end > 0.8 else Axis.around((0, end))
    rows = []
    for model in found:
        mean, color = model.means[measure], colors[model.name]
        drawn = (
            charts.spread(spreads[model.name], top, axis, color, mean)
            if model.name in spreads
            else charts.whisker(mean, axis, color)
        )
        middle = "" if measure == "correct" else _middle(model.medians[measure], share=meaning.share)
        label = f'<div class="label">{named(model.name, color)}{value(mean, share=meaning.share)}{middle}</div>'
        rows.append(f'<div class="row">{label}{drawn}</div>')
    scale = charts.scale(axis, words.ticks(axis.ticks, share=meaning.share, difference=False))
    return (
        f'<div class="card"><h3>{meaning.title}</h3><p class="small">{meaning.sentence}</p>{"".join(rows)}{scale}</div>'
    )


def _middle(median: Estimate, *, share: bool) -> str:
    """A median with its interval, in small letters under the mean."""
    interval = words.level_interval(median, share)
    return (
        ""
        if median.value is None
        else f'<span class="n num">median {words.level(median.value, share)} {interval}</span>'
    )


def differences(findings: ReportFindings) -> str:
    """Each two models over the rows both have."""
    title = "Differences over the same rows"
    if not findings.pairs:
        return heading(title, "One model, nothing to compare with. --compare takes a second export.")
    under = (
        "First less second, over the rows both have. p is of a sign-flip test over whole pictures, adjusted by Holm "
        f"for the {findings.tests} tests of this section. d is d_z, of paired rows: the mean difference over its "
        "standard deviation from row to row. How much that is, depends on what is measured."
    )
    return heading(title, under) + "".join(_pair(pair) for pair in findings.pairs)


def _pair(pair: PairFindings) -> str:
    title = f"{escape(pair.first)} less {escape(pair.second)}"
    if not pair.rows:
        return card(title, "No row in common.", "")
    axis = axis_of([found.difference for found in pair.differences.values()])
    lines = []
    for measure, found in pair.differences.items():
        meaning = MEASURES[measure]
        sides = " and ".join(words.level(side, meaning.share) for side in (found.first, found.second))
        shown = sides if found.difference.value is not None else "not known"
        interval = words.effect_interval(found.effect)
        lines.append(
            line(
                f'<b>{meaning.title}</b><span class="n num">{shown}</span>',
                charts.whisker(found.difference, axis, zero=0),
                step(found.difference, share=meaning.share) + _middle_step(measure, found.median, share=meaning.share),
                ("d", f'{words.effect(found.effect.value)} <span class="in">{interval}</span>'),
                ("p", words.chance(found.p_adjusted)),
            )
        )
    under = (
        f"{pair.rows:,} rows about {pair.pictures:,} pictures. Divergence of the two maps: "
        f"{value(pair.divergence, share=False)} (Jensen-Shannon, in bits: 0 the same, 1 never meeting). "
        "The spread of the map, from 0 to 1, is drawn as if it were a share."
    )
    labels = words.ticks(axis.ticks, share=True, difference=True)
    heads = ["measure", "", "difference", "d", "p, adjusted"]
    return card(title, under, forest("differences", lines, axis, labels, heads)) + _outcomes(pair)


def _middle_step(measure: str, median: Estimate, *, share: bool) -> str:
    if measure == "correct" or median.value is None:
        return ""
    return f'<span class="n num">median {words.step(median.value, share)} {words.step_interval(median, share)}</span>'


def _outcomes(pair: PairFindings) -> str:
    known = [one.difference for one in pair.outcomes if one.difference.rows]
    if not known:
        return ""
    names = {
        (True, True): "both right",
        (True, False): f"only {pair.first} right",
        (False, True): f"only {pair.second} right",
        (False, False): "both wrong",
    }
    axis = axis_of(known)
    lines = [
        line(
            f"<b>{escape(names[one.first_right, one.second_right])}</b>",
            charts.whisker(one.difference, axis, zero=0),
            step(one.difference),
        )
        for one in pair.outcomes
    ]
    title = f"Image share, {escape(pair.first)} less {escape(pair.second)}, by who is right"
    return card(title, "Intervals only, no tests.", steps_forest(lines, known))


def right(findings: ReportFindings, colors: Colors) -> str:
    """Right answers beside wrong ones."""
    title = "Does the image share go with being right?"
    if not findings.rightness:
        return heading(title, "This export does not know which answers are right.")
    under = (
        "Right answers beside wrong ones. The area under the ROC curve (AUC) is how often a right answer has the "
        "larger number than a wrong one: 0.5 is chance, 1 always. Some forms of questions are harder than others, and "
        "some leave more of the relevance on the picture; so differences are between answers to questions of one form "
        "(their first two words, and whether options follow), forms weighed as in Mantel and Haenszel’s test. "
        "Intervals only, no tests. What goes with being right need not be why, and a share is not use of the picture."
    )
    heads = ("measure", "right", "wrong", "right less wrong, within forms", "AUC, within forms")
    parts = [
        card(
            named(name, colors[name]),
            escape(_said_of(found["image_share"])),
            table(heads, [_right_row(measure, one) for measure, one in found.items()]),
        )
        for name, found in findings.rightness.items()
    ]
    return heading(title, under) + "".join(parts)


def _said_of(image: Rightness) -> str:
    area = image.area_within
    if image.area.value is None:
        return "All known answers are right, or all are wrong: nothing to tell apart."
    if area.value is None:
        return "No form of question has both right and wrong answers: whatever differs may be the questions."
    if area.low is None or area.high is None:
        return (
            f"Too few right or wrong answers within forms of questions to say: at least {FEWEST} pictures of each are "
            "needed."
        )
    forms = "one form of question" if image.forms == 1 else f"each of {image.forms} forms of questions"
    if area.low > 0.5:
        return f"Within {forms}, a larger image share goes with being right."
    if area.high < 0.5:
        return f"Within {forms}, a smaller image share goes with being right."
    return f"Within {forms}, these rows do not decide whether the image share goes with being right."


def _right_row(measure: str, found: Rightness) -> tuple[str, list[str]]:
    share = MEASURES[measure].share
    cells = [
        value(found.right, share=share),
        value(found.wrong, share=share),
        step(found.gap_within, share=share),
        value(found.area_within, share=False),
    ]
    return f"<b>{MEASURES[measure].title}</b>", cells


def where(findings: ReportFindings, colors: Colors) -> str:
    """Maps held against boxes or masks."""
    title = "Do the maps lie where the answer is?"
    if not findings.localisation:
        return heading(title, "This export carries no masks and no boxes to hold the maps against.")
    under = (
        "Over rows with a mask or boxes. Pointing game: how often the map’s peak lies on the object; by chance, any "
        "patch’s middle. Energy: how much of the map lies on it; by chance, its share of the picture."
    )
    heads = ("model", "pointing game", "above chance", "energy in the object", "above chance")
    rows = [(f"<b>{named(name, colors[name])}</b>", _where_row(one)) for name, one in findings.localisation.items()]
    return f'{heading(title, under)}<div class="card">{table(heads, rows)}</div>'


def _where_row(found: Localisation) -> list[str]:
    cells = []
    for score, chance, above in (
        (found.pointing, found.pointing_chance, found.pointing_above),
        (found.energy, found.energy_chance, found.energy_above),
    ):
        by_chance = f'<span class="n num">chance {words.level(chance, True)}</span>'
        cells += [f"{value(score, share=True)} {by_chance}", step(above)]
    return cells


def split(found: SplitFindings, findings: ReportFindings, colors: Colors) -> str:
    """Each model's means and each pair's difference in the groups of one column."""
    tests = sum(one.p is not None for group in found.groups for one in group.differences)
    parts = [
        f"{len(found.groups)} groups.",
        f"{found.left_out:,} smaller groups are not shown." if found.left_out else "",
        f"p is adjusted by Holm for the {tests} tests of this split." if tests else "",
        f"A group of fewer than {FEWEST} rows or pictures has no interval and no test.",
    ]
    cards = [_grouped(measure, found, colors) for measure in ("image_share", "correct")]
    cards += [_split_differences(found, pair, number) for number, pair in enumerate(findings.pairs)]
    return heading(f"By {found.column}", escape(" ".join(filter(None, parts)))) + "".join(cards)


def _grouped(measure: str, found: SplitFindings, colors: Colors) -> str:
    estimates = [one[measure] for group in found.groups for one in group.means.values()]
    if not any(estimate.rows for estimate in estimates):
        return ""
    axis = axis_of(estimates, most=1.0)
    lines = [
        line(
            named(name, colors[name]),
            charts.whisker(one[measure], axis, colors[name]),
            value(one[measure], share=True),
            group=f"<b>{escape(group.value)}</b>" if not number else "",
        )
        for group in found.groups
        for number, (name, one) in enumerate(group.means.items())
    ]
    labels = words.ticks(axis.ticks, share=True, difference=False)
    return card(MEASURES[measure].title, MEASURES[measure].sentence, forest("grouped", lines, axis, labels))


def _split_differences(found: SplitFindings, pair: PairFindings, number: int) -> str:
    differences = [group.differences[number] for group in found.groups]
    estimates = [one.difference for one in differences]
    axis = axis_of(estimates)
    lines = [
        line(
            f'<b>{escape(group.value)}</b><span class="n num">p = {words.chance(one.p_adjusted)}</span>',
            charts.whisker(one.difference, axis, zero=0),
            step(one.difference),
        )
        for group, one in zip(found.groups, differences, strict=True)
    ]
    title = f"Image share, {escape(pair.first)} less {escape(pair.second)}"
    return card(title, "Over the rows both have.", steps_forest(lines, estimates))

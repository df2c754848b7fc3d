"""A report as one page that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from importlib import resources
from typing import Any

from relevancy.plotting.overlay import FLOOR, percent
from relevancy.report import charts, sections, words
from relevancy.report.cards import gallery
from relevancy.report.charts import Axis
from relevancy.report.claim import CLAIM, SOURCE, ClaimReading
from relevancy.report.contents import ExportFacts, Report
from relevancy.report.findings import PairFindings, ReportFindings
from relevancy.report.maps import SIDE
from relevancy.report.pieces import cut, heading, step
from relevancy.stats.clustered import FEWEST

_TAGS = {"supports": "Supports the claim", "against": "Against the claim", "undecided": "Does not decide",
         "not asked": "Not asked"}  # fmt: skip
_COLORS = 4  # that the style sheet has for models
_MOST_ERRORS = 8
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(report: Report) -> str:
    """The whole page as HTML."""
    parts = list(_sections(report))
    title = escape(" and ".join(model.name for model in report.findings.models))
    style = resources.files("relevancy.report").joinpath("page.css").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in parts)
    body = "".join(f'<section id="{key}">{html}</section>' for key, _, html in parts)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Relevancy report: {title}</title><style>{style}</style></head><body>"
        f'<header class="top"><h1>Where the relevance lies</h1>{_header(report)}<nav>{links}</nav></header>'
        f"<main>{body}</main>"
        f"<footer>relevancy {escape(report.version)}. Every number of this page is in report.json beside it.</footer>"
        f"</body></html>\n"
    )


def _sections(report: Report) -> Iterator[tuple[str, str, str]]:
    """Each section's anchor, its name in the list of links, and its HTML."""
    findings = report.findings
    colors = {model.name: number % _COLORS for number, model in enumerate(findings.models)}
    yield "claim", "The claim", _claim(report.reading, findings)
    yield "models", "Each model", sections.models(findings.models, colors)
    yield "differences", "Differences", sections.differences(findings)
    yield "right", "Being right", sections.right(findings, colors)
    yield "where", "Localisation", sections.where(findings, colors)
    for number, split in enumerate(findings.splits):
        yield f"by-{number}", f"By {split.column}", sections.split(split, findings, colors)
    if not findings.splits:
        yield "by", "Groups", _no_split(report)
    yield "gallery", "Gallery", gallery(report.gallery)
    yield "method", "How it was counted", _method(report)


def _header(report: Report) -> str:
    findings = report.findings
    facts = [
        (len(findings.models), "model" if len(findings.models) == 1 else "models"),
        (sum(model.results for model in findings.models), "results"),
        (findings.pictures, "pictures"),
        *([(max(pair.rows for pair in findings.pairs), "rows in common")] if findings.pairs else []),
        (findings.failed, "errors, left out"),
    ]
    names = ", ".join(f"<b>{escape(model.name)}</b>" for model in findings.models)
    folders = " and ".join(f"<b>{escape(export.name)}</b>" for export in report.exports)
    boxes = "".join(f'<div class="card fact"><b>{number:,}</b><span>{name}</span></div>' for number, name in facts)
    return (
        f'<p class="lead">Relevance maps of {names}, from {folders}. Every number stands with what it rests on (n) and '
        f'its 95% interval in brackets.</p><div class="facts">{boxes}</div>{_warnings(report)}'
    )


def _warnings(report: Report) -> str:
    findings = report.findings
    said = [
        f"{export.name} is not finished: these numbers are of the rows that are there so far."
        for export in report.exports
        if not export.finished
    ]
    if report.differing:
        said.append(
            f"The two exports differ in {', '.join(report.differing)}: what differs below may come from that and not "
            "from the models."
        )
    if findings.repeated:
        said.append(f"{findings.repeated:,} repeated lines are left out.")
    if findings.unreadable_masks:
        said.append(
            f"{findings.unreadable_masks:,} lines have a mask that cannot be read, or boxes outside of the picture, "
            "and no localisation."
        )
    said += [
        f"{model.empty_maps:,} of {model.results:,} maps of {model.name} are empty and have no concentration."
        for model in findings.models
        if model.empty_maps
    ]
    lines = "".join(f"<p>{escape(each)}</p>" for each in said) + _errors(findings)
    return f'<div class="card warn">{lines}</div>' if lines else ""


def _errors(findings: ReportFindings) -> str:
    if not findings.failed:
        return ""
    listed = list(findings.errors.items())[:_MOST_ERRORS]
    items = "".join(f"<li>{count:,} × {cut(why)}</li>" for why, count in listed)
    rest = findings.failed - sum(count for _, count in listed)
    more = f"<li>{rest:,} for other reasons</li>" if rest else ""
    what = "1 line is an error" if findings.failed == 1 else f"{findings.failed:,} lines are errors"
    return f"<details><summary>{what}</summary><ul>{items}{more}</ul></details>"


def _claim(reading: ClaimReading, findings: ReportFindings) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in reading.sentences)
    drawn = guess = ""
    for pair in findings.pairs:
        if (pair.first, pair.second) == (reading.smaller, reading.larger):
            drawn = _claim_drawn(pair)
    if reading.assumed and reading.smaller:
        guess = (
            f'<p class="small">{escape(reading.smaller)} is taken to be the smaller model because it is named first; '
            f"--smaller names another.</p>"
        )
    kind = reading.verdict.replace(" ", "-")
    under = f"{escape(SOURCE)}, shows one picture and says that “{escape(CLAIM)}”."
    return (
        f"{heading('The paper’s claim, read on these rows', under)}"
        f'<div class="card verdict {kind}"><span class="tag">{_TAGS[reading.verdict]}</span>'
        f'<p class="headline">{escape(reading.headline)}</p><ul>{items}</ul>{drawn}{guess}</div>'
    )


def _claim_drawn(pair: PairFindings) -> str:
    """How the difference of the image share is spread over the rows."""
    found, spread = pair.differences["image_share"], pair.spread
    used = [number for number, count in enumerate(spread.counts) if count]
    if not used:
        return ""
    width = (spread.high - spread.low) / len(spread.counts)
    axis = Axis.around([spread.low + width * number for number in (used[0], used[-1] + 1)], keep=(0.0,))
    label = (
        f'<div class="label"><span class="name">Image share, {escape(pair.first)} less {escape(pair.second)}, row by '
        f'row</span><span class="num">{step(found.difference)} '
        f'<span class="n">· p = {words.chance(found.p_adjusted)}, adjusted</span></span></div>'
    )
    drawn = charts.spread(spread, charts.tallest([spread]), axis, None, found.difference, zero=0)
    scale = charts.scale(axis, words.ticks(axis.ticks, share=True, difference=True))
    return f'<div class="block">{label}{drawn}{scale}</div>'


def _no_split(report: Report) -> str:
    columns = sorted({name for export in report.exports for name in export.own_columns})
    hint = f"--by takes {', '.join(columns)}." if columns else "The input had no columns of its own to split by."
    return heading("Groups", f"Not split by any column. {escape(hint)}")


def _method(report: Report) -> str:
    findings = report.findings
    said = {
        "Intervals": (
            "Means are over rows. Several questions about one picture are not independent, so an interval comes from "
            f"drawing pictures, with all their rows, with replacement: {findings.resamples:,} times (seed "
            f"{findings.seed}). A mean has a 95% bootstrap-t interval, everything else (and a mean whose resamples may "
            "lose all spread, as of rare right answers) a BCa interval, a median the middle of its resampled medians; "
            "both are widened for few pictures as Student’s t is. Of 10 to 40 pictures such intervals hold the mean of "
            "skewed values in 88 to 96%, and the median in 95 to 98%; where values run over many decades only the "
            "median’s does. Intervals are not adjusted for how many there are."
        ),
        "Tests": (
            f"Sign-flip permutation tests of paired differences, {findings.flips:,} random flips of whole pictures, "
            f"two-sided; the smallest p there is, is {1 / (findings.flips + 1):.4f}. Families of Holm’s adjustment: "
            f"all measures of all pairs under Differences ({findings.tests} tests), and the pairs and groups of each "
            "split."
        ),
        "Too few": (
            f"Below {FEWEST} rows or {FEWEST} pictures there is no interval and no test, the mean stands alone. Nor is "
            "there an interval where all rows are alike: nothing tells then how far the truth may lie."
        ),
        "Concentration": (
            "Of the raw map over all its patches, negative values taken as zero. Where two models’ patches differ, so "
            f"do these numbers, whatever the models do. Two maps are compared on a raster of {SIDE} × {SIDE} parts of "
            "the picture, each as a distribution."
        ),
        "Limits": (
            "Relevance tells about the computation and does not prove what the model used: hiding a region "
            "(relevancy.counterfactual) tests that. A small image share is no sign that the picture was not used: "
            "of the embedded pair’s open answers with a share below 1%, two thirds lose more than 0.3 of their "
            "probability without the picture. Maps with a share below "
            f"{percent(FLOOR)} are drawn as empty in the gallery."
        ),
    }
    items = "".join(f"<dt>{term}</dt><dd>{escape(text)}</dd>" for term, text in said.items())
    exports = "".join(_export(export) for export in report.exports)
    return f'<h2>How it was counted</h2><div class="card"><dl class="method">{items}</dl></div>{exports}'


def _export(export: ExportFacts) -> str:
    facts: dict[str, Any] = {
        "models": ", ".join(export.models),
        "rows": "not counted yet" if export.rows is None else f"{export.rows:,}",
        "finished": "yes" if export.finished else "no",
        "created": export.created,
        "configuration hash": export.configuration_hash,
        "versions": ", ".join(f"{name} {version}" for name, version in export.versions.items()),
        "further columns": ", ".join(export.own_columns) or "none",
        **{key: _shown(value) for key, value in export.configuration.items() if key != "models"},
    }
    items = "".join(f"<dt>{escape(name)}</dt><dd>{cut(str(value), 400)}</dd>" for name, value in facts.items() if value)
    title = f"The export {escape(export.name)}"
    return f'<div class="card block"><details open><summary>{title}</summary><dl>{items}</dl></details></div>'


def _shown(value: Any) -> str:
    if value is None:
        return "default"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

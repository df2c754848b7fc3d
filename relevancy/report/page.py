"""A report as one page that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from relevancy.explanations.evidence import BLIND_TV
from relevancy.plotting import overlay
from relevancy.report import charts, claim, maps, words
from relevancy.report.contents import Report
from relevancy.report.findings import ReportFindings
from relevancy.report.measures import VERDICTS
from relevancy.report.model_findings import SMALL_SHARE
from relevancy.report.split_findings import SplitFindings
from relevancy.stats.clustered import FEWEST

_COLORS = 4  # that the style sheet has for models
_TEMPLATES = resources.files("relevancy.report") / "templates"


def page(report: Report) -> str:
    """The whole page as HTML."""
    findings = report.findings
    colors = {model.name: f"c{number % _COLORS}" for number, model in enumerate(findings.models)}
    template = templates().get_template("page.html")
    return template.render(report=report, findings=findings, colors=colors, sections=list(_sections(findings)))


def _sections(findings: ReportFindings) -> Iterator[tuple[str, str, str, SplitFindings | None]]:
    """Each section's anchor, its name in the list of links, its template, and the split that it shows."""
    yield "claim", "The claim", "claim.html", None
    yield "evidence", "Which maps to believe", "evidence.html", None
    yield "models", "Each model", "models.html", None
    yield "differences", "Differences", "differences.html", None
    yield "right", "Being right", "right.html", None
    yield "where", "Localisation", "where.html", None
    for number, split in enumerate(findings.splits):
        yield f"by-{number}", f"By {split.column}", "split.html", split
    if not findings.splits:
        yield "by", "Groups", "split.html", None
    yield "gallery", "Gallery", "gallery.html", None
    yield "method", "How it was counted", "method.html", None


@cache
def templates() -> Environment:
    """The package's templates: what they are given is escaped, and a name that is not there is an error."""
    made = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: (_TEMPLATES / name).read_text(encoding="utf-8")),
    )
    made.globals |= {"words": words, "charts": charts, "claim": claim, "maps": maps, "overlay": overlay}
    made.globals |= {"FEWEST": FEWEST, "VERDICTS": VERDICTS, "BLIND_TV": BLIND_TV, "SMALL_SHARE": SMALL_SHARE}
    made.filters |= {"number": "{:,}".format, "cut": words.cut, "setting": _setting, "list_values": _values}
    return made


def _values(value: Mapping[str, Any]) -> list[Any]:
    return list(value.values())


def _setting(value: Any) -> str:
    """An export's setting as it stands on the page."""
    if value is None:
        return "default"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

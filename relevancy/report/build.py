"""From one or two exports to report.html and report.json."""

from __future__ import annotations

__all__ = ["make_report", "save"]

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from relevancy import __version__
from relevancy.atomic_io import whole_files
from relevancy.errors import RelevancyError
from relevancy.report import claim
from relevancy.report.contents import ExportFacts, Report
from relevancy.report.findings import find
from relevancy.report.gallery import Drawer, shelves
from relevancy.report.measures import Measures, measure
from relevancy.report.page import page
from relevancy.report.pair_findings import Pair
from relevancy.report.source import open_source

PAGE, NUMBERS = "report.html", "report.json"
Progress = Callable[[str, float], None]


def make_report(
    folder: str | os.PathLike[str],
    compare: str | os.PathLike[str] | None = None,
    *,
    by: Sequence[str] = (),
    smaller: str | None = None,
    gallery: int = 6,
    resamples: int = 2000,
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> Report:
    """What an export shows, or two of them beside each other.

    by: columns to split by, an input's own with or without "in_". smaller: the smaller model's name, where names do not
    tell. gallery: rows shown for each reason. progress: told the stage and the share of it that is done.
    Raises RelevancyError for a folder that is no export, has no result, or shares no row with the other.
    """
    if compare is not None and Path(compare).resolve() == Path(folder).resolve():
        raise RelevancyError(f"--compare {compare}: is the same export. Give another one.")
    sources = [open_source(Path(each)) for each in (folder, compare) if each is not None]
    measured = measure(sources, list(dict.fromkeys(by)), lambda share: progress("reading", share))
    measured, assumed = _ordered(measured, smaller)
    pairs = [Pair.of(*two) for two in combinations(measured.series, 2)]
    across = [pair for pair in pairs if pair.first.source != pair.second.source]
    if across and not any(len(pair.in_first) for pair in across):
        raise RelevancyError(
            f"{folder} and {compare} have no row in common: rows are the same by id, question and picture. "
            "Export the same input twice."
        )
    findings = find(measured, by=list(dict.fromkeys(by)), resamples=resamples, seed=seed, progress=progress)
    progress("drawing", 0.0)
    chosen = list(shelves(measured.series, pairs, gallery))
    drawer = Drawer(sources, measured.series, [choice for shelf in chosen for choice in shelf.choices])
    cards = [
        tuple(drawer.card(choice, apart=shelf.measure == "divergence") for choice in shelf.choices) for shelf in chosen
    ]
    facts = tuple(ExportFacts.of(source) for source in sources)
    targets = [str(one.configuration["target"]) for one in facts if "target" in one.configuration]
    return Report(
        exports=facts,
        findings=findings,
        reading=claim.read(findings, assumed=assumed, targets=targets),
        gallery=tuple(zip(chosen, cards, strict=True)),
        version=__version__,
    )


def save(report: Report, folder: str | os.PathLike[str]) -> Path:
    """Write report.html and report.json, both or none; gives the page's path."""
    numbers = json.dumps(report.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
    with whole_files(Path(folder)) as part:
        (part / PAGE).write_text(page(report), encoding="utf-8")
        (part / NUMBERS).write_text(numbers, encoding="utf-8")
    return Path(folder) / PAGE


def _ordered(measured: Measures, smaller: str | None) -> tuple[Measures, bool]:
    """Series from the smallest model to the largest, and whether that is a guess."""
    series = measured.series
    order, told = claim.by_size([one.model for one in series])
    if smaller is not None:
        named = [place for place in order if smaller in (series[place].model, series[place].name)]
        if not named:
            raise RelevancyError(f"--smaller {smaller}: the models are {', '.join(one.name for one in series)}.")
        order, told = named + [place for place in order if place not in named], True
    return replace(measured, series=tuple(series[place] for place in order)), not told

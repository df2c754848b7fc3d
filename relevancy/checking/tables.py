"""The findings of a check as files: tables to read and the same as JSON."""

from __future__ import annotations

__all__ = ["as_json", "load", "markdown", "save"]

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from relevancy import formats
from relevancy.atomic_io import whole_files, write_whole
from relevancy.checking.store import METRIC
from relevancy.checking.verdicts import CheckFindings, Summary, Verdict
from relevancy.errors import RelevancyError
from relevancy.explanations.explanation import finite
from relevancy.explanations.map_batch import versions
from relevancy.stats.intervals import Interval

GROUPS: Mapping[str, Mapping[str, str]] = {
    "Against the model: what hiding and removing does to the answer": {
        "faithfulness": "insertion less deletion ↑",
        "deletion": "deletion ↓",
        "insertion": "insertion ↑",
        "flips": "answer flips ↑",
        "positive": "tokens, best first ↓",
        "negative": "tokens, worst first ↑",
    },
    "Against attention knockout: maps that are confirmed, and whether rightly": {
        "confirmed": "confirmed ↑",
        "precision": "precision ↑",
        "recall": "recall ↑",
    },
    "Against truth: where the asked-about thing is": {
        "pointing": "pointing ↑",
        "energy": "energy ↑",
        "recovery": "recovery at 5 % ↑",
        "rank_accuracy": "rank accuracy ↑",
        "iou": "IoU ↑",
        "nss": "NSS ↑",
        "chance": "mask's share",
    },
    "Against the map of something else: rank correlation": {
        "question similarity": "other question ↓",
        "picture similarity": "other picture ↓",
        "answer similarity": "other answer ↓",
        "noise similarity": "noise ↑",
        "alone similarity": "alone ↑",
    },
}
"""Columns in their order, by table; the arrow says which way is better. Those of random weights follow."""

ANSWERS: Mapping[str, str] = {
    "blind_tv": "blind TV",
    "words_alone": "words alone",
    "probability": "probability",
    "blind": "without the picture",
}
"""Columns of the explained tokens themselves."""

_OTHERS = "Metrics of other packages"
_WEIGHTS = "Against random weights: rank correlation without signs"
_COMPARED = ("faithfulness", "flips", "confirmed", "pointing", "energy", "recovery", "rank_accuracy", "nss")
_JSON = "table.json"
_COMPARISONS = ("numbers", "against_random", "against_centre", "against_first")
_FIELDS = tuple(each.name for each in fields(Interval))


def columns(summaries: Sequence[Summary]) -> dict[str, str]:
    """Numbers that there are, with their titles."""
    return {number: title for group in _groups(summaries).values() for number, title in group.items()}


def _groups(summaries: Sequence[Summary]) -> dict[str, dict[str, str]]:
    present = list(dict.fromkeys(name for one in summaries for name, found in one.numbers.items() if found.rows))
    weights = {
        number: f"{number.removeprefix('randomised ').removesuffix(' similarity_abs')} ↓"
        for number in present
        if number.startswith("randomised") and number.endswith("_abs")
    }
    groups = {
        heading: {number: title for number, title in titles.items() if number in present}
        for heading, titles in GROUPS.items()
    }
    others = {number: number.removeprefix(METRIC) for number in present if number.startswith(METRIC)}
    return {heading: titles for heading, titles in (groups | {_OTHERS: others, _WEIGHTS: weights}).items() if titles}


def markdown(findings: CheckFindings) -> str:
    """Tables of every number, its interval beside it, of the differences to the first method, and the verdicts."""
    summaries = findings.summaries
    lines = [f"## {findings.heading}", ""]
    lines += [f"Items {findings.items}.", ""] if findings.items else []
    if any(found.rows for found in findings.answers.values()):
        rows = str(next(iter(findings.answers.values())).rows)
        lines += _table("The explained tokens, whatever the method", ANSWERS, [(rows, findings.answers)], "tokens")
    titles = columns(summaries)
    for heading, group in _groups(summaries).items():
        lines += _table(heading, group, ((one.method, one.numbers) for one in summaries))
    compared = {number: titles[number] for number in _COMPARED if number in titles}
    for other, found in (
        (summaries[0].method, {one.method: one.against_first for one in summaries}),
        ("a blob in the middle", {one.method: one.against_centre for one in summaries}),
    ):
        if differing := [(method, numbers) for method, numbers in found.items() if numbers]:
            lines += _table(f"Differences to {other}, row by row", compared, differing)
    lines += ["### Verdicts", "", *(f"- **{one.method}**: {one.verdict}." for one in summaries)]
    lines += ["", *(f"Note: {note}" for note in findings.notes)] if findings.notes else []
    return "\n".join(lines) + "\n"


def _table(
    heading: str,
    titles: Mapping[str, str],
    rows: Iterable[tuple[str, Mapping[str, Interval]]],
    named: str = "method",
) -> list[str]:
    lines = [f"### {heading}", "", f"| {named} | {' | '.join(titles.values())} |", "| --- " * (len(titles) + 1) + "|"]
    for name, numbers in rows:
        cells = [str(numbers[number]) if number in numbers else "–" for number in titles]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def as_json(findings: CheckFindings) -> dict[str, Any]:
    """The same as JSON takes it.

    {"format", "model", "heading", "items", "answers", "methods": {name: a Summary's fields but its name}, "notes"}.
    """
    methods = {
        one.method: {key: value for key, value in asdict(one).items() if key != "method"} for one in findings.summaries
    }
    return finite(
        {
            formats.KEY: formats.CHECK,
            "model": findings.model,
            "heading": findings.heading,
            "items": findings.items,
            "answers": {name: asdict(found) for name, found in findings.answers.items()},
            "methods": methods,
            "notes": list(findings.notes),
        }
    )


def save(folder: Path, findings: Sequence[CheckFindings]) -> Path:
    """Write table.md, table.json and table.csv of one model or several into the folder, all or none; gives table.md."""
    with whole_files(folder) as part:
        with (part / "table.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows(_rows(findings))
        (part / "table.md").write_text("\n".join(map(markdown, findings)), encoding="utf-8")
        stored = json.dumps([as_json(one) for one in findings], indent=1)
        (part / _JSON).write_text(stored, encoding="utf-8")
    return folder / "table.md"


def _rows(findings: Sequence[CheckFindings]) -> Iterator[tuple[Any, ...]]:
    """Every number in a line of its own; what has no value is empty."""
    yield ("model", "method", "number", *_FIELDS)
    for one in findings:
        for method, numbers in [("", one.answers), *((each.method, each.numbers) for each in one.summaries)]:
            for number, found in numbers.items():
                yield one.model, method, number, *finite(asdict(found)).values()


def load(folder: str | os.PathLike[str]) -> list[CheckFindings]:
    """What `save` wrote, of each model. Raises RelevancyError when the folder does not hold it."""
    file = Path(folder) / _JSON
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        for one in stored:
            formats.require_known(one, formats.CHECK, file)
        return [_findings(one) for one in stored]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RelevancyError(f"{file} cannot be read as the table of a check: {error}") from error


def _findings(stored: Mapping[str, Any]) -> CheckFindings:
    def intervals(numbers: Mapping[str, Mapping[str, Any]]) -> dict[str, Interval]:
        """Null stands for NaN."""
        known: dict[str, dict[str, Any]] = {
            name: {key: float("nan") if value is None else value for key, value in one.items()}
            for name, one in numbers.items()
        }
        return {name: Interval(**one) for name, one in known.items()}

    summaries = [
        Summary(
            method,
            **{name: intervals(one.get(name, {})) for name in _COMPARISONS},
            verdict=Verdict(one["verdict"]["word"], tuple(one["verdict"]["reasons"])),
        )
        for method, one in stored["methods"].items()
    ]
    answers = intervals(stored.get("answers", {}))
    names = stored.get("model", ""), stored.get("items", "")
    return CheckFindings(stored["heading"], summaries, tuple(stored["notes"]), answers, *names)


def place_in(page: Path, command: str = "check") -> tuple[str, str]:
    """What stands before and after a page's own place for a command's tables, between two comments.

    Raises RelevancyError for a page without.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or error
        raise RelevancyError(f"--page {page}: cannot be read ({why}).") from error
    opening, closing = (f"<!-- relevancy {command}: {where} here -->" for where in ("from", "to"))
    before, start, rest = text.partition(opening)
    _, end, after = rest.partition(closing)
    if not start or not end:
        raise RelevancyError(f"--page {page}: needs a line {opening} and after it a line {closing}.")
    return before + start, end + after


def write_into(page: Path, tables: Iterable[str], command: str = "check") -> None:
    """Put tables into a page's place for them, instead of what stands there. Raises RelevancyError."""
    before, after = place_in(page, command)
    made = ", ".join(f"{name} {version}" for name, version in versions().items())
    whole = "\n".join(tables)
    write_whole(page, f"{before}\n\nWritten by `relevancy {command}` ({made}).\n\n{whole}\n{after}")

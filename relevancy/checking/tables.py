"""The findings of a check as files: a table to read and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from relevancy.checking.verdicts import Findings, Summary
from relevancy.explanation import finite, written_whole

TITLES: Mapping[str, str] = {
    "deletion": "deletion ↓",
    "insertion": "insertion ↑",
    "flips": "answer flips ↑",
    "positive": "tokens, best first ↓",
    "negative": "tokens, worst first ↑",
    "pointing": "pointing ↑",
    "energy": "energy ↑",
    "rank_accuracy": "rank accuracy ↑",
    "iou": "IoU ↑",
    "nss": "NSS ↑",
    "chance": "mask's share",
    "question similarity": "other question ↓",
    "picture similarity": "other picture ↓",
    "answer similarity": "other answer ↓",
    "noise similarity": "noise ↑",
    "alone similarity": "alone ↑",
}
"""Columns in their order; the arrow says which way is better. Those of random weights follow."""


def columns(summaries: Sequence[Summary]) -> dict[str, str]:
    """Numbers that there are, with their titles."""
    present = {number for one in summaries for number, found in one.numbers.items() if found.rows}
    weights = [number for number in summaries[0].numbers if number.startswith("randomised") and number.endswith("_abs")]
    titles = {number: title for number, title in TITLES.items() if number in present}
    return titles | {
        number: f"random {number.removeprefix('randomised ').removesuffix(' similarity_abs')} ↓"
        for number in weights
        if number in present
    }


def markdown(findings: Findings) -> str:
    """A table of every number, its interval beside it, and the verdicts."""
    summaries = findings.summaries
    titles = columns(summaries)
    lines = [f"## {findings.heading}", "", "| method | " + " | ".join(titles.values()) + " |"]
    lines.append("| --- " * (len(titles) + 1) + "|")
    for one in summaries:
        cells = [str(one.numbers[number]) if number in one.numbers else "–" for number in titles]
        lines.append(f"| {one.method} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- **{one.method}**: {one.verdict}." for one in summaries)]
    lines += ["", *(f"Note: {note}" for note in findings.notes)] if findings.notes else []
    return "\n".join(lines) + "\n"


def as_json(findings: Findings) -> dict[str, Any]:
    """The same as JSON takes it: {"heading", "methods": {name: {"numbers", "against_random", "verdict"}}, "notes"}."""
    methods = {
        one.method: {key: value for key, value in asdict(one).items() if key != "method"} for one in findings.summaries
    }
    return finite({"heading": findings.heading, "methods": methods, "notes": list(findings.notes)})


def save(folder: Path, findings: Sequence[Findings]) -> Path:
    """Write table.md and table.json of one model or several into the folder, both or none; gives table.md."""
    with written_whole(folder) as part:
        (part / "table.md").write_text("\n".join(map(markdown, findings)), encoding="utf-8")
        stored = json.dumps([as_json(one) for one in findings], indent=1)
        (part / "table.json").write_text(stored, encoding="utf-8")
    return folder / "table.md"

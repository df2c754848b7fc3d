"""All that is to be known of the way over a GPU, in at most eight minutes: `python -m relevancy.benchmark.gpu`.

Exactness against eager attention, what maps cost at 2B and 7B, further questions and tokens, an export, and the largest
kernels. Every part has a process and a time limit of its own; one that fails is told in a line, and the rest goes on.
With --dry-run all of it runs at toy size on the CPU, which shows that it works and nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from relevancy.atomic_io import write_whole
from relevancy.benchmark import probes
from relevancy.benchmark.processes import apart, measurement, preload
from relevancy.benchmark.setting import CostRow, Setting
from relevancy.errors import RelevancyError

BUDGET = 480.0  # seconds, for all parts
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Expectation:
    """What a part's rows should show, in words and as a check of them."""

    text: str
    holds: Callable[[Rows], bool]


@dataclass(frozen=True)
class Part:
    """One measurement. limit: seconds, of a card of the kind of an H100. toy: what a dry run measures in its place."""

    name: str
    work: Callable[[Setting], Iterator[Any]]
    setting: Setting
    toy: Setting
    limit: float
    expected: Sequence[Expectation] = field(default=())


def _costs(variant: str, most: float, *, tokens: int | None = None, of: str = "x_forward") -> Expectation:
    where = "" if tokens is None else f" at {tokens} tokens"
    unit = "bare forward passes" if of == "x_forward" else "first maps"

    def holds(rows: Rows) -> bool:
        chosen = [row for row in rows if row["variant"] == variant and tokens in (None, row["tokens"])]
        return bool(chosen) and all(row[of] is not None and row[of] <= most for row in chosen)

    return Expectation(f"{variant}{where}: at most {most} {unit}", holds)


def _exact(rows: Rows) -> bool:
    return all(row["error"] < probes.EXACT for row in rows if row["dtype"] == "float32")


def _half_exact(rows: Rows) -> bool:
    return all(row["error"] <= 1.5 * row["eager_error"] for row in rows if row["dtype"] == "bfloat16")


def _busy(rows: Rows) -> bool:
    return any((row["busy"] or 0) >= 0.5 for row in rows)


def _saves(rows: Rows) -> bool:
    beside = {row["variant"]: row["over_forward_bytes"] for row in rows}
    return 2 * beside["map-recomputed"] < beside["map"]


def _linear(rows: Rows) -> bool:
    """Over the bare pass, four times the tokens take less than six times the memory."""
    beside = {row["tokens"]: row["over_forward_bytes"] for row in rows if row["variant"] == "map"}
    pairs = [(tokens, 4 * tokens) for tokens in beside if 4 * tokens in beside]
    return bool(pairs) and all(beside[long] < 6 * beside[short] for short, long in pairs)


_CARD = Setting(device="cuda", dtype="bfloat16", repeats=5)
_TOY = Setting(size="demo", tokens=(125,), dtype="float32", repeats=1, rows=4, pictures=2)
_LONG, _TOY_LONG = (601, 2048, 8192), (125, 250)
_GROWING = ("forward", "map", "eager-frozen")

PARTS: tuple[Part, ...] = (
    Part(
        "exactness",
        probes.exactness,
        replace(_CARD, tokens=(601, 2048), layers=4),
        _TOY,
        45,
        (
            Expectation(f"float32: the row is within {probes.EXACT} of eager's", _exact),
            Expectation("bfloat16: the error is at most 1.5 x that of eager attention in bfloat16", _half_exact),
        ),
    ),
    Part(
        "map-2b",
        measurement,
        replace(_CARD, tokens=_LONG),
        replace(_TOY, tokens=_TOY_LONG),
        70,
        (_costs("map", 1.8, tokens=601), _costs("map", 1.8, tokens=8192)),
    ),
    Part(
        "map-7b",
        measurement,
        replace(_CARD, size="7b", tokens=(601, 2048), repeats=3),
        _TOY,
        60,
        (_costs("map", 1.8, tokens=601),),
    ),
    Part(
        "question-2b",
        measurement,
        replace(_CARD, workload="question"),
        replace(_TOY, workload="question"),
        30,
        (_costs("next", 1.0), _costs("next", 0.6, of="x_first")),
    ),
    Part(
        "token-2b",
        measurement,
        replace(_CARD, workload="token", answer=64, repeats=2),
        replace(_TOY, workload="token", answer=3),
        40,
        (_costs("next", 1.0), _costs("answer-together", 2.2)),
    ),
    Part(
        "long-7b",
        measurement,
        replace(_CARD, size="7b", tokens=(8192,), repeats=1, variants=("forward", "map", "map-recomputed")),
        replace(_TOY, tokens=(250,), variants=("forward", "map", "map-recomputed")),
        35,
        (
            _costs("map-recomputed", 2.8),
            Expectation("layers that run again need less than half of the memory beside the bare pass", _saves),
        ),
    ),
    Part(
        "evidence-2b",
        measurement,
        replace(_CARD, workload="evidence"),
        replace(_TOY, workload="evidence"),
        25,
        (_costs("evidence", 1.0),),
    ),
    Part("profile-2b", probes.profile, replace(_CARD, tokens=(601, 8192)), _TOY, 40),
    Part(
        "export-2b",
        measurement,
        replace(_CARD, workload="export", rows=1000, pictures=200, repeats=1, apart=True),
        replace(_TOY, workload="export", apart=True),
        90,
        (Expectation("the card computes at least half of the time", _busy),),
    ),
    Part(
        "growth-2b",
        measurement,
        replace(_CARD, tokens=(2048, 8192, 32768), layers=2, variants=_GROWING, repeats=1),
        replace(_TOY, tokens=(120, 480), variants=_GROWING),
        45,
        (Expectation("memory over the bare pass grows with the length, not with its square", _linear),),
    ),
)


def found(part: Part, *, dry: bool, limit: float) -> dict[str, Any]:
    """A part's rows, or why it failed. `expected`: whether each expectation holds, None where nothing can be told."""
    setting = part.toy if dry else part.setting
    rows: Rows = []
    failure, begun = None, time.monotonic()
    try:
        for event in apart(part.work, setting, limit=limit):
            if isinstance(event, CostRow):
                rows.append(asdict(event))
            elif isinstance(event, dict):
                rows.append(event)
    except RelevancyError as error:
        failure = str(error)
    judged = not dry and failure is None
    return {
        "part": part.name,
        "seconds": round(time.monotonic() - begun, 1),
        "limit": part.limit,
        "failure": failure,
        "expected": {one.text: one.holds(rows) if judged else None for one in part.expected},
        "rows": rows,
    }


def run(*, dry: bool, tell: Callable[[str], None], keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All parts. tell: hears a line of progress as parts begin and end; keep: is given all that is known after each."""
    preload("relevancy.benchmark.measurement", "relevancy.benchmark.probes")
    begun = time.monotonic()
    report: dict[str, Any] = {"dry_run": dry, "machine": {}, "seconds": 0.0, "parts": []}
    for event in apart(probes.machine, "cpu" if dry else "cuda"):
        report["machine"] |= event or {}
    for part in PARTS:
        left = BUDGET - (time.monotonic() - begun)
        tell(f"{part.name}: at most {part.limit:.0f} s")
        report["parts"].append(found(part, dry=dry, limit=min(part.limit, max(left, 0.0))))
        report["seconds"] = round(time.monotonic() - begun, 1)
        last = report["parts"][-1]
        tell(f"{part.name}: {last['failure'] or str(len(last['rows'])) + ' rows'}, {last['seconds']:.0f} s")
        keep(report)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: JSON to --out after every part, and to standard output at the end."""
    parser = argparse.ArgumentParser(prog="python -m relevancy.benchmark.gpu", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="toy size on the CPU: shows that all parts work")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="file for the numbers (gpu.json)")
    given = parser.parse_args(arguments)
    try:
        report = run(
            dry=given.dry_run,
            tell=_told,
            keep=lambda known: write_whole(given.out, json.dumps(known, indent=1)),
        )
    except RelevancyError as error:
        _told(f"relevancy: {error}")
        return 2
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 1 if any(part["failure"] for part in report["parts"]) else 0


def _told(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())

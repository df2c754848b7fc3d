"""`relevancy evaluate score` and `--list`: benchmarks of answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from relevancy.cli.terminal import escaped, out, say

if TYPE_CHECKING:
    from relevancy.evaluate.scores import BenchmarkScore


EXIT_CODES = "Exit codes: 0 done, 2 wrong input (one line says what to do)."


def evaluate(
    context: typer.Context,
    listed: Annotated[
        bool, typer.Option("--list", help="Every benchmark: what it needs, from where, its licence, size and layout.")
    ] = False,
) -> None:
    """Measure how often models are right, and whether maps are."""
    if context.invoked_subcommand is not None:
        return
    if not listed:
        out.print(context.get_help(), markup=False, highlight=False)
        raise typer.Exit
    from relevancy.evaluate.benchmarks import BENCHMARKS

    for one in BENCHMARKS.values():
        say(f"[bold]{one.name}[/bold]  {escaped(one.title)}", markup=True)
        lines = {
            "questions": one.questions, "DIR holds": "; ".join(one.layout),
            "pictures": f"DIR/{one.pictures} (not needed to score)", "from": one.source, "licence": one.licence,
            "size": one.size,
        }  # fmt: skip
        for name, text in lines.items():
            say(f"  {name:<10} {text}")
    say("\nOf your own predictions: relevancy evaluate score BENCHMARK --data DIR --predictions FILE")


def score(
    name: Annotated[str, typer.Argument(metavar="BENCHMARK", help="One of `relevancy evaluate --list`.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="The benchmark's files, as its authors ship them.")],
    predictions: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Answers: LLaVA's JSONL, the submission's form, or a judge's grades."),
    ],
    judge: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what to ask a judge about each answer, and score nothing."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON, and nothing else.")] = False,
) -> None:
    """Score any program's predictions by the official rules, with intervals over pictures.

    Try: relevancy evaluate score pope --data DIR --predictions answers.jsonl
    """
    from relevancy.errors import RelevancyError
    from relevancy.evaluate.benchmarks import benchmark
    from relevancy.evaluate.judges import write_requests

    chosen = benchmark(name)
    if judge is not None:
        if chosen.requests is None:
            raise RelevancyError(f"{name} needs no judge: leave --judge out.")
        write_requests(list(chosen.requests(data, predictions)), judge)
        say(f"→ {judge}   (its grades, lines of id, model and content, are the next --predictions)")
        return
    found = chosen.score(data, predictions)
    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False) + "\n")
        return
    _print(found)


def _print(found: BenchmarkScore) -> None:
    table = Table(found.benchmark, "score", "value", "95 % interval", "questions", "pictures", box=None, pad_edge=False)
    for group, own in found.estimates.items():
        for name, one in own.items():
            ends = "–" if one.low is None else f"{found.unit.printed(one.low)} to {found.unit.printed(one.high)}"
            cells = name, found.unit.printed(one.value), ends, f"{one.rows:,}", f"{one.pictures:,}"
            table.add_row(escaped(group), *cells)
    out.print(table)
    group, name = found.headline
    say(f"Quoted: {name} of {group}, {found.unit.printed(found.estimates[group][name].value)}.")
    say(f"Protocol: {found.protocol.name}; {found.protocol.version}. {found.protocol.rules}")
    if found.stand_in:
        say(f"Stand-in: {found.stand_in}.")

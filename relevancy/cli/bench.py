"""`relevancy bench`: what maps cost."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from relevancy.cli.terminal import err, lines, out, span, stages
from relevancy.errors import RelevancyError

if TYPE_CHECKING:
    from relevancy.benchmark.setting import CostRow, Setting


class WorkloadName(str, Enum):
    """What is measured."""

    map = "map"
    question = "question"
    token = "token"
    evidence = "evidence"
    export = "export"


def bench(
    workload: Annotated[
        WorkloadName,
        typer.Option(
            help="map: one map; question: the next one about the same picture; token: the next token of an answer; "
            "evidence: what it costs besides; export: rows a second."
        ),
    ] = WorkloadName.map,
    size: Annotated[
        str, typer.Option(help="2b, 7b, qwen2.5-vl-3b: true sizes; demo: that of demo-large. Weights are random.")
    ] = "2b",
    tokens: Annotated[
        str | None,
        typer.Option(
            help="Sequence lengths, as 601,2048,8192, the picture's 576 included (demo: 100, qwen2.5-vl-3b: 1,247)."
        ),
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Decoder layers, at true width; all by default.")] = None,
    variants: Annotated[
        str,
        typer.Option(help="Of map: forward, map, map-full, eager-frozen, eager-weights (the way of LVLM-Interpret)."),
    ] = "forward,map,eager-frozen,eager-weights",
    answer: Annotated[int, typer.Option(min=2, help="Of token: how many tokens the answer has.")] = 8,
    rows: Annotated[int, typer.Option(min=1, help="Of export: how many rows.")] = 24,
    pictures: Annotated[int, typer.Option(min=1, help="Of export: how many pictures the rows ask about.")] = 6,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds after one to warm up; the median counts.")] = 3,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="bfloat16, float16 or float32; by default bfloat16, or float32 on a CPU where that is faster."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; by default as PyTorch chooses.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON, and nothing else.")] = False,
) -> None:
    """What maps cost beside a bare forward pass, which is measured in turn with them in the same run.

    Two layers at true width, which any machine can do:
    relevancy bench --size 2b --layers 2
    The next question about the same picture, and how memory grows with length:
    relevancy bench --workload question --size 2b --layers 2
    relevancy bench --size demo --layers 2 --tokens 2048,4096,8192,16384,32768 --variants forward,map,eager-frozen
    """
    from relevancy.benchmark.setting import Setting

    setting = Setting(
        workload.value,
        size,
        _lengths(tokens),
        layers,
        dtype,
        device,
        tuple(variants.split(",")),
        repeats,
        threads,
        answer,
        rows,
        pictures,
        device.startswith("cuda"),
    )
    found = list(_shown(setting))
    if as_json:
        from dataclasses import asdict

        sys.stdout.write(json.dumps([asdict(row) for row in found]) + "\n")
    else:
        _print(found)


def _lengths(tokens: str | None) -> tuple[int, ...]:
    if tokens is None:
        return ()
    try:
        return tuple(int(length) for length in tokens.split(","))
    except ValueError as error:
        raise RelevancyError(f"--tokens takes numbers such as 601,2048, not {tokens!r}.") from error


def _shown(setting: Setting) -> Iterator[CostRow]:
    """The rows; meanwhile a plan, and then what is being done, on standard error."""
    from relevancy.benchmark.processes import apart, measurement
    from relevancy.benchmark.setting import CostPlan, CostRow, CostStep

    line, doing = lines(at_once=True), "starting"
    expected, begun = 0.0, time.monotonic()
    line(doing)
    with stages() as bar:
        for event in apart(measurement, setting):
            if isinstance(event, CostRow):
                yield event
                continue
            if isinstance(event, CostPlan):
                expected, begun = event.seconds, time.monotonic()
                err.print(f"{event.text}; about {span(expected)} to go", highlight=False, soft_wrap=True)
            elif isinstance(event, CostStep):
                doing = event.text
            passed = time.monotonic() - begun
            bar(doing, min(passed / expected, 0.99) if expected else 0.0)
            if not err.is_terminal:
                line(f"{doing}: {span(passed)}" + (f" of about {span(expected)}" if expected else ""))


def _print(found: list[CostRow]) -> None:
    first = found[0]
    exported = any(row.rows_per_second for row in found)
    besides = ("rows a second", "model computes") if exported else ("x first",)
    grown = any(row.growth is not None for row in found)
    sizes = ("peak GiB", "over forward, GiB", *(("grows as tokens^",) if grown else ()))
    table = Table("tokens", "what", "seconds", "x forward", *besides, *sizes, box=None)
    for row in found:
        told = [_number(row.rows_per_second, 2), _number(row.busy, 2)] if exported else [_number(row.x_first, 2)]
        told += [_number(size and size / 2**30, 2) for size in (row.peak_bytes, row.over_forward_bytes)]
        told += [_number(row.growth, 2)] if grown else []
        named = [str(row.tokens), row.variant]
        table.add_row(
            *named,
            *([row.failure] if row.failure else [_number(row.seconds, 3), _number(row.x_forward, 2), *told]),
        )
    out.print(
        f"{first.size}, {first.layers} layers, {first.dtype} on {first.device}, random weights, "
        f"median of {first.repeats}", highlight=False,
    )  # fmt: skip
    out.print(table)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"

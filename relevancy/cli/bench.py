"""`relevancy bench`: what a map costs."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from relevancy.cli.terminal import bars, out
from relevancy.errors import RelevancyError


def bench(
    size: Annotated[str, typer.Option(help="2b or 7b: true sizes, random weights.")] = "2b",
    tokens: Annotated[str, typer.Option(help="Sequence lengths, as 601,2048,8192; 576 are the picture's.")] = "601",
    layers: Annotated[int | None, typer.Option(min=1, help="Decoder layers; all by default.")] = None,
    variants: Annotated[
        str, typer.Option(help="forward, engine, engine-full, eager-frozen, eager-weights (as lvlm-interpret).")
    ] = "forward,engine,eager-frozen,eager-weights",
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs after one to warm up; the median counts.")] = 3,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; by default as PyTorch chooses.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else.")] = False,
) -> None:
    """What a map costs beside a bare forward pass and eager attention. Each variant has a process of its own."""
    from dataclasses import asdict

    from relevancy.benchmark import settings_for, sweep

    try:
        lengths = tuple(int(length) for length in tokens.split(","))
    except ValueError as error:
        raise RelevancyError(f"--tokens takes numbers such as 601,2048, not {tokens!r}.") from error
    settings = settings_for(
        size, tokens=lengths, variants=tuple(variants.split(",")), layers=layers, repeats=repeats, device=device,
        dtype=dtype, threads=threads,
    )  # fmt: skip
    measured = []
    with bars() as report:
        for measurement in sweep(settings):
            measured.append(measurement)
            report(f"{measurement.setting.variant}, {measurement.setting.tokens} tokens", 1.0)
    if as_json:
        sys.stdout.write(json.dumps([asdict(one) for one in measured]) + "\n")
        return
    table = Table("tokens", "variant", "seconds", "x forward", "peak GiB", "over forward, GiB", "", box=None)
    base: Any = None
    for one in measured:
        if one.setting.variant == "forward" and not one.failure:
            base = one
        known = base is not None and base.setting.tokens == one.setting.tokens and not one.failure
        table.add_row(
            str(one.setting.tokens), one.setting.variant,
            "" if one.failure else f"{one.seconds:.2f}",
            f"{one.seconds / base.seconds:.2f}" if known else "",
            "" if one.failure else f"{one.peak_bytes / 2**30:.2f}",
            f"{(one.peak_bytes - base.peak_bytes) / 2**30:.2f}" if known else "",
            one.failure or "",
        )  # fmt: skip
    where = f"{size}, {layers or 'all'} layers, {dtype} on {device}, random weights, median of {repeats}"
    out.print(where)
    out.print(table)

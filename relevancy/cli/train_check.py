"""`relevancy train check`: a data set read once, before it is trained on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relevancy.cli.options import Framing, value
from relevancy.cli.terminal import busy, err, say, seldom

if TYPE_CHECKING:
    from relevancy.train.data.examples import Encoder
    from relevancy.train.validation import Audit

FAULTS = 1
EXIT_CODES = "Exit codes: 0 nothing wrong, 1 faults found, 2 wrong input (one line says what to do)."
_LINE_EVERY = 5.0  # seconds
_SHOWN = 5  # names of each kind


def check(
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="A JSON list as LLaVA's, JSON Lines, a folder that datasets saved, or "
            "[bold]hf:owner/name@split[/bold].",
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where relative picture paths begin; by default beside the file."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Whose tokenizer tells what is too long; without one that is not looked at.")
    ] = None,
    max_length: Annotated[int, typer.Option(min=2, help="Longest sequence in tokens, pictures included.")] = 2048,
    framing: Annotated[Framing | None, typer.Option(help="How pictures are brought to a square.")] = None,
    open_pictures: Annotated[
        bool, typer.Option("--open/--no-open", help="Decode every picture, or only see whether the files are there.")
    ] = True,
    threads: Annotated[int | None, typer.Option(min=0, help="That open pictures; by default one a core.")] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Every fault by name, a line of JSON each.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else.")] = False,
) -> int:
    """Read training data once and say what is wrong with it: before an hour of a cluster is spent.

    Missing and unreadable pictures, empty turns, broken entries, over-long dialogues: by name and count.

    Try: relevancy train check --data llava_v1_5_mix665k.json --images data/ --model 2b --out faults.jsonl
    """
    from relevancy.train.validation import audit

    encoder = None if model is None else _encoder(model, max_length, value(framing))
    found = audit(
        data,
        images,
        encoder=encoder,
        open_pictures=open_pictures,
        threads=(os.cpu_count() or 0) if threads is None else threads,
        out=out_file,
        progress=_lines(),
    )
    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), ensure_ascii=False) + "\n")
    else:
        _print(found, out_file)
    return FAULTS if found.counts else 0


def _encoder(model: str, max_length: int, framing: str | None) -> Encoder:
    from relevancy import adapters
    from relevancy.models import checkpoints, compat
    from relevancy.train.data.examples import Encoder

    with busy(f"loading {model}'s processor"):
        location = adapters.located(model, None)
        processor = checkpoints.processor_of(location.processor, model)
        processor = compat.complete_processor(processor, checkpoints.config_of(location.weights, model))
    return Encoder(processor, framing=framing, max_length=max_length)


def _lines() -> Callable[[Audit], None]:
    due = seldom(_LINE_EVERY)

    def report(found: Audit) -> None:
        if due():
            err.print(f"{found.entries:,} entries, {sum(found.counts.values()):,} faults", highlight=False)

    return report


def _print(found: Audit, out_file: Path | None) -> None:
    from relevancy.train.validation import KINDS

    say(
        f"{found.entries:,} entries, {found.pictured:,} of them with pictures ({found.pictures:,}), "
        f"{found.turns:,} turns; {found.rate:,.0f} entries/s"
    )
    if found.tokens is not None:
        say(f"{found.tokens:,} tokens, the longest dialogue has {found.longest:,}")
    for kind, meaning in KINDS.items():
        if kind not in found.counts:
            continue
        say(f"{found.counts[kind]:,} x {kind}: {meaning}")
        for fault in found.named[kind][:_SHOWN]:
            say(f"    {fault.position} ({fault.id}): {fault.why}")
        if found.counts[kind] > _SHOWN:
            say("    ..." if out_file else "    ... (--out FILE names all)")
    if out_file is not None:
        say(f"→ {out_file}")
    say(f"{found.lost:,} entries would not be trained on" if found.counts else "nothing is wrong")

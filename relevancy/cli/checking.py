"""`relevancy check`: which method's maps to trust, on the user's own pictures."""

from __future__ import annotations

import json
import re
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from relevancy.cli.options import Bits, Framing, ScopeName, layer_numbers, load_model, value
from relevancy.cli.terminal import bars, check_writable, escaped, out, say
from relevancy.errors import RelevancyError

if TYPE_CHECKING:
    from relevancy.checking.rows import Row
    from relevancy.checking.verdicts import Findings

DEMO = "demo:"


class ReplacementName(str, Enum):
    """What stands in a hidden patch's place."""

    grey = "grey"
    mean = "mean"
    blur = "blur"


def check(
    models: Annotated[
        list[str], typer.Option("--model", help="As in explain; give it again for each further model of the table.")
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="ITEMS",
            help="A .jsonl or .csv file (image, question; answer, mask or boxes where known), a folder of pictures, or "
            "[bold]demo:N[/bold]: N held-out scenes of the embedded pair's world.",
        ),
    ],
    methods: Annotated[
        str, typer.Option(help="Methods, as relevancy,rollout; see [bold]relevancy methods[/bold].")
    ] = "relevancy",
    scope: Annotated[ScopeName, typer.Option(help="As in explain, for methods that know it.")] = ScopeName.language,
    layers: Annotated[str | None, typer.Option(help="Decoder layers, as 6-17 or 0,4,8; all by default.")] = None,
    target: Annotated[str, typer.Option(help="Which token of each answer, as in explain; not all.")] = "first-relevant",
    question: Annotated[str | None, typer.Option(help="For rows without a question of their own.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="The first rows only.")] = None,
    control_rows: Annotated[int, typer.Option(min=1, help="How many of them the controls are made on.")] = 100,
    steps: Annotated[int, typer.Option(min=2, help="Steps of deletion and insertion.")] = 8,
    replacement: Annotated[
        ReplacementName, typer.Option(help="What stands in a hidden patch's place; mean: of the training data.")
    ] = ReplacementName.grey,
    tokens: Annotated[bool, typer.Option(help="Also remove image tokens, as Chefer et al. do.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn at random.")] = 0,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("relevancy-check"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else.")] = False,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    quantization: Annotated[Bits | None, typer.Option(help="Load the decoder in 4 or 8 bits.")] = None,
    framing: Annotated[Framing | None, typer.Option(help="As in explain.")] = None,
) -> None:
    """Check whether maps can be trusted: hide what they point at, randomise the model, ask something else.

    A random map is always in the table, and shows what chance is. Each method gets a verdict in plain words.
    Stopped and started again with the same --out, it goes on where it was. Writes table.md, table.json and, for each
    model, a folder with results.jsonl.
    """
    check_writable(out_folder)
    from relevancy.checking import tables
    from relevancy.checking.running import Check, Settings
    from relevancy.metrics.explainers import explainers_of

    if target.strip() == "all":
        raise RelevancyError("--target all: a check follows one token of each answer; choose another target.")
    numbers = layer_numbers(layers)
    names = list(dict.fromkeys(name.strip() for name in methods.split(",") if name.strip()))
    explainers = explainers_of(names, scope.value, numbers, target=target)
    listed = _rows(data, question)[:rows]
    settings = Settings(
        steps=steps, replacement=replacement.value, control_rows=control_rows, tokens=tokens, target=target, seed=seed
    )
    findings = []
    for name in dict.fromkeys(models):
        model = load_model(name, device=device, dtype=dtype, quantization=value(quantization), framing=value(framing))
        about = {"scope": scope.value, "layers": layers or "all", "dtype": str(model.dtype)}
        folder = out_folder / re.sub(r"[^\w.-]+", "-", model.name)
        with bars() as report:
            findings.append(Check(model, listed, explainers, folder, settings, about).run(report))
    file = tables.save(out_folder, findings)
    if as_json:
        sys.stdout.write(json.dumps([tables.as_json(one) for one in findings]) + "\n")
        return
    for one in findings:
        _say(one)
    say(f"→ {file}")


def _say(findings: Findings) -> None:
    """One model's numbers, a column for each method, and the verdicts."""
    from relevancy.checking.tables import columns

    say(findings.heading)
    table = Table("", *(one.method for one in findings.summaries), box=None, pad_edge=False)
    for number, title in columns(findings.summaries).items():
        table.add_row(title, *(escaped(str(one.numbers.get(number, "–"))) for one in findings.summaries))
    out.print(table)
    for one in findings.summaries:
        say(f"{one.method}: {one.verdict}")
    for note in findings.notes:
        say(f"note: {note}")


def _rows(data: str, question: str | None) -> list[Row]:
    if data.startswith(DEMO):
        from relevancy.demo.checkable import held_out_rows

        count = data.removeprefix(DEMO)
        if not count.isdigit() or int(count) < 1:
            raise RelevancyError(f"--data {data}: give a number of scenes, as demo:100.")
        return held_out_rows(int(count))
    from relevancy.checking.rows import read_rows

    return read_rows(Path(data), question)

"""`relevancy check`: which method's maps are better than chance, and which to trust, on the user's own pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from relevancy.cli.options import (
    BOX_LAYOUT_HELP,
    MOST_SEED,
    Bits,
    BoxLayout,
    Framing,
    ScopeName,
    folder_of,
    layer_numbers,
    load_model,
    load_quietly,
    value,
)
from relevancy.cli.terminal import bars, check_writable, escaped, out, say
from relevancy.errors import RelevancyError

if TYPE_CHECKING:
    from relevancy.checking.items import ItemList
    from relevancy.checking.rows import CheckRow
    from relevancy.checking.verdicts import CheckFindings
    from relevancy.checking.worker import Settings
    from relevancy.core.tape import Scope
    from relevancy.metrics.explainers import Explainer
    from relevancy.parallel.worker_pool import Work

DEMO = "demo:"
_WIDE = 25  # characters of a number with its interval, and of the space before it


class ReplacementName(str, Enum):
    """What stands in a hidden patch's place."""

    grey = "grey"
    black = "black"
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
            help="What relevancy export takes as --input (image, question; answer, mask or boxes where known), or "
            "[bold]demo:N[/bold]: N held-out scenes of the embedded pair's world.",
        ),
    ],
    methods: Annotated[
        str,
        typer.Option(
            help="Methods, as relevancy,rollout (see [bold]relevancy methods[/bold]), and variants of them, as "
            "relevancy@full or relevancy@layers=2-."
        ),
    ] = "relevancy",
    metrics: Annotated[
        str | None, typer.Option(help="Metrics of installed packages that are taken, too, as sharpness,center.")
    ] = None,
    scope: Annotated[ScopeName, typer.Option(help="As in explain, for methods that know it.")] = ScopeName.language,
    layers: Annotated[str | None, typer.Option(help="Decoder layers, as 6-17 or 0,4,8; all by default.")] = None,
    target: Annotated[
        str, typer.Option(help="What of each answer, as in explain; not all, not each.")
    ] = "first-relevant",
    question: Annotated[str | None, typer.Option(help="For data without a column of questions.")] = None,
    box_layout: Annotated[BoxLayout | None, typer.Option(help=BOX_LAYOUT_HELP)] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="The first rows only.")] = None,
    items: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An items.json that a check wrote: judge exactly its rows and explained tokens again, with its "
            "answers; a row whose picture or question changed is refused by name.",
        ),
    ] = None,
    control_rows: Annotated[int, typer.Option(min=1, help="How many of them the controls are made on.")] = 100,
    steps: Annotated[int, typer.Option(min=2, help="Steps of deletion and insertion, all of one size.")] = 8,
    step: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="What goes at each step, instead of --steps: so many patches, as 4, or a share of the picture, as 5%.",
        ),
    ] = None,
    regions: Annotated[
        int | None,
        typer.Option(min=2, help="Hide and show about so many rectangles of patches, as 64, and not patch by patch."),
    ] = None,
    replacement: Annotated[
        ReplacementName,
        typer.Option(
            help="What stands in a hidden patch's place: a color, mean being the picture's own mean color, or the "
            "picture blurred."
        ),
    ] = ReplacementName.grey,
    tokens: Annotated[bool, typer.Option(help="Also remove image tokens, as Chefer et al. do.")] = True,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of all that is drawn at random.")] = 0,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("relevancy-check"),
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A Markdown page whose marked place gets the tables, too.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=0, help="Working processes, each with a model of its own; 0 for none beside this.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else.")] = False,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    quantization: Annotated[Bits | None, typer.Option(help="Load the decoder in 4 or 8 bits.")] = None,
    framing: Annotated[Framing | None, typer.Option(help="As in explain.")] = None,
) -> None:
    """Check whether maps are better than chance: hide what they point at, randomise the model, ask something else.

    Two rows are always in the table: random, a map of noise, shows what chance is; centre, a blob in the middle of any
    picture, shows what comes of where things lie in pictures. All maps are also judged by the same attention knockouts:
    how many are confirmed, and, where truth is known, how many of these rightly (precision) and how many of the right
    ones (recall). Each method gets a verdict in plain words; "trust" asks for more than to be better than chance, and
    says by what bounds. Fewer than ten pictures decide nothing.

    Stopped and started again with the same --out, it goes on where it was. Writes table.md, table.csv, table.json and,
    for each model, a folder with results.jsonl and items.json: what was judged, by content, for --items of a later
    check. Near published protocols: FlashTrace's with --regions 64 --steps 10 --replacement blur, EAGLE's with
    --steps 64 --replacement black.

    [bold]Try[/bold]: relevancy check --model demo-small --model demo-large --data demo:20
    --methods relevancy,relevancy@full,rollout --processes 2 --out check
    """
    check_writable(out_folder)
    from relevancy.checking import tables
    from relevancy.checking.check import Check
    from relevancy.checking.items import ItemList
    from relevancy.checking.worker import Settings
    from relevancy.core.targets import gives_several
    from relevancy.metrics.deletion_insertion import Budget

    if gives_several(target.strip()):
        raise RelevancyError(f"--target {target.strip()}: a check makes one map of each answer; choose another target.")
    if page is not None:
        tables.place_in(page)
    if not _listed(methods):
        raise RelevancyError("--methods: name one or several, as relevancy,rollout.")
    if not data:
        raise RelevancyError("--data: give a file or a folder, or demo:N.")
    frozen = None if items is None else ItemList.load(items)
    if frozen is not None and rows is not None:
        raise RelevancyError("--rows: leave it out, the rows are those of --items.")
    settings = Settings(
        steps=steps, step=Budget.parsed(steps, step).step, regions=regions, replacement=replacement.value,
        control_rows=control_rows, tokens=tokens, target=target, seed=seed, metrics=_listed(metrics or ""),
    )  # fmt: skip
    asked = _Questions(
        data=data, question=question, layout=value(box_layout), rows=rows, items=frozen, scope=scope.value,
        layers=layers, settings=settings, methods=_listed(methods),
        options={
            "device": device, "dtype": dtype, "quantization": value(quantization), "framing": value(framing),
        },
    )  # fmt: skip
    explainers, listed = asked.explainers(), asked.listed()
    findings = []
    for name in dict.fromkeys(models):
        model = load_model(name, **asked.options)
        about = {"scope": scope.value, "layers": layers or "all", "dtype": str(model.dtype)}
        about |= {"box layout": box_layout.value} if box_layout else {}
        folder = folder_of(out_folder, model.name)
        task = Check(
            model,
            listed,
            explainers,
            folder,
            settings,
            about,
            processes=processes,
            make=partial(_begin, name, asked),
            items=frozen,
        )
        with bars() as report:
            findings.append(task.run(_naming(model.name, report)))
    file = tables.save(out_folder, findings)
    if page is not None:
        tables.write_into(page, map(tables.markdown, findings))
    if as_json:
        sys.stdout.write(json.dumps([tables.as_json(one) for one in findings]) + "\n")
        return
    for one in findings:
        _say(one)
    say(f"→ {file}   (what each line means: docs/which-method.md, What the columns say)")


def _listed(names: str) -> tuple[str, ...]:
    """Names between commas, each once."""
    return tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))


@dataclass(frozen=True)
class _Questions:
    """What a process of a check is told, so that it makes the same rows and methods."""

    data: str
    question: str | None
    layout: str | None
    rows: int | None
    items: ItemList | None
    methods: tuple[str, ...]
    scope: Scope
    layers: str | None
    settings: Settings
    options: Mapping[str, Any]

    def explainers(self) -> dict[str, Explainer]:
        from relevancy.metrics.explainers import explainers_of

        return explainers_of(self.methods, self.scope, layer_numbers(self.layers), target=self.settings.target)

    def listed(self) -> list[CheckRow]:
        listed = _rows(self.data, self.question, self.layout)[: self.rows]
        return listed if self.items is None else self.items.rows_of(listed)


def _begin(model: str, asked: _Questions, _number: int) -> Work:
    """A process's own worker."""
    from relevancy.checking.worker import Worker

    worker = Worker(load_quietly(model, **asked.options), asked.listed(), asked.explainers(), asked.settings)
    return partial(map, worker.do)


def _naming(model: str, report: Callable[[str, float], None]) -> Callable[[str, float], None]:
    """A report whose steps are named after the model, too."""
    return lambda what, share: report(f"{model}, {what}", share)


def _say(findings: CheckFindings) -> None:
    """One model's numbers, a column for each method, and the verdicts."""
    from relevancy.checking.tables import ANSWERS, columns

    say(findings.heading)
    told = {title: findings.answers[number] for number, title in ANSWERS.items() if number in findings.answers}
    if any(found.rows for found in told.values()):
        say("The explained tokens: " + ", ".join(f"{title} {found}" for title, found in told.items()))
    titles = columns(findings.summaries)
    beside = max(1, (out.width - max(map(len, titles.values()))) // _WIDE)  # methods that fit beside each other
    for start in range(0, len(findings.summaries), beside):
        some = findings.summaries[start : start + beside]
        table = Table("", *(one.method for one in some), box=None, pad_edge=False)
        for number, title in titles.items():
            table.add_row(title, *(escaped(str(one.numbers.get(number, "–"))) for one in some))
        out.print(table)
    for one in findings.summaries:
        say(f"{one.method}: {one.verdict}")
    for note in findings.notes:
        say(f"note: {note}")


def _rows(data: str, question: str | None, layout: str | None) -> list[CheckRow]:
    if data.startswith(DEMO):
        from relevancy.demo.held_out import held_out_rows

        count = data.removeprefix(DEMO)
        if not count.isdigit() or int(count) < 1:
            raise RelevancyError(f"--data {data}: give a number of scenes, as demo:100.")
        return held_out_rows(int(count))
    from relevancy.checking.rows import read_rows

    return read_rows(Path(data), question, layout)

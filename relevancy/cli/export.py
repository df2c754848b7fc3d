"""`relevancy export`: maps for whole data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from relevancy.cli.methods import METHOD_HELP
from relevancy.cli.options import (
    BOX_LAYOUT_HELP,
    EVIDENCE_HELP,
    Bits,
    BoxLayout,
    Framing,
    ScopeName,
    layer_numbers,
    value,
)
from relevancy.cli.terminal import busy, check_writable, err, lines, say, span
from relevancy.errors import RelevancyError
from relevancy.methods.registry import DEFAULT

if TYPE_CHECKING:
    from relevancy.export.run import Progress as Reached
    from relevancy.export.run import Request


class EngineName(str, Enum):
    """Where the models work."""

    processes = "processes"
    ray = "ray"


class MapType(str, Enum):
    """How image maps are stored."""

    float32 = "float32"
    float16 = "float16"


def export(
    models: Annotated[list[str], typer.Option("--model", help="As in explain; give it again for each further model.")],
    source: Annotated[
        str,
        typer.Option(
            "--input",
            metavar="ITEMS",
            help="JSON Lines, JSON lists, CSV, TSV or Parquet files, WebDataset tar shards (a file, a folder of them, "
            "or a pattern in quotes), a folder of pictures, one that datasets saved, or [bold]hf:name@split[/bold].",
        ),
    ],
    out_folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.")],
    question: Annotated[str | None, typer.Option(help="One question for all pictures.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="jsonl, csv, parquet, folder, tar, datasets, or what an installed package reads, where the name does "
            "not tell."
        ),
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of names; without one a row's number.")] = None,
    picture_column: Annotated[
        str | None, typer.Option(help="Column of pictures: paths, bytes, or shard.tar::member.")
    ] = None,
    video_column: Annotated[
        str | None, typer.Option(help="Column of videos: the folder of its frames, or a list of them.")
    ] = None,
    question_column: Annotated[str | None, typer.Option(help="Column of questions.")] = None,
    answer_column: Annotated[str | None, typer.Option(help="Column of true answers, to tell right from wrong.")] = None,
    boxes_column: Annotated[str | None, typer.Option(help="Column of boxes.")] = None,
    box_layout: Annotated[BoxLayout | None, typer.Option(help=BOX_LAYOUT_HELP)] = None,
    mask_column: Annotated[str | None, typer.Option(help="Column of masks: paths or bytes.")] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where relative picture paths begin; by default beside the input."),
    ] = None,
    text_rows: Annotated[
        bool,
        typer.Option("--text-rows", help="Ask rows without a picture in words alone; otherwise they end as errors."),
    ] = False,
    overlays: Annotated[
        str,
        typer.Option(
            help="Draw maps over pictures (WebP): [bold]all[/bold], [bold]none[/bold] or [bold]sample:200[/bold]."
        ),
    ] = "none",
    maps: Annotated[
        str,
        typer.Option(
            help="Of which rows there is a map: [bold]all[/bold], [bold]none[/bold] or [bold]sample:200[/bold]; of the "
            "others the answer alone, which costs much less."
        ),
    ] = "all",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows; a later run may go further.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count, explain 20 rows, estimate time and size; write nothing.")
    ] = False,
    target: Annotated[str, typer.Option(help="What of each answer, as in explain; not all, not each.")] = "first",
    scope: Annotated[ScopeName, typer.Option(help="As in explain.")] = ScopeName.language,
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = DEFAULT,
    layers: Annotated[str | None, typer.Option(help="As in explain.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    evidence: Annotated[bool, typer.Option(help=EVIDENCE_HELP)] = True,
    map_dtype: Annotated[
        MapType, typer.Option(help="Of the stored image maps; float16 halves them and rounds.")
    ] = MapType.float32,
    engine: Annotated[
        EngineName, typer.Option(help="This machine's processes, or actors of a Ray cluster (docs/scaling.md).")
    ] = EngineName.processes,
    address: Annotated[str | None, typer.Option(help="Of a running Ray cluster, as auto; a local one without.")] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Working processes: by default one per GPU, or per core for small models; 0 for none beside this.",
        ),
    ] = None,
    decoders: Annotated[
        int | None, typer.Option(min=0, help="For each of them, processes that open pictures ahead.")
    ] = None,
    together: Annotated[
        bool | None,
        typer.Option(
            "--together/--one-at-a-time", help="Models stay in memory together; by default if they are small."
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Questions that a model reads at once.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu; by default the first that is there.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    quantization: Annotated[Bits | None, typer.Option(help="Load the decoders in 4 or 8 bits.")] = None,
    framing: Annotated[Framing | None, typer.Option(help="As in explain.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Largest picture that is opened, in pixels.")] = None,
) -> None:
    """Explain every row of a data set, by one model or several, into Parquet files.

    [bold]Input[/bold]: rows with a picture and a question, such as the line
    {"id": "q1", "image": "a.jpg", "question": "Is it floating?", "answer": "Yes"}
    of a .jsonl file, or with conversations or messages, as training reads
    them, of one question. Columns are found by their usual names (id, image or picture,
    question, answer, boxes, mask), or named by the --...-column options.
    All others are carried along as in_NAME. A list of pictures is several in one question;
    column video names the folder of a video's frames, or lists them.

    [bold]Output[/bold]: DIR/results/part-*.parquet, a line for each row and model: answer,
    token, probability, correctness, shares, the map as a list with its shape.
    pandas, DuckDB and datasets read it; relevancy.open_export(DIR) gives
    Explanations back, relevancy report DIR a page of statistics.
    A row that cannot be explained is a line with its reason in column error;
    where all are, the command ends with exit code 2.

    [bold]Stopping[/bold]: at any moment, by any means. The same command again finishes
    the rest; no row is lost or done twice.

    [bold]Try[/bold]: what it would take, then all of it, then what it shows:
    relevancy export --model demo-small --model demo-large --input items.jsonl --out maps --dry-run
    relevancy export --model demo-small --model demo-large --input items.jsonl --out maps
    relevancy report maps
    Or a folder of pictures, all asked the same, with 200 of the maps drawn:
    relevancy export --model 2b --input pictures/ --question "What is it?" --out maps --overlays sample:200
    """
    if not dry_run:
        check_writable(out_folder)
    from relevancy.data.columns import Columns
    from relevancy.explanations.explain import ExplainConfig
    from relevancy.export.run import Request
    from relevancy.images import MAX_PIXELS

    options = {
        "device": device, "dtype": dtype, "quantization": value(quantization), "framing": value(framing),
        "revision": revision,
    }  # fmt: skip
    request = Request(
        models=models,
        input=source,
        out=out_folder,
        kind=kind,
        columns=Columns(
            id_column,
            picture_column,
            question_column,
            answer_column,
            boxes_column,
            mask_column,
            every=question,
            layout=value(box_layout),
            text_rows=text_rows,
            video=video_column,
        ),
        pictures=pictures,
        wish=ExplainConfig(target, scope.value, method, layer_numbers(layers), max_new_tokens, evidence),
        options={name: given for name, given in options.items() if given is not None},
        max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
        map_dtype=map_dtype.value,
        overlays=overlays,
        maps=maps,
        limit=limit,
        engine=engine.value,
        address=address,
        processes=processes,
        decoders=decoders,
        together=together,
        batch=batch,
    )
    if dry_run:
        _estimated(request)
    else:
        _exported(request)


def _exported(request: Request) -> None:
    from relevancy.export.results import open_export
    from relevancy.export.run import export as run

    with exporting() as report:
        done = run(request, report)
    found = open_export(request.out)
    for why, rows in found.oddities().items():
        say(f"{rows:,} rows: {why}")
    if done.errors:
        say(f"{done.count:,} done, {done.errors:,} of them errors: their reasons stand in the column error.")
    else:
        say(f"{done.count:,} done, no errors.")
    say(f"→ {request.out / 'results'}")
    if done.errors and done.errors == done.count:
        raise RelevancyError(
            f"Not one row could be explained. The first one: {found.errors()['error'][0]}. Mend the input and give "
            "another --out."
        )


def _estimated(request: Request) -> None:
    from dataclasses import asdict

    from relevancy.export.estimate import estimate

    with busy("explaining a sample"):
        found = estimate(request)
    say(f"{found.rows:,} rows, {len(found.models)} models: {', '.join(found.models)}")
    say("columns: " + ", ".join(f"{role} {name!r}" for role, name in asdict(found.columns).items() if name is not None))
    say(
        f"sample: {found.sampled} rows, {found.faults} that cannot be explained"
        + (f" (first: {found.first_fault})" if found.first_fault else "")
    )
    if found.faults == found.sampled:
        raise RelevancyError(f"Not one row of the sample could be explained. The first one: {found.first_fault}.")
    say(f"estimated: {span(found.seconds)}, {found.bytes / 1e6:,.1f} MB of results, {found.overlays:,} overlays")
    say("nothing was written")


@contextmanager
def exporting() -> Iterator[Callable[[Reached], None]]:
    """Progress on standard error: a bar on a terminal, a line every few seconds elsewhere."""
    if not err.is_terminal:
        line = lines(at_once=True)
        yield lambda reached: line(_told(reached), always=reached.done == reached.total)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
    with Progress(*columns, console=err) as progress:
        task: Any = progress.add_task("looking through the input", total=None)
        yield lambda reached: progress.update(
            task, description=_told(reached), total=reached.total, completed=reached.done
        )


def _told(reached: Reached) -> str:
    left = "" if reached.remaining is None else f", {span(reached.remaining)} left"
    return f"{reached.done:,} of {reached.total:,}, {reached.rate:,.1f} rows/s{left}, {reached.errors:,} errors"

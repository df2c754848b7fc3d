"""`relevancy report`: what an export shows, on one page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from relevancy.cli.terminal import check_writable, escaped, out, say, stages

if TYPE_CHECKING:
    from relevancy.report.contents import Report

_PRINTED = ("blind_tv", "image_share", "correct")


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `relevancy export --out` wrote.")],
    compare: Annotated[
        Path | None, typer.Option(metavar="DIR2", help="Another export of the same rows, row against row.")
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for report.html and report.json; DIR/report by default.")
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="A column to split by, as in_type; give the option again for more.")
    ] = None,
    smaller: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The smaller model, if the models' names do not tell.")
    ] = None,
    gallery: Annotated[int, typer.Option(min=0, max=100, help="Rows shown for each reason.")] = 6,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples of the pictures.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Which resamples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else.")] = False,
) -> None:
    """What an export shows on average, with intervals, and which rows to look at: one HTML page and its numbers.

    Says which maps to believe, whether the smaller model uses the picture less, whether its use goes with being right,
    and whether maps lie where the answer is.
    """
    target = folder / "report" if out_folder is None else out_folder
    check_writable(target)
    from relevancy.report.build import make_report, save

    with stages() as progress:
        made = make_report(
            folder, compare, by=by or (), smaller=smaller, gallery=gallery, resamples=resamples, seed=seed,
            progress=progress,
        )  # fmt: skip
    path = save(made, target)
    if as_json:
        sys.stdout.write(json.dumps(made.to_json(), ensure_ascii=False, allow_nan=False) + "\n")
        return
    _print(made)
    say(f"→ {path}")


def _print(made: Report) -> None:
    """Each model's confirmed maps and means, and the reading of the claim."""
    from relevancy.report.words import MEASURES, level, level_interval

    titles = ("Maps confirmed", *(MEASURES[name].title for name in _PRINTED))
    table = Table("model", "results", "errors", *titles, box=None, pad_edge=False)
    for model in made.findings.models:
        confirmed = model.evidence[0].verdicts["confirmed"] if model.evidence else None
        shares = (confirmed, *(model.means[name] for name in _PRINTED))
        cells = [
            escaped(f"{level(share.value, True)} {level_interval(share, True)}".strip()) if share else "–"
            for share in shares
        ]
        table.add_row(escaped(model.name), f"{model.results:,}", f"{model.errors:,}", *cells)
    out.print(table)
    say(made.reading.headline)

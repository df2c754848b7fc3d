"""`relevancy evaluate demo --size`: does the smaller model look less?"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from relevancy.cli.options import load_model
from relevancy.cli.terminal import bars, check_writable, escaped, out, say, share_of
from relevancy.errors import RelevancyError
from relevancy.methods import registry

FOLDER = Path("relevancy-size")
PAGE = "evaluate demo --size"
"""Between which marks a page has its tables."""


def size_of_models(
    given: Sequence[str],
    scenes: int,
    seed: int,
    method: str | None,
    out_folder: Path | None,
    page: Path | None,
    *,
    as_json: bool,
) -> None:
    """Ask every model the same questions, write what is found, and print its means."""
    folder, method = out_folder or FOLDER, method or registry.DEFAULT
    registry.chosen(method, "language", None)
    check_writable(folder)
    from relevancy.checking import tables
    from relevancy.demo import size_page
    from relevancy.demo.size import ALL, FORMS, MEASURES, model_run, size_findings, sized_models

    if page is not None:
        tables.place_in(page, PAGE)
    models = sized_models([(kind, load_model(name)) for kind, name in map(_named, given)])
    with bars() as report:
        runs = [
            model_run(
                one, folder / "answers", scenes=scenes, seed=seed, method=method,
                progress=share_of(report, one.kind if one.kind == one.model.name else f"{one.kind}, {one.model.name}"),
            )
            for one in models
        ]  # fmt: skip
        told = share_of(report, "means and intervals")
        found = size_findings(runs, scenes=scenes, seed=seed, method=method, progress=told)
    size_page.save(folder, found)
    if page is not None:
        tables.write_into(page, size_page.tables(found), PAGE)
    if as_json:
        sys.stdout.write(json.dumps(size_page.as_json(found), allow_nan=False) + "\n")
        return
    shown = Table("", "asked", *(escaped(kind.name) for kind in found.kinds), box=None, pad_edge=False)
    for form in (*FORMS.values(), ALL):
        for measure, one in MEASURES.items():
            cells = [size_page.cell(found.number(kind.name, form, measure).over_scenes) for kind in found.kinds]
            shown.add_row(one.title, form, *map(escaped, cells))
    out.print(shown)
    say(f"In percent, with 95 % intervals over {scenes:,} scenes, and how many answers are counted.")
    say(f"→ {folder}/size.md, size.json, size.png")


def _named(given: str) -> tuple[str, str]:
    """KIND=MODEL taken apart; of a model alone, it is the only one of its kind."""
    kind, equals, name = given.partition("=")
    if not equals or Path(given).exists():
        return given, given
    if not kind.strip() or not name.strip():
        raise RelevancyError(
            f"--model {given}: give a model, or KIND=MODEL for each of several trainings of one kind, as "
            "small=runs/seed1/model."
        )
    return kind.strip(), name.strip()

"""`relevancy evaluate demo --objects`: do answers need the picture, and of it the asked objects' own patches?"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from rich.table import Table

from relevancy.cli.options import load_model
from relevancy.cli.terminal import bars, check_writable, out, say, share_of

if TYPE_CHECKING:
    from relevancy.demo.object_use import AskedObjects, ObjectUse
    from relevancy.stats.intervals import Interval

PARTS: Mapping[str, str] = {
    "whole": "the whole picture",
    "objects": "the objects' own patches",
    "elsewhere": "as many patches elsewhere",
}
FORMS: Mapping[str, str] = {"": "all", "open": "open", "ab": "with options"}


def objects_of_pair(names: Sequence[str], scenes: int, seed: int, folder: Path | None, *, as_json: bool) -> None:
    """Measure each model on the same questions, and print both and the difference of the first two."""
    if folder is not None:
        check_writable(folder)
    from relevancy.demo.object_use import asked_objects, object_use, write_items
    from relevancy.explanations.explanation import finite

    asked = asked_objects(scenes, seed)
    items = None if folder is None else write_items(asked, folder)
    about = [one for one in asked if one.question.items]
    models = [load_model(name) for name in dict.fromkeys(names)]
    with bars() as report:
        found = {one.name: object_use(one, about, share_of(report, one.name)) for one in models}
    columns = {(form, part): _columns(about, found, form, part) for form in FORMS for part in PARTS}
    if as_json:
        told = [
            {"form": FORMS[form], "knocked_out": part, **{name: asdict(one) for name, one in own.items()}}
            for (form, part), own in columns.items()
        ]
        everything = {"scenes": scenes, "seed": seed, "asked": len(asked), "about_objects": len(about), "use": told}
        sys.stdout.write(json.dumps(finite(everything), allow_nan=False) + "\n")
        return
    table = Table("questions", "knocked out", *columns["", "whole"], box=None, pad_edge=False)
    for (form, part), own in columns.items():
        table.add_row(FORMS[form], PARTS[part], *map(_percent, own.values()))
    out.print(table)
    patches = mean(one.patches for one in next(iter(found.values())))
    say(
        f"How much of the next token's distribution moves. {len(about):,} of {len(asked):,} questions are about what "
        f"is in the picture; it has {patches:.1f} patches in the mean. 95 % intervals over scenes."
        + ("" if items is None else f" The same questions for relevancy export: {items}")
    )


def _columns(
    about: Sequence[AskedObjects], found: Mapping[str, Sequence[ObjectUse]], form: str, part: str
) -> dict[str, Interval]:
    """Each model's mean, and that of the difference of the first two, question by question."""
    from relevancy.stats.intervals import interval

    kept = [place for place, one in enumerate(about) if form in ("", one.question.form)]
    scenes = [about[place].scene.seed for place in kept]
    values = {name: [getattr(own[place], part) for place in kept] for name, own in found.items()}
    means = {name: interval(own, scenes) for name, own in values.items()}
    if len(values) == 2:
        first, second = values.values()
        means["difference"] = interval([one - other for one, other in zip(first, second, strict=True)], scenes)
    return means


def _percent(one: Interval) -> str:
    ends = "" if math.isnan(one.low) else rf" \[{one.low:.1%}, {one.high:.1%}]"
    return f"{one.mean:.1%}{ends}"

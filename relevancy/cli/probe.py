"""`relevancy probe`: where a model's image tokens lie, measured."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from relevancy.cli.options import load_model
from relevancy.cli.terminal import busy, escaped, out, say
from relevancy.errors import RelevancyError

if TYPE_CHECKING:
    from relevancy.families.views import View
    from relevancy.models.survey import ModelSurvey, Sighting

_VIEWS = 3  # shown in a row of the table


def probe(
    model: Annotated[
        str, typer.Option(help="demo-small, demo-large, demo-gemma, 2b, 7b, a hub id, or a local folder.")
    ],
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="WxH", help="Of a picture, as 640x480; several times for several. Five sizes by default."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON, and nothing else.")] = False,
) -> None:
    """Measure where a model's image tokens lie in a picture, by pictures of known colors and by gradients.

    What `explain` does by itself for a family without a rule: this shows what it would find, whether it agrees with the
    rule where there is one, and what to write down to make it one. Changed places of a picture must change the tokens
    that have seen them; a model that fails this is refused by name.
    """
    sizes = [_size(text) for text in size or ()]
    loaded = load_model(model)
    with busy(f"measuring {loaded.name}"):
        from relevancy.models.survey import SIZES, survey

        found = survey(loaded, sizes or SIZES)
    if as_json:
        sys.stdout.write(json.dumps(_told(found), allow_nan=False) + "\n")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("picture", "image tokens", "map", "views, on the picture", "from the rule", "took"):
        table.add_column(name)
    for sighting in found.sightings:
        table.add_row(*_row(sighting))
    out.print(table)
    say(f"\n{found.family} with {found.processor}: {_by(found)}")
    full = found.full_refused if found.towers is None else f"exact, rows {' x '.join(map(str, found.towers))}"
    say(f"scope full: {full}")
    if found.row is not None:
        say("\nTo make it a rule, add to RULES in relevancy/families/rules.py:\n" + f"    {found.row}")


def _size(text: str) -> tuple[int, int]:
    if not (found := re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip())) or "0" in found.groups():
        raise RelevancyError(f"--size takes width x height such as 640x480, not {text!r}.")
    return int(found[1]), int(found[2])


def _by(found: ModelSurvey) -> str:
    if found.rule is not None:
        return f"by rule ({found.rule})"
    if all(sighting.layout is None for sighting in found.sightings):
        return "refused"
    return "no rule is written for it: measured at each size of a picture, once"


def _row(sighting: Sighting) -> tuple[str, ...]:
    size = "x".join(map(str, sighting.size))
    layout = sighting.layout
    if layout is None:
        return size, "", "", escaped(sighting.refused or ""), "", f"{sighting.seconds:.1f} s"
    apart = int((~layout.placed).sum())
    views = [*map(_view, layout.views[:_VIEWS]), *(["..."] if len(layout.views) > _VIEWS else [])]
    return (
        size,
        f"{layout.count}" + (f", {apart} without a place" if apart else ""),
        f"{layout.grid.rows} x {layout.grid.cols}",
        escaped("\n".join(views)),
        "" if sighting.away is None else f"{sighting.away:.2f} px",
        f"{sighting.seconds:.1f} s",
    )


def _view(view: View) -> str:
    grid = view.grid
    x, y = (f"{edges[0]:.1f} to {edges[-1]:.1f}" for edges in (grid.x_edges, grid.y_edges))
    return f"{view.name}, {grid.rows} x {grid.cols}: {x}; {y}"


def _told(found: ModelSurvey) -> dict[str, Any]:
    return {
        "family": found.family,
        "processor": found.processor,
        "rule": found.rule,
        "same_as": list(found.same),
        "full": None if found.towers is None else list(found.towers),
        "full_refused": found.full_refused,
        "row": found.row,
        "pictures": [_seen(sighting) for sighting in found.sightings],
    }


def _seen(sighting: Sighting) -> dict[str, Any]:
    width, height = sighting.size
    told: dict[str, Any] = {"width": width, "height": height, "seconds": sighting.seconds, "refused": sighting.refused}
    if (layout := sighting.layout) is None:
        return told
    return told | {
        "image_tokens": layout.count,
        "away": sighting.away,
        "views": [
            {
                "name": view.name,
                "x_edges": view.grid.x_edges.tolist(),
                "y_edges": view.grid.y_edges.tolist(),
                "tokens": view.tokens.tolist(),
            }
            for view in layout.views
        ],
    }

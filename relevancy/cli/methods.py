"""`relevancy methods`: what can explain a token, and at what cost."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, fields
from typing import Annotated, Any

import typer
from rich.table import Table

from relevancy.cli.terminal import escaped, out, say
from relevancy.methods.registry import METHODS, Method

METHOD_HELP = f"One of {', '.join(METHODS)}; see [bold]relevancy methods[/bold]."


def methods(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Of these, formula, source and weaknesses too.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything that is known of them as JSON, and nothing else.")
    ] = False,
) -> None:
    """List the methods that can explain a token: what each costs, what it needs, what it means.

    Costs are passes of the model for one token, at most; "missing" stands behind a package that is not installed.

    What is known against one of them: relevancy methods rollout
    """
    chosen = [METHODS.named(name) for name in names] if names else list(METHODS.usable().values())
    if as_json:
        sys.stdout.write(json.dumps([_told(method) for method in chosen]) + "\n")
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for method in chosen:
        needs = [f"{package} (missing)" if package in method.missing else package for package in method.needs]
        cost = f"{method.cost}{'; needs ' if needs else ''}{', '.join(needs)}"
        table.add_row(f"[bold]{method.name}[/bold]", f"{escaped(method.summary)}\n[dim]{cost}[/dim]")
        if names:
            for key in ("formula", "source", "weaknesses"):
                table.add_row(key, escaped(getattr(method, key) or "not told"))
            table.add_row("scopes", ", ".join(method.scopes))
    out.print(table)
    if not names:
        say("\nFormula, source and weaknesses of one: relevancy methods NAME")


def _told(method: Method) -> dict[str, Any]:
    """What a reader may want to know of a method; not how it is run."""
    known = {one.name: getattr(method, one.name) for one in fields(method) if one.name not in ("home", "function")}
    return known | {"cost": asdict(method.cost), "quick": method.quick, "missing": method.missing}

"""`relevancy methods`: what can explain a token, and at what cost."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from relevancy.cli.terminal import escaped, out
from relevancy.methods.registry import METHODS

METHOD_HELP = f"One of {', '.join(METHODS)}; see [bold]relevancy methods[/bold]."


def methods(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything that is known of them as JSON, and nothing else.")
    ] = False,
) -> None:
    """List the methods that can explain a token: what each costs, what it needs, what it means.

    Costs are passes of the model for one token, at most; "missing" stands behind a package that is not installed.
    """
    if as_json:
        listed = [asdict(method) | {"quick": method.quick, "missing": method.missing} for method in METHODS.values()]
        sys.stdout.write(json.dumps([{key: one[key] for key in one if key != "home"} for one in listed]) + "\n")
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for method in METHODS.values():
        needs = [f"{package} (missing)" if package in method.missing else package for package in method.needs]
        cost = f"{method.cost}{'; needs ' if needs else ''}{', '.join(needs)}"
        table.add_row(f"[bold]{method.name}[/bold]", f"{escaped(method.summary)}\n[dim]{cost}[/dim]")
    out.print(table)

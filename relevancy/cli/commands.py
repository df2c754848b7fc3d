"""Commands and groups that hear an option once: of two values for one, neither is dropped without a word."""

from __future__ import annotations

__all__ = ["Commands"]

from collections import Counter
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class _Once:
    """A command, or a group, that refuses an option given twice, unless it takes several values."""

    def make_parser(self, context: Any) -> Any:
        """The parser, which counts what it has read."""
        parser = super().make_parser(context)  # type: ignore[misc]
        read = parser.parse_args

        def counted(args: list[str]) -> tuple[dict[str, Any], list[str], list[Any]]:
            values, left, order = read(args)
            for option, times in Counter(order).items():
                if times > 1 and not option.multiple and not context.resilient_parsing:
                    names = "/".join((*option.opts, *option.secondary_opts))
                    context.fail(f"{names} is given {times} times and takes one value: give it once")
            return values, left, order

        parser.parse_args = counted
        return parser


class _Command(_Once, TyperCommand):
    """A command."""


class _Group(_Once, TyperGroup):
    """A command that has commands."""


class Commands(typer.Typer):
    """An application, or a group of it, all of whose commands hear an option once."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=_Group, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """As typer's."""
        return super().command(name, cls=_Command, **settings)

"""Parts that several sections of the page are made of: numbers with their n, lines with a drawing, tables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from relevancy.report import charts, words
from relevancy.report.charts import Axis
from relevancy.stats.clustered import FEWEST, Estimate


def value(estimate: Estimate, *, share: bool) -> str:
    """A value with its interval and its n."""
    return _written(words.level(estimate.value, share), words.level_interval(estimate, share), estimate)


def step(estimate: Estimate, *, share: bool = True) -> str:
    """A difference with its interval and its n."""
    return _written(words.step(estimate.value, share), words.step_interval(estimate, share), estimate)


def _written(number: str, interval: str, estimate: Estimate) -> str:
    if not estimate.rows:
        return '<span class="num in">no rows</span>'
    few = estimate.rows < FEWEST or estimate.pictures < FEWEST
    shown = interval or (f"fewer than {FEWEST}, no interval" if few else "no interval")
    counted = words.counted(estimate.rows, estimate.pictures)
    return f'<span class="num"><b>{number}</b> <span class="in">{shown}</span> <span class="n">{counted}</span></span>'


def named(name: str, color: int) -> str:
    """A model's name with its color before it."""
    return f'<span class="name c{color}"><i class="key"></i>{escape(name)}</span>'


def heading(title: str, under: str) -> str:
    """A section's title and the sentence under it; `under` is HTML."""
    return f'<h2>{escape(title)}</h2><p class="under">{under}</p>'


def card(title: str, under: str, body: str) -> str:
    """A framed part with a title; `under` and `body` are HTML."""
    small = f'<p class="small">{under}</p>' if under else ""
    return f'<div class="card block"><h3>{title}</h3>{small}{body}</div>'


def line(what: str, drawn: str, number: str, *more: tuple[str, str], group: str | None = None) -> str:
    """One line of a forest: what it is, its drawing, its number, and further cells (heading, HTML)."""
    cells = "".join(f'<div class="cell more num" data-head="{head}">{html}</div>' for head, html in more)
    before = "" if group is None else f'<div class="cell group">{group}</div>'
    first = " first" if group else ""
    return (
        f'<div class="line{first}">{before}<div class="cell what">{what}</div><div class="cell drawn">{drawn}</div>'
        f'<div class="cell number">{number}</div>{cells}</div>'
    )


def forest(kind: str, lines: Sequence[str], axis: Axis, labels: Sequence[str], head: Sequence[str] = ()) -> str:
    """Lines over one axis. kind: "plain", "grouped" (a column of groups before), or "differences" (two after)."""
    heads = "".join(f'<div class="cell">{escape(name)}</div>' for name in head)
    top = f'<div class="line head">{heads}</div>' if head else ""
    before, after = {"plain": (1, 1), "grouped": (2, 1), "differences": (1, 3)}[kind]
    empty = '<div class="cell"></div>'
    foot = f'<div class="cell axis">{charts.scale(axis, labels)}</div>'
    return (
        f'<div class="forest {kind}">{top}{"".join(lines)}'
        f'<div class="line foot">{empty * before}{foot}{empty * after}</div></div>'
    )


def axis_of(estimates: Sequence[Estimate], *, most: float | None = None) -> Axis:
    """An axis with zero and all values and intervals on it, and no further than `most`."""
    values = [end for one in estimates for end in (one.value, one.low, one.high) if end is not None]
    return Axis.around(values, keep=(0.0,), most=most)


def steps_forest(lines: Sequence[str], estimates: Sequence[Estimate]) -> str:
    """A plain forest of differences of shares; `lines` were drawn on `axis_of(estimates)`."""
    axis = axis_of(estimates)
    return forest("plain", lines, axis, words.ticks(axis.ticks, share=True, difference=True))


def table(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table whose rows have a name and a cell for each heading but the first; all cells are HTML."""
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(
        f"<tr><td>{name}</td>"
        + "".join(f'<td data-head="{escape(head)}">{cell}</td>' for head, cell in zip(heads[1:], cells, strict=True))
        + "</tr>"
        for name, cells in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def cut(text: str, most: int = 220) -> str:
    """A text that may be any length, escaped, no longer than `most`."""
    return escape(text if len(text) <= most else f"{text[:most]} …")

"""A table as a picture, ruled as in print."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relevancy.plotting.text_layout import NORMAL, SMALL, TrueTypeFigure, drawable, font

_INK, _MUTED, _LINE = "#1c1b22", "#6b6a75", "#d9d8df"
# Inches.
_MARGIN, _GAP, _ROW, _NOTE, _DPI = 0.3, 0.28, 0.27, 0.22, 150


def table_figure(lines: Sequence[Sequence[str]], *, parts: Sequence[int] = (), notes: Sequence[str] = ()) -> Figure:
    """Lines of text cells, the first one the head, the first column to the left and the others to the right.

    parts: lines, counted from the head's 0, above which there is a rule. notes: sentences under the table. The caller
    saves it: `figure.savefig("table.png")`.
    """
    figure = TrueTypeFigure(dpi=_DPI, facecolor="white")
    renderer = FigureCanvasAgg(figure).get_renderer()

    def wide(text: str, size: float) -> float:
        return float(renderer.get_text_width_height_descent(drawable(text), font(size), ismath=False)[0]) / _DPI

    columns = [max(wide(line[place], NORMAL) for line in lines) for place in range(len(lines[0]))]
    table = sum(columns) + _GAP * (len(columns) - 1)
    width = 2 * _MARGIN + max([table, *(wide(note, SMALL) for note in notes)])
    height = 2 * _MARGIN + _ROW * len(lines) + (_NOTE * (len(notes) + 1) if notes else 0)
    figure.set_size_inches(width, height)

    def put(x: float, y: float, text: str, align: str, size: float, color: str) -> None:
        figure.text(
            x / width, 1 - y / height, drawable(text), ha=align, va="center", color=color, fontproperties=font(size),
            parse_math=False,
        )  # fmt: skip

    for number, line in enumerate(lines):
        y, right = _MARGIN + _ROW * (number + 0.5), _MARGIN
        for place, (cell, own) in enumerate(zip(line, columns, strict=True)):
            right += own
            x, align = (right - own, "left") if place == 0 else (right, "right")
            put(x, y, cell, align, NORMAL, _INK if number else _MUTED)
            right += _GAP
    for number in (0, 1, *parts, len(lines)):
        y = 1 - (_MARGIN + _ROW * number) / height
        ends = _MARGIN / width, (_MARGIN + table) / width
        color = _INK if number in (0, len(lines)) else _LINE
        figure.add_artist(Line2D(ends, (y, y), color=color, linewidth=0.8))
    for number, note in enumerate(notes, 1):
        put(_MARGIN, _MARGIN + _ROW * len(lines) + _NOTE * number, note, "left", SMALL, _MUTED)
    return figure

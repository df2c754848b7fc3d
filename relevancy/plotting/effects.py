"""Effects with their intervals, a group for each benchmark, as Figure 1 of the LLaVA-Gemma paper has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from relevancy.plotting.text_layout import NORMAL, SMALL, TrueTypeFigure, drawable, font

_INK, _MUTED, _LINE = "#1c1b22", "#6b6a75", "#d9d8df"
_COLORS = ("#d1495b", "#3b6ea5", "#2e7d5b", "#8a5a9e", "#b07d2b", "#5b5f68")
_WIDE, _ROW, _GAP = 7.5, 0.24, 0.3  # inches: the figure, an effect, and the space between groups


@dataclass(frozen=True)
class Bar:
    """An effect, as a share, its interval if it has one, and what was published of it, if anything."""

    name: str
    group: str
    value: float
    low: float | None = None
    high: float | None = None
    published: float | None = None


def effects_figure(bars: Sequence[Bar], notes: Sequence[str] = ()) -> Figure:
    """A point with its interval for each effect, groups from top to bottom, in percentage points.

    What was published is a hollow diamond under the point. The caller saves it: `figure.savefig("effects.png")`.
    """
    names = list(dict.fromkeys(one.name for one in bars))
    colors = {name: _COLORS[number % len(_COLORS)] for number, name in enumerate(names)}
    groups = list(dict.fromkeys(one.group for one in bars))
    height = _ROW * len(bars) + _GAP * len(groups) + 0.26 * len(names) + 0.2 * len(notes) + 0.9
    figure = TrueTypeFigure(figsize=(_WIDE, height), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    place, middles = 0.0, []
    for group in groups:
        own = [one for one in bars if one.group == group]
        first = place
        for one in own:
            color = colors[one.name]
            if one.low is not None and one.high is not None:
                axes.plot([100 * one.low, 100 * one.high], [place, place], color=color, linewidth=1.4)
            axes.plot(100 * one.value, place, "o", markersize=5, color=color)
            if one.published is not None:
                axes.plot(100 * one.published, place, "D", markersize=6, markerfacecolor="none", color=color)
            place += _ROW
        middles.append((first + place - _ROW) / 2)
        place += _GAP
    for number in range(len(groups) - 1):
        axes.axhline((middles[number] + middles[number + 1]) / 2, color=_LINE, linewidth=0.6)
    axes.axvline(0, color=_MUTED, linewidth=0.8)
    axes.set_yticks(middles, map(drawable, groups), fontproperties=font(NORMAL), color=_INK)
    axes.set_ylim(place - _GAP - _ROW / 2 + 0.05, -_ROW / 2 - 0.05)
    axes.set_xlabel("change of the share of right answers, percentage points", fontproperties=font(SMALL), color=_MUTED)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", colors=_MUTED, labelsize=SMALL)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    for name in names:
        axes.plot([], [], "o-", markersize=5, linewidth=1.4, color=colors[name], label=drawable(name))
    if any(one.published is not None for one in bars):
        axes.plot(
            [], [], "D", markersize=6, markerfacecolor="none", color=_MUTED, label="as the paper's Figure 1 prints"
        )
    figure.legend(loc="outside upper left", frameon=False, prop=font(SMALL))
    if notes:
        figure.supxlabel(drawable("\n".join(notes)), x=0.01, ha="left", fontproperties=font(SMALL), color=_MUTED)
    return figure

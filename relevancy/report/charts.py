"""Small charts as HTML: shapes stretch with the page, text never does, and colors come from its style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from relevancy.report.findings import Histogram
from relevancy.stats.clustered import Estimate

_STEPS = (1, 2, 2.5, 5, 10)  # times a power of ten: how far apart ticks may stand
_TICKS = 3  # gaps between ticks at the least; with more, labels meet on a narrow screen


@dataclass(frozen=True)
class Axis:
    """A scale from low to high with its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, values: Sequence[float], keep: Sequence[float] = (), most: float | None = None) -> Axis:
        """An axis with round ticks over all values and those to `keep` in sight, which ends at `most` at the latest."""
        low, high = min((*values, *keep), default=0.0), max((*values, *keep), default=1.0)
        if high - low < 1e-9:
            low, high = low - 0.01, high + 0.01
        rough = (high - low) / _TICKS
        power = 10.0 ** floor(log10(rough))
        gap = next(each * power for each in _STEPS if each * power >= rough * 0.999)
        first, last = floor(low / gap + 1e-9), ceil(high / gap - 1e-9)
        end = last * gap if most is None else min(most, last * gap)
        ticks = tuple(number * gap for number in range(first, last + 1) if number * gap <= end + 1e-9)
        return cls(first * gap, end, ticks)

    def place(self, value: float) -> float:
        """Where a value lies, in percent of the axis' length."""
        return 100 * (value - self.low) / (self.high - self.low)


def spread(
    histogram: Histogram, tallest: float, axis: Axis, color: int | None, mean: Estimate, zero: float | None = None
) -> str:
    """A histogram as one filled shape; bins as high as `tallest`, a share of the rows, reach the top.

    The mean is a line, its interval a band. What lies beyond the axis is cut off.
    """
    if not histogram.rows:
        return '<div class="spread"><p class="none">no row has this number</p></div>'
    left, right = axis.place(histogram.low), axis.place(histogram.high)
    width = (right - left) / len(histogram.counts)
    path = [f"M{left:.2f} 100"]
    for number, count in enumerate(histogram.counts):
        top = 100 - 100 * min(1.0, count / histogram.rows / tallest)
        path.append(f"V{top:.2f}H{left + (number + 1) * width:.2f}")
    outline = f'<path d="{"".join(path)}V100Z"/>'
    shape = f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{outline}</svg>'
    return f'<div class="spread {_kind(color)}">{_grid(axis)}{shape}{_line_at(zero, axis)}{_mark(mean, axis)}</div>'


def tallest(histograms: Sequence[Histogram]) -> float:
    """The largest share of rows in any bin of any of the histograms."""
    return max((max(each.counts) / each.rows for each in histograms if each.rows), default=1.0) or 1.0


def whisker(estimate: Estimate, axis: Axis, color: int | None = None, zero: float | None = None) -> str:
    """A dot for a value and a line for its interval; `zero` is drawn through all of them."""
    return f'<div class="whisker {_kind(color)}">{_grid(axis)}{_line_at(zero, axis)}{_mark(estimate, axis)}</div>'


def scale(axis: Axis, labels: Sequence[str]) -> str:
    """The ticks' labels, one for each tick."""
    marks = "".join(
        f'<span style="left:{axis.place(tick):.2f}%">{escape(label)}</span>'
        for tick, label in zip(axis.ticks, labels, strict=True)
    )
    return f'<div class="scale" aria-hidden="true">{marks}</div>'


def _kind(color: int | None) -> str:
    return "neutral" if color is None else f"c{color}"


def _line_at(zero: float | None, axis: Axis) -> str:
    return "" if zero is None else f'<i class="zero" style="left:{axis.place(zero):.2f}%"></i>'


def _grid(axis: Axis) -> str:
    return "".join(f'<i class="tick" style="left:{axis.place(tick):.2f}%"></i>' for tick in axis.ticks)


def _mark(estimate: Estimate, axis: Axis) -> str:
    if estimate.value is None:
        return ""
    band = ""
    if estimate.low is not None and estimate.high is not None:
        left, right = axis.place(estimate.low), axis.place(estimate.high)
        band = f'<i class="band" style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'
    return f'{band}<i class="dot" style="left:{axis.place(estimate.value):.2f}%"></i>'

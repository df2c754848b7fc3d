"""Where the lines, dots and shapes of the page's small charts lie, in percent of a chart's width and height."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from relevancy.plotting.overlay import named_colormap
from relevancy.report.samples import Histogram
from relevancy.stats.clustered import Estimate

_STEPS = (1, 2, 2.5, 5, 10)  # times a power of ten: how far apart ticks may stand
_TICKS = 3  # gaps between ticks at the least; with more, labels meet on a narrow screen
_STOPS = 9  # of a color scale's drawing


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


UNIT = Axis(0, 1, (0, 0.25, 0.5, 0.75, 1))


def axis_of(estimates: Iterable[Estimate], most: float | None = None) -> Axis:
    """An axis with zero and all values and intervals on it, and no further than `most`."""
    values = [end for one in estimates for end in (one.value, one.low, one.high) if end is not None]
    return Axis.around(values, keep=(0.0,), most=most)


def level_axis(histograms: Sequence[Histogram]) -> Axis:
    """An axis from zero over all histograms; from 0 to 1 if they fill most of that."""
    end = max((each.high for each in histograms), default=1.0)
    return UNIT if end > 0.8 else Axis.around((0, end))


def step_axis(histogram: Histogram) -> Axis:
    """An axis with zero over the bins in which there are rows."""
    width = (histogram.high - histogram.low) / len(histogram.counts)
    used = [number for number, count in enumerate(histogram.counts) if count]
    return Axis.around([histogram.low + width * number for number in (used[0], used[-1] + 1)], keep=(0.0,))


def tallest(histograms: Sequence[Histogram]) -> float:
    """The largest share of rows in any bin of any of the histograms."""
    return max((max(each.counts) / each.rows for each in histograms if each.rows), default=1.0) or 1.0


def outline(histogram: Histogram, top: float, axis: Axis) -> str:
    """A histogram as the path of one shape; bins as high as `top`, a share of the rows, reach the upper edge."""
    left, right = axis.place(histogram.low), axis.place(histogram.high)
    width = (right - left) / len(histogram.counts)
    path = [f"M{left:.2f} 100"]
    for number, count in enumerate(histogram.counts):
        height = 100 - 100 * min(1.0, count / histogram.rows / top)
        path.append(f"V{height:.2f}H{left + (number + 1) * width:.2f}")
    return "".join(path) + "V100Z"


def gradient(colormap: str) -> str:
    """A color map from left to right, as the stops of a gradient."""
    table = named_colormap(colormap)
    colors = [[round(255 * part) for part in table(stop / (_STOPS - 1))[:3]] for stop in range(_STOPS)]
    return ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in colors)

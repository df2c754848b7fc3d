"""A video as a strip of frames with their heat, and what of the relevance is on each."""

from __future__ import annotations

__all__ = ["PIXELS", "film"]

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from relevancy.errors import RelevancyError
from relevancy.plotting.overlay import COLORMAP, OPACITY, overlay, percent, value_range
from relevancy.plotting.text_layout import LARGE, SMALL, TrueTypeFigure, drawable, font

_FRAME, _BARS, _HEAD, _FOOT, _MARGIN, _GAP = 1.5, 0.6, 0.7, 0.4, 0.3, 0.25  # inches
_DPI = 150
_LETTERS = 100  # of one point in an inch, roughly
PIXELS = 400
"""Longer side of a frame as it is drawn: larger ones only take time."""
_COLOR = "#d9822b"


def film(
    images: Sequence[Image.Image],
    heatmaps: Sequence[np.ndarray],
    shares: Sequence[float],
    *,
    title: str,
    subtitle: str = "",
    columns: int = 8,
    colormap: str = COLORMAP,
    opacity: float = OPACITY,
) -> Figure:
    """Frames in their order, `columns` in a row, each with its heat and below it a bar of its share.

    All heatmaps (height, width), raw, are on one scale of colors, and all bars on one of shares. The caller saves it.
    """
    if not images or columns < 1:
        raise RelevancyError("a film needs at least one frame, and one column")
    low, high = value_range(heatmaps)
    drawn = partial(overlay, vmin=low, vmax=high, colormap=colormap, opacity=opacity)
    rows = [range(start, min(start + columns, len(images))) for start in range(0, len(images), columns)]
    across, aspect = min(columns, len(images)), images[0].height / images[0].width
    strip = _FRAME * aspect + _BARS + _GAP
    width, height = 2 * _MARGIN + across * _FRAME, _HEAD + len(rows) * strip + _FOOT
    figure = TrueTypeFigure(figsize=(max(width, 4.0), height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    wide = figure.get_size_inches()[0]
    for place, (text, size, weight) in enumerate([(title, LARGE, "bold"), (subtitle, SMALL, "normal")]):
        letters = int((wide - 2 * _MARGIN) * _LETTERS / size)
        cut = text if len(text) <= letters else f"{text[: letters - 1]}…"
        y, letters_of = 1 - (0.3 + 0.22 * place) / height, font(size, weight)
        figure.text(_MARGIN / wide, y, drawable(cut), fontproperties=letters_of, parse_math=False)
    tallest = max(float(np.nanmax(shares)), np.finfo(float).tiny)
    for number, row in enumerate(rows):
        top = _HEAD + number * strip
        for column, frame in enumerate(row):
            left = (_MARGIN + column * _FRAME) / wide
            box = (left, 1 - (top + _FRAME * aspect) / height, 0.96 * _FRAME / wide, _FRAME * aspect / height)
            picture = figure.add_axes(box)
            picture.imshow(drawn(images[frame], heatmaps[frame]))
            picture.set_axis_off()
        bottom = 1 - (top + _FRAME * aspect + _BARS) / height
        bars = figure.add_axes((_MARGIN / wide, bottom, len(row) * _FRAME / wide, 0.7 * _BARS / height))
        bars.bar(range(len(row)), [shares[frame] for frame in row], color=_COLOR, width=0.9)
        bars.set(xlim=(-0.5, len(row) - 0.5), ylim=(0, 1.3 * tallest), yticks=[])
        bars.set_xticks(range(len(row)), [str(frame + 1) for frame in row], fontproperties=font(SMALL))
        bars.spines[["top", "right", "left"]].set_visible(False)
        for place, frame in enumerate(row):
            bars.text(
                place, shares[frame], percent(shares[frame]), ha="center", va="bottom", fontproperties=font(SMALL - 1.5)
            )
    bars.set_xlabel("frame, and its share of the relevance", fontproperties=font(SMALL))
    return figure

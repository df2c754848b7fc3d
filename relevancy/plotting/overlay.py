"""Numbers -> colors: a heatmap laid over its picture. Knows nothing about models."""

__all__ = ["FLOOR", "colormap_for", "linear_share", "log_share", "overlay", "percent", "value_range", "why_empty"]

from collections.abc import Sequence
from functools import lru_cache
from numbers import Real

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.colors import Colormap, LinearSegmentedColormap
from PIL import Image, ImageDraw, ImageFont

from relevancy.errors import RelevancyError

COLORMAP = "inferno"
SIGNED = "signed"
"""This module's own diverging colors, from blue over black to yellow: apart for color-blind eyes, and dark at zero."""

OPACITY = 0.85

_LEAST = 1e-6  # a smaller share has no digits that anyone would read

FLOOR = 1e-3
"""Share of all relevance on the picture below which a map is drawn as empty.

What it shows is mostly the wrong place: chosen on right answers about one object in 150 scenes (seed 29 of the embedded
pair's world), where below it the peak met the object in 28 and 30 % of maps (demo-small, demo-large), from it on in 76
and 87 %; on 150 others (seed 31) in 23 and 37 %, and 78 and 85 %. A share below it says nothing of whether the picture
was used.
"""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_SATURATION, _BRIGHTNESS = 0.3, 0.8  # what the picture keeps where relevance is zero
_BAND_PIXELS = 1 << 14  # pictures are colored in bands that fit a cache; no copy of one in floats is ever whole
_COLORS = 512  # entries of the color table
_SMALLEST, _LARGEST = 6, 40  # pixels of letters on a picture
_LOG = 999  # three decades: a thousandth of the scale's end lies at a tenth of the scale
_NEGLIGIBLE = 0.05  # of the largest size: what is negative by less is drawn as zero
_SIGNED = LinearSegmentedColormap.from_list(SIGNED, ["#a8e0ff", "#3d8fd1", "#0c0d14", "#c9641a", "#ffd84d"])


def overlay(
    image: Image.Image,
    heatmap: np.ndarray,
    *,
    vmin: float | None = None,
    vmax: float | None = None,
    colormap: str = COLORMAP,
    opacity: float = OPACITY,
    log: bool = False,
    threshold: float = 0.0,
) -> Image.Image:
    """The picture, its relevant parts in color, the rest dimmed and grayish, RGB of the picture's size.

    `heatmap` (height, width) is raw; `vmin` and `vmax` are the values of the color table's ends (default: as
    `value_range` has them); with `vmin` below zero the colors are signed (see `colormap_for`) and color shows by size.
    log: color by the logarithm, see `log_share`. threshold: share of the scale's end below which nothing is colored.
    Pixels that are NaN were never seen: washed out and hatched. A map without any relevance, all zero or all NaN,
    leaves the seen picture as it is.
    """
    if heatmap.shape != (image.height, image.width):
        size = f"{image.height} x {image.width}"
        raise RelevancyError(f"a heatmap has its picture's height x width, {size}, not {heatmap.shape}")
    require_opacity(opacity)
    low, high = value_range([heatmap])
    if (low, high) != (0, 0):
        low, high = (low if vmin is None else vmin), (high if vmax is None else vmax)
    if low < 0:  # zero is in the middle of the colors
        low, high = -max(-low, high), max(-low, high)
    table = np.ascontiguousarray(colormap_for(colormap, low)(np.linspace(0, 1, _COLORS))[:, :3].T, dtype=np.float32)
    drawn = np.empty((image.height, image.width, 3), dtype=np.uint8)
    step = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        band = np.asarray(image.crop((0, top, image.width, bottom)).convert("RGB"))
        rgb = np.ascontiguousarray(band.transpose(2, 0, 1), dtype=np.float32) / 255  # long rows of one color: faster
        values = heatmap[top:bottom]
        seen = np.isfinite(values)
        colored = rgb
        if high > low:
            colored = _heat(rgb, np.where(seen, values, low), low, high, table, opacity, log, threshold)
        if not seen.all():
            unseen = hatched(rgb.transpose(1, 2, 0), top, min(image.size))
            colored = np.where(seen, colored, unseen.transpose(2, 0, 1))
        drawn[top:bottom] = np.rint(colored * 255).transpose(1, 2, 0)
    return Image.fromarray(drawn)


def shown(heatmap: np.ndarray, share: float, floor: float = FLOOR) -> tuple[np.ndarray, str]:
    """A heatmap as it is drawn, and why it is drawn as empty; "" where it is not.

    share: of all relevance, on the picture. A map whose share is below `floor` gives one that is zero wherever the
    model looked.
    """
    why = why_empty(heatmap, share, floor)
    return (np.where(np.isfinite(heatmap), np.float32(0), np.float32(np.nan)) if why else heatmap), why


def why_empty(values: np.ndarray, share: float, floor: float = FLOOR) -> str:
    """Why a map of these numbers is drawn as empty; "" where it is not. Arguments as in `shown`."""
    if value_range([values]) == (0, 0):
        return "no relevance"
    if not share < floor:
        return ""
    return f"map not drawn: {percent(share)} of the relevance is on the picture, less than {percent(floor)}"


def percent(share: float) -> str:
    """A share in percent, a small one not rounded to nothing."""
    if 0 < share < _LEAST:
        return f"under {100 * _LEAST:.4f}%"
    return f"{share:.1%}" if share >= FLOOR or not share else f"{100 * share:.2g}%"


def labelled(image: Image.Image, text: str) -> Image.Image:
    """The picture with words in its middle, as large as it has room for; as it is without words."""
    if not text:
        return image
    marked = image.copy()
    draw = ImageDraw.Draw(marked)
    room = 0.9 * image.width, 0.9 * image.height
    for size in range(min(_LARGEST, max(_SMALLEST, image.width // 18)), _SMALLEST - 1, -1):
        letters = _letters(size)
        lines = _lines(text, draw, letters, room[0] - size)
        left, top, right, bottom = draw.multiline_textbbox((0, 0), lines, letters, align="center")
        if right - left <= room[0] and bottom - top <= room[1]:
            break
    x, y, edge = (image.width - right - left) / 2, (image.height - bottom - top) / 2, size / 2
    place = (x + left - edge, y + top - edge, x + right + edge, y + bottom + edge)
    draw.rounded_rectangle(place, edge, fill="white", outline="#d9d8df")
    draw.multiline_text((x, y), lines, "#1c1b22", letters, align="center")
    return marked


@lru_cache(maxsize=_LARGEST)
def _letters(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


def _lines(text: str, draw: ImageDraw.ImageDraw, letters: ImageFont.FreeTypeFont, width: float) -> str:
    """The text in lines that fit, a word that does not having one of its own."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if draw.textlength(longer, letters) <= width or not lines[-1] else [*lines, word]
    return "\n".join(lines)


def value_range(heatmaps: Sequence[np.ndarray]) -> tuple[float, float]:
    """Ends of a color scale for these maps: zero and the largest value, (0, 0) if all are empty.

    Where values are negative by more than a twentieth of the largest size, minus that size and that size.
    """
    low, high = 0.0, 0.0
    for heatmap in heatmaps:
        finite = np.isfinite(heatmap)
        low = float(np.min(heatmap, where=finite, initial=low))
        high = float(np.max(heatmap, where=finite, initial=high))
    size = max(-low, high)
    return (-size, size) if -low > _NEGLIGIBLE * size else (0.0, high)


def colormap_for(name: str, low: float) -> Colormap:
    """The colors of a scale whose lower end is `low`: below zero, the default gives way to the signed colors."""
    return named_colormap(SIGNED if low < 0 and name == COLORMAP else name)


def log_share(share: np.ndarray) -> np.ndarray:
    """Where shares of a scale's end, 0 to 1, lie on a logarithmic scale of three decades: zero at 0, the end at 1."""
    return np.log1p(_LOG * share) / np.log1p(_LOG)


def linear_share(place: np.ndarray) -> np.ndarray:
    """Which share `log_share` puts at a place."""
    return np.expm1(place * np.log1p(_LOG)) / _LOG


def _heat(
    rgb: np.ndarray,
    values: np.ndarray,
    low: float,
    high: float,
    table: np.ndarray,
    opacity: float,
    log: bool,
    threshold: float,
) -> np.ndarray:
    """`rgb` and the result (3, height, width), `table` (3, colors)."""
    strength = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    size = np.abs(2 * strength - 1) if low < 0 else strength
    uncolored = size < threshold
    if log:
        size = log_share(size)
        strength = (1 + np.sign(strength - 0.5) * size) / 2 if low < 0 else size
    color = table[:, np.rint(strength * (_COLORS - 1)).astype(np.intp)]
    gray = np.tensordot(_LUMA, rgb, 1)
    dimmed = (gray + _SATURATION * (rgb - gray)) * _BRIGHTNESS
    alpha = np.where(uncolored, np.float32(0), opacity * (size * (2 - size)))
    return dimmed + alpha * (color - dimmed)


def hatched(rgb: np.ndarray, top: int, short_side: int) -> np.ndarray:
    """Pixels (height, width, 3) as they look where the model never saw them; `top` keeps bands of a picture in step."""
    gray = np.repeat((rgb @ _LUMA)[..., None], 3, axis=2) * 0.22 + 0.68
    period = max(4, short_side // 32)
    y, x = np.ogrid[top : top + rgb.shape[0], : rgb.shape[1]]
    lines = (x + y) % period < max(1, period // 6)
    gray[lines] -= 0.16
    return gray


def require_opacity(opacity: float) -> None:
    """Raise RelevancyError for what is no number from 0 to 1."""
    if not isinstance(opacity, Real) or not 0 <= opacity <= 1:
        raise RelevancyError(f"opacity is a number from 0 (the picture) to 1 (the colors), not {opacity!r}")


def named_colormap(name: str) -> Colormap:
    """One of Matplotlib's colormaps, or `SIGNED`."""
    if name == SIGNED:
        return _SIGNED
    if name not in matplotlib.colormaps:
        raise RelevancyError(f"{name!r} is no Matplotlib colormap; try inferno, magma, viridis or cividis")
    return matplotlib.colormaps[name]

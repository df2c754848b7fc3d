"""Figures: pictures, heat, shares and words, one panel or several side by side on one scale.

Uses Matplotlib's object interface, so nothing global changes.
"""

__all__ = ["word_range"]

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, FuncNorm, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from PIL import Image

from relevancy.errors import RelevancyError
from relevancy.plotting.overlay import (
    COLORMAP,
    OPACITY,
    colormap_for,
    hatched,
    linear_share,
    log_share,
    named_colormap,
    overlay,
    percent,
    require_opacity,
    value_range,
)
from relevancy.plotting.text_layout import (
    FONTS,
    LARGE,
    NORMAL,
    SMALL,
    SPACE,
    WORD_LINE,
    Flow,
    Piece,
    TrueTypeFigure,
    drawable,
    font,
    groups,
    line_height,
    pieces_of,
)
from relevancy.token_text import is_control

_INK, _MUTED, _LINE, _EMPTY = "#1c1b22", "#6b6a75", "#d9d8df", "#efeef3"
_SHARES = {"image": ("image", "#d9822b"), "text": ("text", "#5b4b9a"), "first_token": ("first token", "#b3b1bd")}

# Inches.
_MARGIN, _GAP, _DPI = 0.35, 0.28, 150
_COLUMN = {1: 4.6, 2: 4.0}  # width of a column by number of panels; narrower for more
_NARROW_COLUMN, _TALLEST, _LOWEST = 3.5, 4.8, 0.5
_BAR = 0.13
_ANSWER_BAR = 0.3  # of a column
_PICTURE_PIXELS = 900  # longer side of a picture as drawn into a figure
_BAR_COLORS = 512
_GLANCE = 64  # letters of a text, of which it is first seen whether they fit


@dataclass(frozen=True)
class Panel:
    """One model's answer about one picture, or, where `image` and `heatmap` are None, to words alone.

    `heatmap` (height, width) holds raw relevance in the picture's pixels, NaN where the model never looked; `words` are
    tokens with their raw relevance, a leading space or "▁" starting a new word; `shares` maps "image", "text" and
    "first_token" to fractions of the whole. `answers` are its own and other models' answers, with how likely it is to
    say each (0 to 1, NaN where that is not known). `empty` says why there is no heat, where there is none.
    """

    title: str
    subtitle: str
    image: Image.Image | None
    heatmap: np.ndarray | None
    words: Sequence[tuple[str, float]]
    shares: Mapping[str, float]
    answers: Sequence[tuple[str, float]] = ()
    empty: str = "no relevance"


def figure(
    panels: Sequence[Panel],
    *,
    question: str,
    shared_scale: bool = True,
    colormap: str = COLORMAP,
    opacity: float = OPACITY,
    log: bool = False,
    threshold: float = 0.0,
    notes: Sequence[str] = (),
) -> Figure:
    """Pictures, heat, shares and words of one panel, or of several side by side, as a Matplotlib figure.

    All panels use one color scale for pictures and one for words, unless `shared_scale` is False. Without pictures
    there are words and shares alone. The untouched picture stands on the left if all panels show the same one. `log`
    and `threshold` as in `overlay.overlay`, of pictures. `notes` are sentences for its foot. The caller saves it:
    `figure.savefig("map.png")`.
    """
    if not panels:
        raise RelevancyError("a figure needs at least one panel")
    named_colormap(colormap)
    require_opacity(opacity)
    colors = {"colormap": colormap, "opacity": opacity, "log": log, "threshold": threshold}
    return _FigureLayout(panels, question, shared_scale, colors, notes).draw()


def _log_norm(low: float, high: float) -> FuncNorm:
    """Values to places on a logarithmic scale, as `overlay.log_share` has them."""

    def place(values: np.ndarray) -> np.ndarray:
        return np.sign(values) * log_share(np.abs(values) / high)

    def value(places: np.ndarray) -> np.ndarray:
        return np.sign(places) * linear_share(np.abs(places)) * high

    return FuncNorm((place, value), low, high)


def _log_ticks(low: float, high: float) -> list[float]:
    ends = [high / 10**decade for decade in range(3)]
    return [*(-end for end in ends if low < 0), 0.0, *ends]


class _FigureLayout:
    """One figure in the making: sizes in inches, y growing downwards from the upper edge."""

    def __init__(
        self,
        panels: Sequence[Panel],
        question: str,
        shared_scale: bool,
        coloring: Mapping[str, Any],
        notes: Sequence[str],
    ) -> None:
        self.panels, self.question, self.shared_scale, self.notes = panels, question, shared_scale, notes
        self.coloring = coloring
        self.figure = TrueTypeFigure(dpi=_DPI, facecolor="white")
        self.renderer = FigureCanvasAgg(self.figure).get_renderer()
        images = [panel.image for panel in panels]
        self.heatmaps = [panel.heatmap for panel in panels if panel.heatmap is not None]
        self.show_picture = images[0] is not None and all(_same_picture(images[0], image) for image in images)
        self.column = _COLUMN.get(len(panels), _NARROW_COLUMN)
        self.columns = len(panels) + self.show_picture
        self.width = 2 * _MARGIN + self.columns * self.column + (self.columns - 1) * _GAP
        self.content = self.width - 2 * _MARGIN
        self.word_width = self.content if len(panels) == 1 else self.column

    def draw(self) -> Figure:
        """Measure everything, then place it from top to bottom."""
        heading = self.wrap(self.question.strip(), self.content, LARGE, "bold", lines=3)
        flows = [self.flow(panel.words) for panel in self.panels]
        aspects = [panel.image.height / panel.image.width for panel in self.panels if panel.image is not None]
        tallest = max(_LOWEST, min(_TALLEST, self.column * max(aspects, default=0)))
        y_names = _MARGIN + len(heading) * line_height(LARGE) + 0.12
        y_pictures = y_names + line_height(NORMAL) + line_height(SMALL) + 0.06
        y_scale = y_pictures + tallest + 0.12 if aspects else y_pictures
        y_shares = y_scale + (_BAR + 0.46 if aspects else 0) + line_height(SMALL) + 0.08
        y_answers = y_shares + _BAR + line_height(SMALL) + 0.3
        answers = max(len(panel.answers) for panel in self.panels)
        y_words = y_answers + ((answers + 1) * line_height(SMALL) + 0.2 if answers else 0)
        y_flow = y_words + line_height(SMALL) + 0.1
        y_end = y_flow + max(flow.height for flow in flows)
        notes = [line for note in self.notes for line in self.wrap(note, self.content, SMALL, "normal", lines=2)]
        y_notes = y_end + 0.12
        y_end = y_notes + len(notes) * line_height(SMALL) if notes else y_end
        some_unseen = any(np.isnan(heatmap).any() for heatmap in self.heatmaps)
        height = y_end + _MARGIN + (0 if self.show_picture or not some_unseen else line_height(SMALL) + 0.1)
        self.figure.set_size_inches(self.width, height)

        for number, line in enumerate(heading):
            self.text(_MARGIN, _MARGIN + (number + 0.8) * line_height(LARGE), line, LARGE, weight="bold")
        if self.show_picture and (picture := self.panels[0].image) is not None:
            self.names(_MARGIN, y_names, "Picture", f"{picture.width} × {picture.height}")
            self.picture(_MARGIN, y_pictures, tallest, resized(picture, _display_size(picture)))
        for number, panel in enumerate(self.panels):
            x = self.x_of(number)
            self.names(x, y_names, panel.title, panel.subtitle)
            if panel.image is not None and panel.heatmap is not None:
                self.heat(x, y_pictures, tallest, panel, panel.image, panel.heatmap)
            self.shares(x, y_shares, panel)
            self.answers(x, y_answers, panel.answers)
            self.words(self.x_words(number), y_flow, flows[number], self.word_range(number))
        self.scales(y_scale, y_words)
        for number, line in enumerate(notes):
            self.text(_MARGIN, y_notes + (number + 0.75) * line_height(SMALL), line, SMALL, color=_MUTED)
        if some_unseen:
            self.unseen_key(y_scale if self.show_picture else y_end + 0.1)
        return self.figure

    # -- where and how large

    def x_of(self, number: int) -> float:
        return _MARGIN + (number + self.show_picture) * (self.column + _GAP)

    def x_words(self, number: int) -> float:
        return _MARGIN if len(self.panels) == 1 else self.x_of(number)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        total_width, total_height = self.figure.get_size_inches()
        box = (x / total_width, 1 - (y + height) / total_height, width / total_width, height / total_height)
        return self.figure.add_axes(box)

    def measure(self, text: str, size: float, weight: str = "normal", mono: bool = False) -> float:
        properties = font(size, weight, mono)
        return float(self.renderer.get_text_width_height_descent(text, properties, False)[0]) / _DPI

    def wrap(self, text: str, width: float, size: float, weight: str, lines: int) -> list[str]:
        """Text as at most so many lines of that width, the last one ending in "…" if it does not fit."""
        wrapped = [""]
        for word in drawable(text).split():
            longer = f"{wrapped[-1]} {word}".strip()
            if wrapped[-1] and self.measure(longer, size, weight) > width:
                wrapped.append(word)
                if len(wrapped) > lines:
                    break
            else:
                wrapped[-1] = longer
        cut = wrapped[:lines]
        if len(wrapped) > lines:
            cut[-1] += " …"
        return [self.fit(line, width, size, weight) for line in cut]

    def fit(self, text: str, width: float, size: float, weight: str = "normal") -> str:
        """The text, or as much of its beginning as that width holds, ending in "…"."""
        # measuring costs as much as a text is long: no more of it than twice what fits is looked at
        end = _GLANCE
        while end < len(text) and self.measure(text[:end], size, weight) <= width:
            end *= 2
        if end >= len(text) and self.measure(text, size, weight) <= width:
            return text
        kept = text.rstrip(" …")[:end]
        lengths = range(1, len(kept) + 1)
        most = bisect_left(lengths, True, key=lambda length: self.measure(kept[:length] + "…", size, weight) > width)
        return kept[:most] + "…"

    # -- parts

    def text(self, x: float, y: float, text: str, size: float, *, color: str = _INK, weight: str = "normal") -> None:
        width, height = self.figure.get_size_inches()
        self.figure.text(
            x / width, 1 - y / height, text, fontproperties=font(size, weight), color=color, parse_math=False
        )

    def names(self, x: float, y: float, title: str, subtitle: str) -> None:
        title, subtitle = drawable(title), drawable(subtitle)
        title_line, subtitle_line = y + 0.75 * line_height(NORMAL), y + line_height(NORMAL) + 0.72 * line_height(SMALL)
        self.text(x, title_line, self.fit(title, self.column, NORMAL, "bold"), NORMAL, weight="bold")
        self.text(x, subtitle_line, self.fit(subtitle, self.column, SMALL), SMALL, color=_MUTED)

    def picture(self, x: float, y: float, tallest: float, image: Image.Image) -> Axes:
        """The picture at the left and upper end of its place, with its own shape."""
        scale = min(self.column / image.width, tallest / image.height)
        axes = self.axes(x, y, image.width * scale, image.height * scale)
        axes.imshow(image, interpolation="antialiased", aspect="auto")
        axes.set_axis_off()
        return axes

    def heat(self, x: float, y: float, tallest: float, panel: Panel, picture: Image.Image, heatmap: np.ndarray) -> None:
        size = _display_size(picture)
        low, high = self.map_range(panel)
        empty = value_range([heatmap]) == (0, 0)
        drawn = overlay(
            resized(picture, size), _heat_shown(heatmap, size), vmin=0 if empty else low, vmax=0 if empty else high,
            **self.coloring,
        )  # fmt: skip
        axes = self.picture(x, y, tallest, drawn)
        if empty:
            width = 0.8 * axes.get_position().width * self.width
            why = "\n".join(self.wrap(panel.empty, width, NORMAL, "bold", lines=5))
            axes.text(
                0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=_INK,
                fontproperties=font(NORMAL, "bold"),
                bbox={"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": _LINE, "alpha": 0.92},
            )  # fmt: skip

    def colors(self, low: float) -> Colormap:
        """The colors of a scale with this lower end."""
        return colormap_for(self.coloring["colormap"], low)

    def map_range(self, panel: Panel) -> tuple[float, float]:
        own = [] if panel.heatmap is None else [panel.heatmap]
        return value_range(self.heatmaps if self.shared_scale else own)

    def word_range(self, number: int) -> tuple[float, float]:
        return word_range([panel.words for panel in (self.panels if self.shared_scale else [self.panels[number]])])

    def scales(self, y_scale: float, y_words: float) -> None:
        """One color bar below the pictures and one above the words, or one of each per panel."""
        spans = [(0, len(self.panels))] if self.shared_scale else [(n, 1) for n in range(len(self.panels))]
        for first, count in spans if self.heatmaps else ():
            width = count * self.column + (count - 1) * _GAP
            low, high = self.map_range(self.panels[first])
            label = "relevance of an image patch (raw)" + ("; below zero: against the token" if low < 0 else "")
            self.color_bar(self.x_of(first), y_scale, width, low, high, label)
        for first, count in spans:
            x, low_high = self.x_words(first), self.word_range(first)
            width = count * self.word_width + (count - 1) * _GAP
            beyond = any(
                value > low_high[1] for panel in self.panels[first : first + count] for _, value in panel.words
            )
            self.text(x, y_words + 0.75 * line_height(SMALL), "Words", SMALL, weight="bold")
            self.word_bar(x, y_words, width, *low_high, beyond)

    def color_bar(self, x: float, y: float, width: float, low: float, high: float, label: str) -> None:
        axes = self.axes(x, y, width, _BAR)
        if high <= low:
            axes.set_axis_off()
            axes.text(0, 0.5, "no scale: no map is drawn", va="center", color=_MUTED, fontproperties=font(SMALL))
            return
        log = self.coloring["log"]
        colors = ScalarMappable((_log_norm if log else Normalize)(low, high), self.colors(low))
        bar = self.figure.colorbar(colors, cax=axes, orientation="horizontal")
        bar.locator = FixedLocator(_log_ticks(low, high)) if log else MaxNLocator(max(2, int(width)), min_n_ticks=2)
        bar.formatter = FuncFormatter(lambda value, _: f"{value:.3g}")
        bar.outline.set_visible(False)
        axes.tick_params(
            labelsize=SMALL - 1, length=2.5, width=0.6, color=_MUTED, labelcolor=_INK, pad=2, labelfontfamily=FONTS[0]
        )
        axes.set_xlabel(label, fontproperties=font(SMALL - 1), color=_MUTED, labelpad=2)

    def word_bar(self, x: float, y: float, width: float, low: float, high: float, beyond: bool) -> None:
        """A small color bar in the line of the words' heading: lowest value, colors, highest value."""
        if high <= low:
            self.text(x + 0.6, y + 0.75 * line_height(SMALL), "no relevance", SMALL, color=_MUTED)
            return
        left, right = f"{low:.3g}", f"{'≥ ' if beyond else ''}{high:.3g}"
        bar = min(1.2, width / 4)
        x_right = x + width - self.measure(right, SMALL)
        x_bar = x_right - 0.08 - bar
        baseline = y + 0.75 * line_height(SMALL)
        self.text(x_right, baseline, right, SMALL)
        self.text(x_bar - 0.08 - self.measure(left, SMALL), baseline, left, SMALL)
        axes = self.axes(x_bar, baseline - 0.1, bar, _BAR * 0.85)
        axes.imshow(np.linspace(0, 1, _BAR_COLORS)[None], cmap=self.colors(low), aspect="auto")
        axes.set_axis_off()

    def shares(self, x: float, y: float, panel: Panel) -> None:
        """One bar of image, text and first token, and below it the numbers."""
        axes = self.axes(x, y, self.column, _BAR)
        axes.set_axis_off()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.add_patch(Rectangle((0, 0), 1, 1, facecolor=_EMPTY))
        self.text(x, y - 0.08 - 0.25 * line_height(SMALL), "Share of all relevance", SMALL, weight="bold")
        start, place = 0.0, x
        baseline = y + _BAR + 0.06 + 0.75 * line_height(SMALL)
        for key, (name, color) in _SHARES.items():
            if key == "image" and panel.image is None:
                continue
            share = panel.shares.get(key, float("nan"))
            if np.isfinite(share) and share > 0:
                axes.add_patch(Rectangle((start, 0), share, 1, facecolor=color))
                start += share
            label = f"{name} {percent(share)}" if np.isfinite(share) else f"{name} –"
            self.text(place, baseline, "■", SMALL, color=color)
            self.text(place + SPACE, baseline, label, SMALL)
            place += SPACE + self.measure(label, SMALL) + 0.2

    def answers(self, x: float, y: float, answers: Sequence[tuple[str, float]]) -> None:
        """How likely the model is to say each of the answers: words, a bar, and the number."""
        if not answers:
            return
        heading = "Probability of saying (mean per token)"
        self.text(x, y + 0.75 * line_height(SMALL), heading, SMALL, weight="bold")
        numbers = self.measure("0.000", SMALL)
        bar = self.column * _ANSWER_BAR
        x_bar = x + self.column - numbers - 0.08 - bar
        for number, (answer, probability) in enumerate(answers, 1):
            baseline = y + 0.04 + (number + 0.75) * line_height(SMALL)
            known = np.isfinite(probability)
            self.text(x, baseline, self.fit(drawable(answer), x_bar - x - 0.1, SMALL), SMALL)
            self.text(x_bar + bar + 0.08, baseline, f"{probability:.3f}" if known else "–", SMALL)
            axes = self.axes(x_bar, baseline - 0.09, bar, _BAR * 0.7)
            axes.set_axis_off()
            axes.set(xlim=(0, 1), ylim=(0, 1))
            axes.add_patch(Rectangle((0, 0), 1, 1, facecolor=_EMPTY))
            axes.add_patch(Rectangle((0, 0), probability if known else 0, 1, facecolor=_INK))

    def unseen_key(self, y: float) -> None:
        """Says what the hatching means."""
        axes = self.axes(_MARGIN, y, 0.24, 0.15)
        axes.imshow(hatched(np.full((22, 36, 3), 0.5, np.float32), 0, 12 * 32), aspect="auto", interpolation="nearest")
        axes.set_axis_off()
        self.text(_MARGIN + 0.31, y + 0.12, "hatched: never seen by the model", SMALL, color=_MUTED)

    # -- words

    def flow(self, words: Sequence[tuple[str, float]]) -> "Flow":
        """Lines of words that fit the width: a word stays in one piece, a line break in the prompt breaks here."""
        room, space = self.word_width - 2 * SPACE, self.measure("n n", NORMAL) - self.measure("nn", NORMAL)
        flow = Flow([], 0)
        x = 0.0
        for group in groups(pieces_of(words)):
            sized = [(piece, self.piece_width(piece)) for piece in group]
            width = sum(width for _, width in sized)
            gap = space if group[0].spaced and x else 0.0
            if x and x + gap + width > room:
                flow.line, x, gap = flow.line + 1, 0.0, 0.0
            x += gap
            for piece, width in sized:
                if x and x + width > room:
                    flow.line, x = flow.line + 1, 0.0
                flow.chips.append((piece, x, flow.line, width))
                x += width + (0.04 if piece.special else 0)
            if group[-1].breaks:
                flow.line, x = flow.line + 1, 0.0
        flow.line -= x == 0 and flow.line > 0
        return flow

    def piece_width(self, piece: "Piece") -> float:
        return self.measure(piece.text, piece.size, mono=piece.special) + (0.1 if piece.special else 0.012)

    def words(self, x: float, y: float, flow: "Flow", limits: tuple[float, float]) -> None:
        """Words on the color of zero, each on the color of its relevance."""
        if not flow.chips:
            return
        low, high = limits
        colors, zero = self.colors(low), 0.5 if low < 0 else 0.0
        background = to_rgb(colors(zero))
        axes = self.axes(x, y, self.word_width, flow.height)
        axes.set_axis_off()
        axes.set(xlim=(0, self.word_width), ylim=(flow.height, 0))
        axes.add_patch(_rounded(0, 0, self.word_width, flow.height, 0.08, background))
        for piece, left, line, width in flow.chips:
            top = SPACE + line * WORD_LINE
            known = np.isfinite(piece.value) and high > low
            strength = float(np.clip((piece.value - low) / (high - low), 0, 1)) if known else zero
            color = to_rgb(colors(strength))
            box_left, box_top = SPACE + left, top + 0.02
            edge = _mixed(color, _ink_on(color), 0.35) if piece.special else color
            axes.add_patch(_rounded(box_left, box_top, width, WORD_LINE - 0.05, 0.03, color, edge))
            axes.text(
                box_left + width / 2, top + WORD_LINE * 0.68, piece.text, ha="center", va="baseline",
                color=_mixed(color, _ink_on(color), 0.75) if piece.special else _ink_on(color),
                fontproperties=font(piece.size, "normal", piece.special), parse_math=False,
            )  # fmt: skip


def word_range(texts: Sequence[Sequence[tuple[str, float]]]) -> tuple[float, float]:
    """Ends of a color scale for the words of these texts, tokens with their raw relevance.

    Control tokens may lie beyond: they are no words and often drown all others.
    """
    plain = [value for words in texts for word, value in words if not is_control(word)]
    every = [value for words in texts for _, value in words]
    low, high = value_range([np.array(plain, dtype=float)])
    return (low, high) if high > low else value_range([np.array(every, dtype=float)])


def _rounded(
    x: float, y: float, width: float, height: float, radius: float, color: object, edge: object = "none"
) -> FancyBboxPatch:
    style = f"round,pad=0,rounding_size={radius}"
    return FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=color, edgecolor=edge, linewidth=0.6)


def _ink_on(color: tuple[float, float, float]) -> tuple[float, float, float]:
    """Black or white, whichever has more contrast to this color by WCAG's relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0.0, 0.0, 0.0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (1.0, 1.0, 1.0)


def _mixed(
    first: tuple[float, float, float], second: tuple[float, float, float], part: float
) -> tuple[float, float, float]:
    red, green, blue = (a + part * (b - a) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _same_picture(first: Image.Image, second: Image.Image | None) -> bool:
    return first is second or (
        second is not None
        and first.size == second.size
        and first.mode == second.mode
        and first.tobytes() == second.tobytes()
    )


def _display_size(image: Image.Image) -> tuple[int, int]:
    scale = _PICTURE_PIXELS / max(image.size)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at another size (width, height), for a screen or a page."""
    smaller = size[0] < image.width
    return image.convert("RGB").resize(
        size, Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC, reducing_gap=2
    )


def _heat_shown(heatmap: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The heatmap at the size it is drawn in; what was not seen stays NaN."""
    step_y, step_x = max(1, heatmap.shape[0] // size[1]), max(1, heatmap.shape[1] // size[0])
    values = np.ascontiguousarray(heatmap[::step_y, ::step_x], dtype=np.float32)
    seen = np.isfinite(values)
    sized = cv2.resize(np.where(seen, values, 0), size, interpolation=cv2.INTER_LINEAR)
    weight = cv2.resize(seen.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    sized[weight < 0.5] = np.nan
    return sized / np.maximum(weight, 0.5)

"""Results as HTML: maps with their answers, shares and words. Colors and words only; every number is a result's own."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from itertools import groupby

import numpy as np
from PIL import Image

from relevancy import Explanation
from relevancy.plotting.figures import word_range
from relevancy.plotting.overlay import colormap_for, overlay, value_range
from relevancy.plotting.text_layout import SPECIAL
from relevancy_app.asking import Display

_JPEG = 90
_COLORS, _STOPS = 241, 24  # in a scale, and in the gradient that shows it
_SHARES = (("image", "picture"), ("text", "words"), ("first_token", "first token"))
_HINT = "Point at a patch, or use the arrow keys, to read its number."
_WORD_HINT = "Press a word to read its number."


@dataclass(frozen=True)
class Scale:
    """Ends of a color scale, raw relevance, and its colors."""

    low: float
    high: float
    colormap: str

    @cached_property
    def colors(self) -> list[str]:
        """From the lowest to the highest, as a browser reads them."""
        table = colormap_for(self.colormap, self.low)(np.linspace(0, 1, _COLORS), bytes=True)
        return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue, _ in table.tolist()]

    def color(self, value: float) -> str:
        """What lies beyond the ends has their color."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low and np.isfinite(value) else 0.0
        return self.colors[round(min(1.0, max(0.0, share)) * (_COLORS - 1))]

    def bar(self, label: str) -> str:
        """The scale itself, with the numbers at its ends."""
        if self.high <= self.low:
            return f'<div class="rv-scale">{escape(label)}: nothing is relevant enough to be drawn</div>'
        gradient = ",".join(self.colors[:: _COLORS // _STOPS])
        return (
            f'<div class="rv-scale"><span>{escape(label)}</span><span class="rv-end">{self.low:.3g}</span>'
            f'<span class="rv-gradient" style="background:linear-gradient(to right,{gradient})"></span>'
            f'<span class="rv-end">{self.high:.3g}</span></div>'
        )


def board(
    results: Sequence[Explanation],
    display: Display,
    *,
    waiting: Sequence[str] = (),
    titles: Sequence[str] = (),
    lines: Sequence[str] = (),
) -> str:
    """Maps side by side, results already reduced to the screen.

    waiting: models whose maps are still to come; their places are kept. titles: instead of the models' names, and then
    the answer's tokens are not for pressing. lines: one more line of words for each.
    """
    if display.one_scale:
        maps = [map_scale(results, display)] * len(results)
        words = [word_scale(results, display.colormap)] * len(results)
    else:
        maps = [map_scale([result], display) for result in results]
        words = [word_scale([result], display.colormap) for result in results]
    count = len(results) + len(waiting)
    columns = 2 if count == 4 else min(3, count)
    names = [*(titles or [result.model for result in results]), *waiting]
    cards = "".join(
        _card(
            number, result, display, maps[number], words[number], title=names[number], pressable=not titles,
            line=lines[number] if lines else "",
        )
        for number, result in enumerate(results)
    )  # fmt: skip
    cards += "".join(_place(title, results[0].image, running=title == waiting[0]) for title in waiting)
    shared = maps[0].bar("Patch relevance, one scale") if display.one_scale else ""
    return (
        f'<div class="rv-board"><div class="rv-bar">{_views()}{shared}</div>'
        f"{_slide(results[0].image, names)}"
        f'<div class="rv-cards" style="--rv-columns:{columns}">{cards}</div></div>'
    )


def map_scale(results: Sequence[Explanation], display: Display) -> Scale:
    """One scale for the maps of these results as they are drawn."""
    low, high = value_range([result.shown(smooth=display.smooth)[0] for result in results])
    return Scale(low, high, display.colormap)


def word_scale(results: Sequence[Explanation], colormap: str) -> Scale:
    """One scale for the words of these results; control tokens may lie beyond."""
    return Scale(*word_range([result.words() for result in results]), colormap)


def picture_uri(image: Image.Image) -> str:
    """A picture as the browser takes it inside HTML: no file is written for it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def spoken(token: str) -> str:
    """A token as a reader knows it."""
    text = token.replace("▁", " ").replace("<0x0A>", "\n").strip(" ")
    return text.replace("\n", "↵").replace("\t", "⇥") or "␣"


def percent(share: float) -> str:
    """A share as a reader knows it, small ones not rounded to nothing."""
    if not np.isfinite(share):
        return "–"
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{share:.1e}"


# -- parts


def _views() -> str:
    return (
        '<div class="rv-views" role="group" aria-label="View">'
        '<button type="button" data-view="side" aria-pressed="true">Side by side</button>'
        '<button type="button" data-view="slide" aria-pressed="false">Slide between</button></div>'
    )


def _slide(picture: Image.Image, names: Sequence[str]) -> str:
    """Two maps on top of each other and a slider; the script takes the maps from the cards."""
    second = 2 if len(names) > 1 else 0
    return (
        '<div class="rv-slide" hidden>'
        f'<img class="rv-plain" hidden alt="" src="{picture_uri(picture)}">'
        '<div class="rv-stage"><img class="rv-under" alt=""><img class="rv-over" alt=""><span class="rv-line"></span>'
        "</div>"
        '<input class="rv-range" type="range" min="0" max="100" value="50" aria-label="Slide between the two maps">'
        f'<div class="rv-sides">{_side("Left", names, 1)}{_side("Right", names, second)}</div></div>'
    )


def _side(label: str, names: Sequence[str], chosen: int) -> str:
    options = "".join(
        f'<option value="{number}"{" selected" if number == chosen else ""}>{escape(name)}</option>'
        for number, name in enumerate(["picture", *names])
    )
    return f'<label>{label} <select class="rv-{label.lower()}">{options}</select></label>'


def _card(
    number: int,
    result: Explanation,
    display: Display,
    map_colors: Scale,
    word_colors: Scale,
    *,
    title: str,
    pressable: bool,
    line: str,
) -> str:
    told = [] if result.evidence is None else [result.evidence.sentence]
    notes = "".join(f"<li>{escape(note)}</li>" for note in [*told, *result.notes])
    return (
        f'<section class="rv-card" aria-label="{escape(title)}"><h3>{escape(title)}</h3>'
        f"{_answer(number, result, pressable)}"
        f"{_map(result, display, map_colors, title)}"
        f"{'' if display.one_scale else map_colors.bar('Patch relevance')}"
        f"{f'<p class=rv-line-of>{escape(line)}</p>' if line else ''}"
        f"{_shares(result)}"
        f"{_words(result, word_colors)}"
        f"{f'<ul class=rv-notes>{notes}</ul>' if notes else ''}</section>"
    )


def _place(title: str, picture: Image.Image, *, running: bool) -> str:
    """Where a model's card will stand: the same lines, and as much room as its map takes."""
    state = "running" if running else "waiting for its turn"
    return (
        f'<section class="rv-card rv-place" aria-label="{escape(title)}"><h3>{escape(title)}</h3>'
        '<div class="rv-answer"><span class="rv-says">Answer</span><span class="rv-chip">…</span></div>'
        '<p class="rv-why">Its map will stand here.</p>'
        f'<div class="rv-soon" style="aspect-ratio:{picture.width}/{picture.height}"><img alt="">'
        f'<span class="rv-empty">{state}</span></div></section>'
    )


def _answer(number: int, result: Explanation, pressable: bool) -> str:
    """The answer, token by token, and which of them the map is about."""
    target = result.target
    chips = []
    for position, token in enumerate(result.answer_tokens):
        chosen = position in target.positions
        if pressable:
            chips.append(
                f'<button type="button" class="rv-chip" aria-pressed="{str(chosen).lower()}" data-model="{number}" '
                f'data-position="{position}" title="Show this token\'s map">{escape(spoken(token))}</button>'
            )
        else:
            chips.append(f'<span class="rv-chip{" rv-chosen" if chosen else ""}">{escape(spoken(token))}</span>')
    said = "".join(chips) or '<span class="rv-silent">says nothing</span>'
    why = f"Why “{escape(spoken(target.token))}”"
    if target.contrast is not None:
        why += f" rather than “{escape(spoken(target.contrast))}”"
    return (
        f'<div class="rv-answer"><span class="rv-says">Answer</span>{said}</div>'
        f'<p class="rv-why">{why} · probability <b>{percent(target.probability)}</b></p>'
    )


def _map(result: Explanation, display: Display, colors: Scale, title: str) -> str:
    heatmap, why = result.shown(smooth=display.smooth)
    drawn = overlay(
        result.image, heatmap, vmin=colors.low, vmax=colors.high, colormap=display.colormap, opacity=display.opacity
    )
    values = [float(f"{value:.4g}") if np.isfinite(value) else None for value in result.image_map.ravel()]
    x, y = (
        [round(float(edge) * 100 / length, 3) for edge in edges]
        for edges, length in ((result.grid.x_edges, result.grid.width), (result.grid.y_edges, result.grid.height))
    )
    label = escape(f"Map of {title}: arrow keys move from patch to patch")
    empty = f'<span class="rv-empty">{escape(why)}</span>' if why else ""
    return (
        f'<div class="rv-map" tabindex="0" role="application" aria-label="{label}" data-cols="{result.grid.cols}" '
        f"data-values='{json.dumps(values)}' data-x='{json.dumps(x)}' data-y='{json.dumps(y)}'>"
        f'<img alt="{escape(result.summary())}" src="{picture_uri(drawn)}" draggable="false">'
        f'<span class="rv-cell"></span>{empty}</div><p class="rv-read" aria-live="polite">{_HINT}</p>'
    )


def _shares(result: Explanation) -> str:
    """Where the relevance went: one bar, and its numbers."""
    parts = [(key, name, result.shares[key]) for key, name in _SHARES]
    bar = "".join(f'<span class="rv-{key}" style="width:{100 * share:.2f}%"></span>' for key, _, share in parts)
    legend = "".join(
        f'<li><span class="rv-dot rv-{key}"></span>{name} <b>{percent(share)}</b></li>' for key, name, share in parts
    )
    return (
        '<div class="rv-shares"><h4>Share of all relevance</h4>'
        f'<div class="rv-stack" aria-hidden="true">{bar}</div><ul>{legend}</ul></div>'
    )


def _words(result: Explanation, colors: Scale) -> str:
    total = float(np.nansum(result.relevance, dtype=np.float64))
    pieces, ground = "".join(_pieces(result, colors, total)), colors.color(colors.low)
    return (
        f'<details class="rv-prompt" open><summary>Words of the prompt</summary>{colors.bar("Word relevance")}'
        f'<div class="rv-words" style="background:{ground};color:{ink(ground)}">{pieces}</div>'
        f'<p class="rv-read" aria-live="polite">{_WORD_HINT}</p></details>'
    )


def _pieces(result: Explanation, colors: Scale, total: float) -> Iterator[str]:
    first = True
    tokens = zip(result.tokens, result.relevance.tolist(), result.is_image.tolist(), strict=True)
    for image, group in groupby(tokens, key=lambda token: token[2]):
        if image:
            yield f'<span class="rv-patches">{sum(1 for _ in group)} image tokens</span>'
            continue
        for token, value, _ in group:
            special = bool(SPECIAL.fullmatch(token.strip())) and token != "<0x0A>"
            color = colors.color(value)
            share = value / total if total > 0 else float("nan")
            yield (
                f"{' ' if special or token.startswith(('▁', ' ')) else ''}"
                f'<button type="button" class="rv-word{" rv-special" if special else ""}" '
                f'tabindex="{0 if first else -1}" style="background:{color};color:{ink(color)}" '
                f'data-value="{value:.4g}" data-share="{percent(share)}">{escape(spoken(token))}</button>'
                f"{'<br>' if spoken(token).endswith('↵') else ''}"
            )
            first = False


def ink(color: str) -> str:
    """Black or white, whichever has more contrast with this color, at least 4.5 to 1 (WCAG's relative luminance)."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return "#000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "#fff"

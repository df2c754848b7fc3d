"""The page's gallery: a card for each chosen row."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from relevancy.plotting.overlay import COLORMAP, SIGNED, named_colormap
from relevancy.report import words
from relevancy.report.gallery import Card, DrawnMap, Shelf
from relevancy.report.pieces import cut, heading
from relevancy.report.words import MEASURES

_STOPS = 9  # of the color scale's drawing


def gallery(shelves: Sequence[tuple[Shelf, tuple[Card, ...]]]) -> str:
    """All shelves, under the color scales of their maps."""
    under = (
        "Chosen by number, not by eye, and no picture twice for one reason. All maps of a row share one color scale."
    )
    signs = {card.signed for _, cards in shelves for card in cards}
    scales = _scale(COLORMAP, "none", "the row’s most relevant place") if signs != {True} else ""
    if True in signs:
        scales += _scale(SIGNED, "speaks against the answer", "for it")
    return heading("Gallery", under) + scales + "".join(_shelf(*each) for each in shelves)


def _scale(colormap: str, low: str, high: str) -> str:
    table = named_colormap(colormap)
    colors = [[round(255 * part) for part in table(stop / (_STOPS - 1))[:3]] for stop in range(_STOPS)]
    stops = ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in colors)
    return f'<div class="colors">{low}<i style="background:linear-gradient(90deg, {stops})"></i>{high}</div>'


def _shelf(shelf: Shelf, cards: Sequence[Card]) -> str:
    shown = "".join(_card(card, shelf) for card in cards)
    if not cards:
        shown = f'<p class="small">{"None asked for." if shelf.candidates else "There is no such row."}</p>'
    counted = f"{len(cards)} of n = {shelf.candidates:,}." if cards else ""
    return (
        f'<div class="shelf"><h3>{escape(shelf.title)}</h3><p class="small">{escape(shelf.reason)} {counted}</p>'
        f'<div class="deck">{shown}</div></div>'
    )


def _card(card: Card, shelf: Shelf) -> str:
    owner = "" if card.chosen_from is None else f" of {escape(card.chosen_from)}"
    facts = [
        f"truth: {cut(card.expected)}" if card.expected is not None else "",
        f"{_measured(shelf.measure, card.value)}{owner}",
        f"row {cut(card.id, 60)}",
    ]
    if card.picture is None:
        first = f'<div class="gone">{cut(str(card.missing), 300)}</div>'
    else:
        first = f'<img alt="the picture" src="{card.picture}"><figcaption>picture</figcaption>'
    return (
        f'<div class="card"><p class="question">{cut(card.question)}</p>'
        f'<p class="small num">{" · ".join(filter(None, facts))}</p>'
        f'<div class="shots"><figure>{first}</figure>{"".join(_shot(seen) for seen in card.seen)}</div></div>'
    )


def _measured(measure: str, value: float) -> str:
    if measure == "divergence":
        return f"divergence {value:.3f} bits"
    return f"{MEASURES[measure].title.lower()} {_share(value)}"


def _share(value: float) -> str:
    """A share of one row, which may be very small or very near to one."""
    return f"{value:.2%}" if value < 0.01 or value > 0.99 else words.level(value, True)


def _shot(seen: DrawnMap) -> str:
    mark = {True: ' <span class="right">✓ right</span>', False: ' <span class="wrong">✗ wrong</span>', None: ""}
    facts = [
        f"{title} {_share(number)}"
        for title, number in (("probability", seen.probability), ("image share", seen.image_share))
        if number is not None
    ]
    return (
        f'<figure><img alt="map of {escape(seen.model)}" src="{seen.drawn}"><figcaption>'
        f'<span class="who">{escape(seen.model)}</span>{mark[seen.correct]}<br>“{cut(seen.answer, 90)}”<br>'
        f'<span class="n num">{"<br>".join(facts)}</span></figcaption></figure>'
    )

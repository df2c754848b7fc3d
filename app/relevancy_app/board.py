"""Results as HTML: maps with their answers, shares and words, and every number that the browser draws them from."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from itertools import groupby, pairwise

import numpy as np
from PIL import Image

from relevancy import Explanation
from relevancy.explanations.evidence import Evidence
from relevancy.explanations.knockouts import Areas
from relevancy.explanations.picture_map import PictureMap
from relevancy.explanations.turn_share import TurnShare
from relevancy.geometry import Grid
from relevancy.metrics.patch_order import seen
from relevancy.plotting.overlay import FLOOR, colormap_for, percent, why_empty
from relevancy.token_text import is_control, readable, spells_bytes
from relevancy_app.asking import Display
from relevancy_app.settings import COLORMAPS, MOST_TOKENS

_JPEG = 92
_COLORS = 256  # in a scale
_SHARES = (("image", "picture"), ("text", "words"), ("first_token", "first token"))
_AREAS = {
    "blind": "whole picture", "best": "map’s best eighth", "peak": "around its peak", "elsewhere": "elsewhere"
}  # fmt: skip
_HINT = "Arrow keys move, P finds the peak, + and − zoom."
_WORD_HINT = "Press a word to read its number."
_UNSEEN = 1e-6  # of a picture's area: less is rounding


def board(
    results: Sequence[Explanation],
    *,
    waiting: Sequence[str] = (),
    titles: Sequence[str] = (),
    lines: Sequence[str] = (),
    tokens: Sequence[Mapping[int, Explanation]] = (),
    own_scales: bool = False,
    above: str = "",
    brief: bool = False,
) -> str:
    """Maps side by side, results already reduced to the screen; the board's script colors them.

    waiting: models whose maps are still to come; their places are kept. titles: instead of the models' names, and then
    the answer's tokens are not for pressing. lines: one more line of words for each. tokens: for each, the results of
    its answer's tokens that are there, by position, to be looked at without asking the server. own_scales: the numbers
    are not of one kind, so that one scale for all would say nothing. above: HTML that stands above the maps.
    brief: maps alone, small ones.
    """
    count = len(results) + len(waiting)
    columns = 2 if count == 4 else min(3, count)
    names = [*(titles or [result.model for result in results]), *waiting]
    cards = "".join(
        _card(
            number,
            result,
            title=names[number],
            pressable=not titles,
            line=lines[number] if lines else "",
            tokens=tokens[number] if tokens else {},
            brief=brief,
        )
        for number, result in enumerate(results)
    )
    cards += "".join(_place(title, results[0], running=title == waiting[0]) for title in waiting)
    return (
        f'<div class="rv-board"{" data-own" if own_scales else ""}>{above}<div class="rv-bar">{_views()}'
        f"{_scale('map', 'One scale', shared=True)}</div>{_slide(results[0], names)}"
        f'<div class="rv-cards{" rv-brief" if brief else ""}" style="--rv-columns:{columns}">{cards}</div></div>'
    )


def tables() -> str:
    """How maps are drawn at first, and every color table that the page offers, for its scripts.

    A table is base64 of red, green, blue from the lowest on, by name; the default has one more for signed numbers.
    """
    named = {name: colormap_for(name, 0.0) for name in COLORMAPS} | {"signed": colormap_for(COLORMAPS[0], -1.0)}
    colors = {
        name: base64.b64encode(table(np.linspace(0, 1, _COLORS), bytes=True)[:, :3].tobytes()).decode()
        for name, table in named.items()
    }
    first = json.dumps(asdict(Display()))
    return f"<span id=\"rv-tables\" hidden data-tables='{json.dumps(colors)}' data-first='{first}'></span>"


def picture_uri(image: Image.Image) -> str:
    """A picture as the browser takes it inside HTML: no file is written for it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def edges_in_percent(grid: Grid) -> tuple[list[float], list[float]]:
    """Where a grid's columns and rows begin and end, in percent of the picture's sides."""
    x, y = (
        [round(float(edge) * 100 / length, 4) for edge in edges]
        for edges, length in ((grid.x_edges, grid.width), (grid.y_edges, grid.height))
    )
    return x, y


def spoken(text: str) -> str:
    """A token's text as a reader knows it."""
    return text.strip(" ").replace("\n", "↵").replace("\t", "⇥") or "␣"


def told(share: float) -> str:
    """A share as a reader knows it."""
    return percent(share) if np.isfinite(share) else "–"


def tokens_spoken(tokens: Sequence[str]) -> list[str]:
    """Each token of an answer on its own, as a reader knows it; a part of a character is told by its number."""
    by_bytes = spells_bytes(tokens)
    texts = ("".join(text for text, _ in readable([(token, 0.0)], by_bytes=by_bytes)) for token in tokens)
    return [
        token if set(text) <= {"\ufffd"} else spoken(text) for token, text in zip(tokens, texts, strict=True)
    ]  # fmt: skip


def token_spoken(token: str) -> str:
    """One token's text as a reader knows it."""
    return spoken(token.replace("▁", " "))


# -- parts


def _views() -> str:
    views = "".join(
        f'<button type="button" data-view="{view}" aria-pressed="{str(view == "side").lower()}">{label}</button>'
        for view, label in (("side", "Side by side"), ("slide", "Slide between"))
    )
    tools = "".join(
        f'<button type="button" data-tool="{tool}" title="{title}"{named}>{sign}</button>'
        for tool, sign, title, named in (
            ("in", "+", "Larger", ' aria-label="Zoom in"'), ("out", "−", "Smaller", ' aria-label="Zoom out"'),
            ("whole", "Whole", "Show the whole picture", ""), ("peak", "Peak", "Point at each map's highest patch", ""),
        )
    )  # fmt: skip
    return (
        f'<div class="rv-views" role="group" aria-label="View">{views}</div>'
        f'<div class="rv-views" role="group" aria-label="Zoom and peak">{tools}</div>'
    )


def _scale(kind: str, label: str, *, shared: bool = False) -> str:
    """A scale's place; the script fills in colors and ends."""
    common = " data-shared" if shared else ""
    return f'<div class="rv-scale" data-scale="{kind}"{common} data-label="{escape(label)}"></div>'


def _slide(shown: Explanation, names: Sequence[str]) -> str:
    """Two maps on top of each other and a slider; the script takes the maps from the cards."""
    second = 2 if len(names) > 1 else 0
    plain = "".join(f'<img class="rv-plain" hidden alt="" src="{picture_uri(one.image)}">' for one in shown.pictures)
    which = ""
    if len(shown.pictures) > 1:
        options = "".join(f'<option value="{n}">{n + 1}</option>' for n in range(len(shown.pictures)))
        which = f'<label>Picture <select class="rv-which">{options}</select></label>'
    return (
        f'<div class="rv-slide" hidden>{plain}'
        f'<div class="rv-stage" style="{_shape(shown.image)}"><canvas class="rv-under"></canvas>'
        '<canvas class="rv-over"></canvas><span class="rv-line"></span></div>'
        '<input class="rv-range" type="range" min="0" max="100" value="50" aria-label="Slide between the two maps">'
        f'<div class="rv-sides">{which}{_side("Left", names, 1)}{_side("Right", names, second)}</div></div>'
    )


def _shape(picture: Image.Image) -> str:
    return f"--rv-aspect:{picture.width / picture.height:.5g}"


def _side(label: str, names: Sequence[str], chosen: int) -> str:
    options = "".join(
        f'<option value="{number}"{" selected" if number == chosen else ""}>{escape(name)}</option>'
        for number, name in enumerate(["picture", *names])
    )
    return f'<label>{label} <select class="rv-{label.lower()}">{options}</select></label>'


def _card(
    number: int,
    result: Explanation,
    *,
    title: str,
    pressable: bool,
    line: str,
    tokens: Mapping[int, Explanation],
    brief: bool,
) -> str:
    if brief:
        shown = f"{_maps(result, title, brief=True)}{_scale('map', '')}<p class=rv-line-of>{escape(line)}</p>"
        return f'<section class="rv-card" aria-label="{escape(title)}"><h2>{escape(title)}</h2>{shown}</section>'
    bodies = {position: _body(number, other, title, pressable, "") for position, other in tokens.items()}
    return (
        f'<section class="rv-card" aria-label="{escape(title)}"><h2>{escape(title)}</h2>'
        f"{_answer(number, result, pressable, bodies)}{_body(number, result, title, pressable, line)}</section>"
    )


def _body(number: int, result: Explanation, title: str, pressable: bool, line: str) -> str:
    """All that a card says of the explained token."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in result.notes)
    return (
        f'<div class="rv-body"><p class="rv-why">{_why(result)}</p>'
        f"{_next(number, result) if pressable else ''}"
        f"{_maps(result, title, hinted=not number)}"
        f"{_scale('map', 'Patch relevance')}"
        f"{_copies(number, result) if pressable else ''}"
        f"{_evidence(result)}"
        '<p class="rv-dim" hidden></p>'
        f"{f'<p class=rv-line-of>{escape(line)}</p>' if line else ''}"
        f"{_shares(result)}"
        f"{_words(result)}"
        f"{f'<ul class=rv-notes>{notes}</ul>' if notes else ''}"
        f'<p class="rv-how">{escape(result.how)}</p></div>'
    )


def _copies(number: int, result: Explanation) -> str:
    """What can be taken along: the map as it is drawn, the Python that makes it, the answer to the next question."""
    return (
        '<div class="rv-copies"><button type="button" data-copy="picture">Copy picture</button>'
        f'<button type="button" data-copy="python" data-python="{escape(result.code)}">Copy as Python</button>'
        f'<button type="button" data-further="{number}" title="The next question goes on from this answer">'
        "Ask further</button></div>"
    )


def _evidence(result: Explanation) -> str:
    """What knocking out parts of the picture says of this very map, in words, and as pictures where there is one."""
    evidence = result.evidence
    if evidence is None:
        return ""
    kind = evidence.verdict.replace(" ", "-")
    if len(result.pictures) != 1:
        return f'<p class="rv-evidence rv-is-{kind}">{escape(evidence.sentence)}</p>'
    areas = groupby(Areas.of(result.image_map).named(), key=lambda one: one[0])
    shown = "".join(_area(evidence, name, [mask for _, mask in some]) for name, some in areas)
    token = escape(token_spoken(result.target.token))
    return (
        f'<p class="rv-evidence rv-is-{kind}">{escape(evidence.claim)}</p>'
        f'<div class="rv-areas" role="group" aria-label="What was knocked out"><p class="rv-says">How likely “{token}” '
        f"is ({told(evidence.probability)}) with these patches knocked out of attention:</p>{shown}</div>"
    )


def _area(evidence: Evidence, name: str, masks: Sequence[np.ndarray]) -> str:
    """One part of the picture, or several that were knocked out one by one, and what became of the token."""
    cells = np.flatnonzero(np.logical_or.reduce(masks)).tolist()
    chance, said = getattr(evidence, name), evidence.says.get(name, "")
    other = f"<small>mean of {len(masks)}</small>" if len(masks) > 1 else ""
    if len(masks) == 1 and said != evidence.says.get("untouched", said):
        other = f"<small>says “{escape(spoken(said))}”</small>"
    return (
        f'<button type="button" class="rv-area" aria-pressed="false" data-cells="{json.dumps(cells)}" '
        f'title="Outline it on the map"><canvas aria-hidden="true"></canvas><span>{_AREAS[name]}</span>'
        f'<span class="rv-chance"><span style="width:{100 * chance:.1f}%"></span></span><b>{told(chance)}</b>{other}'
        "</button>"
    )


def _place(title: str, shown: Explanation, *, running: bool) -> str:
    """Where a model's card will stand: the same lines, and as much room as its maps take."""
    state = "running" if running else "waiting for its turn"
    soon = "".join(
        f'<div class="rv-soon" style="{_shape(one.image)}"><img alt=""><span class="rv-empty">{state}</span></div>'
        for one in shown.pictures
    )
    return (
        f'<section class="rv-card rv-place" aria-label="{escape(title)}"><h2>{escape(title)}</h2>'
        '<div class="rv-answer"><span class="rv-says">Answer</span><span class="rv-chip">…</span></div>'
        '<p class="rv-why">Its map will stand here.</p>'
        f'<div class="rv-pictures">{soon}</div></section>'
    )


def _answer(number: int, result: Explanation, pressable: bool, bodies: Mapping[int, str]) -> str:
    """The answer, token by token, and which of them the map is about; each holds what is to be seen of it, if known."""
    target = result.target
    chips, before = [], ""
    for position, text in enumerate(tokens_spoken(result.answer_tokens)):
        chosen, raw = position in target.positions, result.answer_tokens[position]
        joined = " rv-joined" if before[-1:].isalnum() and raw[:1].isalnum() else ""
        before = raw
        held = f' data-body="{escape(bodies[position])}"' if position in bodies and not chosen else ""
        if pressable:
            chips.append(
                f'<button type="button" class="rv-chip{joined}" aria-pressed="{str(chosen).lower()}" '
                f'data-model="{number}" data-position="{position}" title="Show this token\'s map"'
                f"{held}>"
                f"{escape(text)}</button>"
            )
        else:
            chips.append(f'<span class="rv-chip{joined}{" rv-chosen" if chosen else ""}">{escape(text)}</span>')
    said = "".join(chips) or '<span class="rv-silent">says nothing</span>'
    all_at_once = " data-expandable" if pressable and 1 < len(chips) <= MOST_TOKENS else ""
    return f'<div class="rv-answer"{all_at_once}><span class="rv-says">Answer</span>{said}</div>'


def _why(result: Explanation) -> str:
    target = result.target
    why = f"Why “{escape(token_spoken(target.token))}”"
    if target.contrast is not None:
        why += f" rather than “{escape(token_spoken(target.contrast))}”"
    return f"{why} · probability <b>{told(target.probability)}</b>"


def _next(number: int, result: Explanation) -> str:
    """What else the model could have said there; each can be pressed: why not that one?"""
    target = result.target
    others = "".join(
        f'<button type="button" class="rv-other" aria-pressed="{str(one.id == target.contrast_id).lower()}" '
        f'data-model="{number}" data-position="{target.position}" data-against="{one.id}" '
        f'title="Why not this one?">{escape(token_spoken(one.token))} <b>{told(one.probability)}</b></button>'
        for one in target.alternatives
    )
    return f'<div class="rv-next"><span class="rv-says">Next best</span>{others}</div>' if others else ""


def _maps(result: Explanation, title: str, *, brief: bool = False, hinted: bool = False) -> str:
    """Every picture's map; of several, each with its number and its share of all relevance.

    brief: one of many, of which a faint one is dark beside the others. hinted: whether it says how maps are read.
    """
    several, floor = len(result.pictures) > 1, 0 if brief else FLOOR
    maps = ""
    for number, picture in enumerate(result.pictures):
        place = f"{'Picture' if picture.video is None else 'Frame'} {number + 1}"
        name = f"{title}, {place.lower()}" if several else title
        head = f"<h3>{place} · <b>{told(picture.share)}</b></h3>" if several else ""
        hint = _HINT if hinted and not number else ""
        maps += f"<div>{head}{_map(number, picture, name, result.summary(), floor, hint)}</div>"
    return f'<div class="rv-pictures">{maps}</div>'


def _map(number: int, picture: PictureMap, name: str, summary: str, floor: float, hint: str) -> str:
    """The place of a map, and all that its drawing needs: values, and where patches lie, in percent of the picture."""
    values, grid = [_number(value) for value in picture.image_map.ravel().tolist()], picture.grid
    x, y = edges_in_percent(grid)
    why = why_empty(picture.image_map.ravel()[seen(grid)], picture.share, floor)
    label = escape(f"Map of {name}: arrow keys move from patch to patch")
    empty = f'<span class="rv-empty">{escape(why)}</span>' if why else ""
    legend = ""
    if grid.unseen > _UNSEEN:
        legend = '<p class="rv-legend"><span class="rv-hatch"></span>hatched: never seen by the model</p>'
    return (
        f'<div class="rv-map" tabindex="0" role="application" aria-label="{label}" style="{_shape(picture.image)}" '
        f'data-picture="{number}" data-cols="{grid.cols}" data-values=\'{json.dumps(values)}\' '
        f"data-x='{json.dumps(x)}' data-y='{json.dumps(y)}'>"
        f'<div class="rv-layer"><canvas role="img" aria-label="{escape(summary)}"></canvas>'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true"><path d=""></path></svg>'
        f'<span class="rv-cell"></span></div>{empty}</div>{legend}'
        f'<p class="rv-read" aria-live="polite">{hint}</p>'
    )


def _ends(values: Iterable[float]) -> list[float]:
    """The lowest and the highest of the numbers and zero, those that are none left out."""
    finite = [0.0, *(float(value) for value in values if np.isfinite(value))]
    return [_digits(min(finite)), _digits(max(finite))]


def _number(value: float) -> float | None:
    return _digits(value) if np.isfinite(value) else None


def _digits(value: float) -> float:
    return float(f"{value:.6g}")


def _shares(result: Explanation) -> str:
    """Where the relevance went: one bar, and its numbers."""
    parts = [(key, name, result.shares[key]) for key, name in _SHARES]
    bar = "".join(f'<span class="rv-{key}" style="width:{100 * share:.2f}%"></span>' for key, _, share in parts)
    legend = "".join(
        f'<li><span class="rv-dot rv-{key}"></span>{name} <b>{told(share)}</b></li>' for key, name, share in parts
    )
    return (
        '<div class="rv-shares"><h3>Share of all relevance</h3>'
        f'<div class="rv-stack" aria-hidden="true">{bar}</div><ul>{legend}</ul></div>'
    )


def _words(result: Explanation) -> str:
    words = result.words()
    plain = [value for token, value in words if not is_control(token)]
    low, high = _ends(plain)
    if low == high:  # control tokens set no scale, unless there is nothing else
        low, high = _ends(value for _, value in words)
    return (
        f"<details class=\"rv-prompt\" open data-ends='{json.dumps([low, high])}'>"
        f"<summary>Words of the prompt</summary>{_scale('words', 'Word relevance')}"
        f'<div class="rv-words" tabindex="-1">{"".join(_pieces(result))}</div>'
        f'<p class="rv-read" aria-live="polite">{_WORD_HINT}</p></details>'
    )


def _pieces(result: Explanation) -> Iterator[str]:
    """Words and places of pictures in their order; of a conversation each turn begins with who speaks."""
    first = True
    total = float(np.nansum(np.abs(result.relevance), dtype=np.float64))
    by_bytes = spells_bytes(result.tokens)
    turns = result.turns()
    begun = _beginnings(result, turns) if len(turns) > 1 else []
    speaking = np.searchsorted(begun, np.arange(len(result.tokens)), side="right").tolist()
    tokens = zip(speaking, result.tokens, result.relevance.tolist(), result.is_image.tolist(), strict=True)
    spoken_of = 0
    for (turn, image), group in groupby(tokens, key=lambda token: (token[0], token[3])):
        if turn > spoken_of:
            yield _speaker(turns[turn - 1])
            spoken_of = turn
        if image:
            whose = "the picture" if len(result.pictures) == 1 else "pictures"
            yield f' <span class="rv-patches">{sum(1 for _ in group)} tokens of {whose}</span> '
            continue
        for text, value in readable([(token, value) for _, token, value, _ in group], by_bytes=by_bytes):
            special, blank = is_control(text), text == " "
            share = abs(value) / total if total > 0 else float("nan")
            yield (
                f"{' ' if not blank and (special or text.startswith(' ')) else ''}"
                f'<button type="button" class="rv-word{" rv-special" if special else ""}" '
                f'tabindex="{0 if first else -1}" data-value="{value:.4g}" data-share="{told(share)}"'
                f"{' aria-label=space>&nbsp;' if blank else '>' + escape(spoken(text))}</button>"
                f"{'<br>' if text.endswith(chr(10)) else ''}"
            )
            first = False


def _beginnings(result: Explanation, turns: Sequence[TurnShare]) -> list[int]:
    """Where each turn begins among the tokens; what the model's template writes before its words is part of it."""
    found = [0]
    for (now, said), (later, _) in pairwise(zip(turns, result.conversation, strict=True)):
        end = max(now.places, default=found[-1] - 1) + 1
        until = min(later.places, default=len(result.tokens))
        if said.parts and not isinstance(said.parts[-1], str):  # its last picture stands behind its words
            end += int(np.flatnonzero(result.is_image[end:until]).max(initial=-1)) + 1
        found.append(end)
    return found


def _speaker(turn: TurnShare) -> str:
    """Who speaks, and the share of it."""
    who = {"system": "System", "user": "User", "assistant": "Model"}[turn.role]
    return f'<span class="rv-speaker">{who} · <b>{told(turn.share)}</b></span>'

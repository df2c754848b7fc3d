"""Everything around the maps as HTML: first steps, agreement, what became of an answer, the picture to draw on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from relevancy import Explanation
from relevancy.explanations.agreement import MEANINGS
from relevancy.explanations.comparison import Comparison
from relevancy_app.actions import DRAWN, LEAST, MOST, PATCHES, Hidden
from relevancy_app.board import edges_in_percent, picture_uri, token_spoken, told
from relevancy_app.session import Session

_NAMES = {"rank_correlation": "Rank correlation", "top_overlap": "Top-tenth overlap", "divergence": "Divergence"}
_SHOWN = {"rank_correlation": "{:+.2f}", "top_overlap": "{:.0%}", "divergence": "{:.2f} bit"}
_SIDES = ("left", "top", "right", "bottom")
_LONGEST = 60
_THUMBNAIL = 120  # pixels
_FIRST_BOX = (30, 30, 70, 70)


def welcome() -> str:
    """What stands where results will be."""
    steps = (
        ("Pick a picture", "An example is there already. Upload, paste or photograph your own."),
        ("Ask about it", "Type a question, or pick one below the field."),
        ("Press Explain", "See which patches and which words made each model say that."),
    )
    items = "".join(f"<li><b>{title}</b><span>{text}</span></li>" for title, text in steps)
    return f'<div class="rv-welcome"><ol>{items}</ol></div>'


def examples(pictures: Sequence[Image.Image]) -> str:
    """Pictures to begin with, each a button."""
    buttons = "".join(
        f'<button type="button" data-example="{number}" title="Example {number}"><img alt="Example {number}" '
        f'src="{picture_uri(_smaller(picture, _THUMBNAIL))}"></button>'
        for number, picture in enumerate(pictures)
    )
    return f'<div class="rv-examples" role="group" aria-label="Example pictures">{buttons}</div>'


def strip(pictures: Sequence[tuple[str, Image.Image]]) -> str:
    """Pictures beside the first one, by the names by which the browser knows them, and what changes their order."""
    places = "".join(_in_strip(number, *one, len(pictures)) for number, one in enumerate(pictures))
    return f'<ol class="rv-strip" aria-label="Further pictures">{places}</ol>' if pictures else ""


def _in_strip(number: int, place: str, picture: Image.Image, count: int) -> str:
    name = f"Picture {number + 2}"
    buttons = "".join(
        f'<button type="button" data-move="{move}" data-number="{number}" aria-label="{name}: {label}"'
        f' title="{label}"{"" if possible else " disabled"}>{sign}</button>'
        for move, sign, label, possible in (
            ("earlier", "←", "one place earlier", True), ("later", "→", "one place later", number + 1 < count),
            ("remove", "×", "remove it", True),
        )
    )  # fmt: skip
    return (
        f'<li data-place="{escape(place)}"><img alt="{name}" src="{picture_uri(_smaller(picture, _THUMBNAIL))}">'
        f'<span>{name}</span><span class="rv-strip-tools">{buttons}</span></li>'
    )


def _smaller(picture: Image.Image, side: int) -> Image.Image:
    small = picture.copy()
    small.thumbnail((side, side))
    return small


def status(last: Session, deepest: int, said: str = "") -> str:
    """What the results are about, in one line, and for the page's script what was asked.

    deepest: the number of the last layer that can be asked for. said: what comes before it.
    """
    ask, count = last.ask, len(last.sources)
    several = f"{count} {'frames of a video' if ask.video else 'pictures'}"
    size = several if count > 1 or ask.video else f"{last.picture.width} × {last.picture.height} pixels"
    parts = [f"“{escape(ask.question)}”", size, escape(ask.made)]
    busy = "" if last.whole else ' aria-busy="true"'
    kept = f' data-run="{last.kept}"' if last.kept else ""
    end = deepest if ask.last_layer is None else ask.last_layer
    asked = {
        "names": [
            "picture", "question", "models", "target", "scope", "method", "first layer", "last layer", "conversation",
            "further pictures",
        ],
        "values": [
            last.place, ask.question, list(ask.models), ask.target, ask.scope, ask.method, ask.first_layer, end,
            [ask.system, ask.video, *ask.earlier], list(last.other_places),
        ],
    }  # fmt: skip
    return (
        f'<div class="rv-status"{busy}{kept} data-asked="{escape(json.dumps(asked))}"><p>{said}{" · ".join(parts)}</p>'
        '<p class="rv-outdated" role="status"></p></div>'
    )


def ready() -> str:
    """The status line before there is anything to say."""
    return '<div class="rv-status"><p>Ready.</p></div>'


def stopped(last: Session | None, deepest: int) -> str:
    """The status line after Cancel."""
    said = "Stopped. What was there by then is still on the screen"
    return f'<div class="rv-status"><p>{said}.</p></div>' if last is None else status(last, deepest, f"{said}: ")


def agreement(comparison: Comparison | None) -> str:
    """How far the maps agree, each number with what it means, and who would say whose answer."""
    if comparison is None:
        return '<p class="rv-quiet">Choose two models to see how far their maps agree.</p>'
    pairs = comparison.agreement
    heads = "".join(f'<th scope="col">{escape(" – ".join(pair.models))}</th>' for pair in pairs)
    rows = "".join(
        f'<tr><th scope="row">{_NAMES[key]}<small>{escape(meaning)}</small></th>'
        + "".join(f"<td>{_number(_SHOWN[key], getattr(pair, key))}</td>" for pair in pairs)
        + "</tr>"
        for key, meaning in MEANINGS.items()
    )
    tokens = [token_spoken(one.target.token) for one in comparison.explanations]
    differ = ""
    if len({one.casefold() for one in tokens}) > 1:
        named = ", ".join(
            f"{escape(one.model)} “{escape(token)}”" for one, token in zip(comparison.explanations, tokens, strict=True)
        )
        differ = f"<small>The maps are of different tokens ({named}), so they may differ for that alone.</small>"
    same = "".join(f"<td>{'yes' if pair.same_answer else 'no'}</td>" for pair in pairs)
    rows += f'<tr><th scope="row">Same answer<small>Do both say the same, in the same words?</small></th>{same}</tr>'
    return (
        f'<div class="rv-tables{" rv-many" if len(pairs) > 1 else ""}"><div class="rv-scroll" tabindex="0">'
        '<table class="rv-table"><caption>Do the maps agree?'
        f"{differ}</caption><thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{_answers(comparison)}</div>"
    )


def _answers(comparison: Comparison) -> str:
    """Who would say whose answer; nothing when that was not read."""
    if not comparison.likelihoods:
        return ""
    results = comparison.explanations
    heads = "".join(
        f'<th scope="col">“{escape(_short(one.answer))}”<small>{escape(one.model)}</small></th>' for one in results
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(result.model)}</th>'
        + "".join(
            f"<td{' class=rv-own' if column == number else ''}>{told(chance.per_token) if chance else '–'}</td>"
            for column, chance in enumerate(row)
        )
        + "</tr>"
        for number, (result, row) in enumerate(zip(results, comparison.likelihoods, strict=True))
    )
    return (
        '<div class="rv-scroll" tabindex="0"><table class="rv-table">'
        "<caption>How likely does each model find each answer?"
        "<small>Mean probability per token, the answer forced upon the model.</small></caption>"
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def marker(results: Sequence[Explanation]) -> str:
    """The picture to mark a part of, and what to hide: a rectangle, patches of one of the maps, or a tenth of each."""
    picture, grids = results[0].image, _grids(results)
    whose = ""
    if len(grids) > 1:
        options = "".join(f"<option>{escape(', '.join(grid['names']))}</option>" for grid in grids)
        whose = f'<label>Patches of <select class="rv-whose">{options}</select></label>'
    several = "<p>Of the pictures, the first one is changed.</p>" if len(results[0].pictures) > 1 else ""
    modes = "".join(
        f'<button type="button" data-mode="{mode}" aria-pressed="{str(mode == DRAWN).lower()}">{label}</button>'
        for mode, label in ((DRAWN, "Rectangle"), (PATCHES, "Patches"))
    )
    fields = "".join(
        f'<label>{side.capitalize()} %<input type="number" min="0" max="100" step="1" value="{value}" '
        f'data-side="{side}"></label>'
        for side, value in zip(_SIDES, _FIRST_BOX, strict=True)
    )
    hide, patches, most, least = (
        f'<button type="button" class="rv-do" data-part="{part}"{state}>{text}</button>'
        for part, text, state in (
            (DRAWN, "Hide the rectangle", ""),
            (PATCHES, "Hide the marked patches", " disabled"),
            (MOST, "Hide the most relevant tenth", ""),
            (LEAST, "Hide the least relevant tenth", ""),
        )
    )
    lines = "".join(f'<path class="{name}" d=""></path>' for name in ("rv-lines-of", "rv-marks-of", "rv-cursor"))
    return (
        f"<div class=\"rv-marker\" data-grids='{escape(json.dumps(grids))}'>"
        f'<div class="rv-canvas" style="--rv-aspect:{picture.width / picture.height:.5g}" tabindex="-1" '
        'role="application" aria-label="Patches: arrow keys move, space marks">'
        f'<img alt="The picture to draw on" draggable="false" src="{picture_uri(picture)}">'
        '<span class="rv-rect"></span>'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{lines}</svg></div>'
        f'<div class="rv-fields">{several}<div class="rv-views" role="group" aria-label="What to mark">{modes}</div>'
        '<div class="rv-fields" data-for="drawn"><p>Draw a rectangle on the picture, or set its sides:</p>'
        f'<div class="rv-sides">{fields}</div>{hide}</div>'
        '<div class="rv-fields" data-for="patches" hidden><p>Press patches, or drag over them; on the keyboard arrows '
        f'and space.</p>{whose}<p role="status" data-count></p>{patches}'
        '<button type="button" class="rv-do" data-unmark>Unmark all</button></div>'
        f"{most}{least}</div></div>"
    )


def _grids(results: Sequence[Explanation]) -> list[dict[str, Any]]:
    """The different grids of some maps, in percent of the picture: of which result first, and of which models."""
    found: dict[str, dict[str, Any]] = {}
    for number, result in enumerate(results):
        x, y = edges_in_percent(result.grid)
        own = found.setdefault(json.dumps([x, y]), {"of": number, "names": [], "x": x, "y": y})
        own["names"].append(result.model)
    return list(found.values())


def no_marker() -> str:
    """What stands in the marker's place before there is a result."""
    return '<p class="rv-quiet">Press Explain first; then hide a part and see the answer’s probability move.</p>'


def changes(found: Sequence[Hidden], question: str, screen_side: int) -> str:
    """Each model's answer with and without the hidden part: pictures, numbers, bars."""
    cards = "".join(_change(one, screen_side) for one in found)
    return f'<p class="rv-quiet">“{escape(_short(question))}”</p><div class="rv-changes">{cards}</div>'


def _change(one: Hidden, screen_side: int) -> str:
    pictures, chances = [("part hidden", one.image)], [("whole picture", one.before), ("part hidden", one.after)]
    if one.elsewhere is not None:
        image, chance = one.elsewhere
        pictures.append(("as much elsewhere", image))
        chances.append(("as much elsewhere", chance))
    bars = "".join(
        f'<div><dt>{name}</dt><dd><span class="rv-chance"><span style="width:{100 * chance:.1f}%"></span></span>'
        f"<b>{told(chance)}</b></dd></div>"
        for name, chance in chances
    )
    shown = "".join(
        f'<figure><img alt="The picture as {escape(one.model)} saw it, {name}" '
        f'src="{picture_uri(_smaller(image, screen_side // 2))}"><figcaption>{name}</figcaption></figure>'
        for name, image in pictures
    )
    moved = round(100 * (one.after - one.before), 1) + 0.0  # never -0.0
    same = one.new_answer == one.answer
    now = "It still says the same." if same else f"Now it says “{escape(_short(one.new_answer))}”."
    unseen = ""
    if not one.seen:
        unseen = (
            "<p>The model never saw this part of the picture (hatched on the map), so hiding it changes nothing.</p>"
        )
    return (
        f'<section class="rv-change"><div class="rv-seen">{shown}</div>'
        f"<div><h2>{escape(one.model)}</h2><p>Says “{escape(_short(one.answer))}” with probability</p><dl>{bars}</dl>"
        f'<p class="rv-moved">{moved:+.1f} points</p><p class="rv-now">{now}</p>{unseen}</div></section>'
    )


def _short(answer: str) -> str:
    """An answer as it fits into a line."""
    return answer if len(answer) <= _LONGEST else answer[:_LONGEST] + "…"


def _number(form: str, value: float) -> str:
    return "–" if np.isnan(value) else form.format(value)

"""What a visitor asks, and how it is to be drawn: checked once, where it comes in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from relevancy import Model, Region, RelevancyError
from relevancy.core.tape import Scope
from relevancy.core.targets import gives_several
from relevancy.geometry import Grid
from relevancy_app.library import Library, depth
from relevancy_app.settings import COLORMAPS, MOST_EXCHANGES, MOST_QUESTIONS, SCOPES, Settings, methods

LAST = -1  # as a layer: each model's own last one
PLACE = "[picture]"
"""In a text: here stands a picture."""
_LONGEST_TARGET = 100
Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Ask:
    """One question to some models, and which token of the answer is to be explained how.

    Layers count from 0; `last_layer` None is each model's own last one. system: a system prompt, "" for none. video:
    whether the pictures are the frames of one. earlier: what was said before, by the user and by the model in turns.
    """

    question: str
    models: tuple[str, ...]
    target: str = "first-relevant"
    scope: Scope = "language"
    method: str = "relevancy"
    first_layer: int = 0
    last_layer: int | None = None
    system: str = ""
    video: bool = False
    earlier: tuple[str, ...] = ()

    @property
    def exchanges(self) -> int:
        """How often the user and the model had spoken before."""
        return len(self.earlier) // 2

    def said(self, pictures: Sequence[Any]) -> str | list[dict[str, Any]]:
        """What is said about these pictures, as `relevancy.explain` takes it: the question, or chat messages.

        A video stands in the messages, pictures are given beside them. Where `PLACE` is written stand the last ones,
        all others before what the user says first. Raises RelevancyError where there are more places than pictures.
        """
        shown: list[dict[str, Any]] = [{"type": "image"}] * len(pictures)
        if self.video:
            shown = [{"type": "video", "video": list(pictures)}]
        texts = (*self.earlier, self.question)
        places = sum(text.count(PLACE) for text in texts)
        if places > len(shown):
            there = "one video" if self.video else f"{len(shown)} picture{'' if len(shown) == 1 else 's'}"
            raise RelevancyError(f"{PLACE} stands in the text {places} times, and there is {there}: leave some out.")
        if not (self.video or self.system or self.earlier or places):
            return self.question
        left = iter(shown[len(shown) - places :])
        turns: list[dict[str, Any]] = [
            {"role": ("user", "assistant")[number % 2], "content": _parts(text, left)}
            for number, text in enumerate(texts)
        ]
        turns[0]["content"] = shown[: len(shown) - places] + turns[0]["content"]
        system = {"role": "system", "content": [{"type": "text", "text": self.system}]}
        return [*([system] if self.system else []), *turns]

    @property
    def made(self) -> str:
        """Method, scope, layers and target in one line."""
        layers = "all layers"
        if self.first_layer > 0 or self.last_layer is not None:
            layers = f"layers {self.first_layer} to {'the last' if self.last_layer is None else self.last_layer}"
        told = f"method {self.method} · scope {self.scope} · {layers} · target {self.target}"
        if self.earlier:
            told += f" · after {self.exchanges} exchange{'' if self.exchanges == 1 else 's'}"
        return told + (" · with a system prompt" if self.system else "")

    def layers(self, model: Model) -> range | None:
        """The model's decoder layers that take part; None for all. Raises when it has none of them."""
        end = depth(model) - 1
        last = end if self.last_layer is None else min(self.last_layer, end)
        if self.first_layer == 0 and last == end:
            return None
        if self.first_layer > last:
            raise RelevancyError(f"{model.name} has layers 0 to {end}: start at a lower one.")
        return range(self.first_layer, last + 1)

    def options(self, model: Model) -> dict[str, Any]:
        """The keyword arguments for `relevancy.explain`."""
        return {"target": self.target, "scope": self.scope, "method": self.method, "layers": self.layers(model)}


@dataclass(frozen=True)
class Display:
    """How maps are drawn; no model is needed to change it."""

    opacity: float = 0.85
    colormap: str = COLORMAPS[0]
    smooth: bool = True
    one_scale: bool = False
    log: bool = False
    threshold: float = 0.0


def ask(
    library: Library,
    settings: Settings,
    question: Any,
    models: Any,
    target: Any = "first-relevant",
    scope: Any = "language",
    method: Any = "relevancy",
    first_layer: Any = 0,
    last_layer: Any = LAST,
    system: Any = "",
    video: Any = False,
    *earlier: Any,
) -> Ask:
    """What was asked, from whatever a browser or a program sent. Raises RelevancyError.

    earlier: as in `Ask`; exchanges of which nothing is written are left out.
    """
    wanted = str(target or "").strip()
    if not wanted or len(wanted) > _LONGEST_TARGET:
        raise RelevancyError("Say what to explain: pick an entry, or type a word of the answer, a position, or Yes|No.")
    if gives_several(wanted):
        raise RelevancyError("All tokens at once do not fit here: press a token of the answer to see its map.")
    names = library.named(models)
    end = library.depth - 1
    first = _layer("first_layer", first_layer, end)
    last = end if last_layer in (None, LAST) else _layer("last_layer", last_layer, end)
    if first > last:
        raise RelevancyError("The first layer lies behind the last one: move one of the two sliders.")
    return Ask(
        question=_question(question, settings),
        models=names,
        target=wanted,
        scope=_one_of(scope, tuple(value for _, value in SCOPES), "scope"),
        method=_one_of(method, tuple(methods()), "method"),
        first_layer=first,
        last_layer=None if last == end else last,
        system=_text(system, "system prompt", settings),
        video=video is True,
        earlier=_exchanges(earlier, settings),
    )


def variations(text: Any, settings: Settings) -> list[str]:
    """Questions, one per line of the text, each once."""
    lines = [line.strip() for line in str(text or "").splitlines() if line.strip()]
    questions = list(dict.fromkeys(lines))
    if len(questions) < 2:
        raise RelevancyError("Write at least two questions, one per line.")
    if len(questions) > MOST_QUESTIONS:
        raise RelevancyError(f"At most {MOST_QUESTIONS} questions fit side by side: leave some out.")
    return [_question(question, settings) for question in questions]


def several_methods(names: Any) -> list[str]:
    """Names of methods to set side by side, each once. Raises RelevancyError for none, for too many, and for others."""
    if not isinstance(names, Sequence) or isinstance(names, str) or not names:
        raise RelevancyError("Choose at least one method to set beside the shown one.")
    wanted = [_one_of(name, tuple(methods()), "method") for name in dict.fromkeys(map(str, names))]
    if len(wanted) > MOST_QUESTIONS:
        raise RelevancyError(f"At most {MOST_QUESTIONS} methods fit side by side: choose fewer.")
    return wanted


def display(
    opacity: Any = Display.opacity,
    colormap: Any = Display.colormap,
    smooth: Any = Display.smooth,
    one_scale: Any = Display.one_scale,
    log: Any = Display.log,
    threshold: Any = Display.threshold,
) -> Display:
    """How to draw, from whatever a browser sent. Raises RelevancyError."""
    return Display(
        opacity=min(1.0, max(0.0, _number(opacity))),
        colormap=_one_of(colormap, COLORMAPS, "color map"),
        smooth=bool(smooth),
        one_scale=bool(one_scale),
        log=bool(log),
        threshold=min(1.0, max(0.0, _number(threshold))),
    )


def box(sides: Any, width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom in percent of a picture -> pixels. Raises RelevancyError when nothing is inside."""
    if not isinstance(sides, Sequence) or isinstance(sides, str) or len(sides) != 4:
        raise RelevancyError("Draw a rectangle on the picture first.")
    left, top, right, bottom = (min(100.0, max(0.0, _number(side))) / 100 for side in sides)
    if right - left < 0.005 or bottom - top < 0.005:
        raise RelevancyError("The rectangle is empty: draw a larger one.")
    return left * width, top * height, right * width, bottom * height


def patches(given: Any, of: Any, grids: Sequence[Grid]) -> Region:
    """Marked patches of the grid of this number as a part of the picture. Raises RelevancyError for none."""
    if type(of) is not int or not 0 <= of < len(grids):
        raise RelevancyError("Those patches are of no map on the screen.")
    grid = grids[of]
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise RelevancyError("Mark at least one patch on the picture first.")
    if any(type(patch) is not int or not 0 <= patch < grid.rows * grid.cols for patch in given):
        raise RelevancyError("That is no patch of this map.")
    return Region(patches=tuple(dict.fromkeys(given)), grid=grid)


def _question(question: Any, settings: Settings) -> str:
    text = _text(question, "question", settings)
    if not text.replace(PLACE, "").strip():
        raise RelevancyError("No question yet: type one, or pick one below the field.")
    return text


def _text(given: Any, what: str, settings: Settings) -> str:
    """What was written, "" for nothing. Raises RelevancyError where it is too long."""
    text = given.strip() if isinstance(given, str) else ""
    if len(text) > settings.question_characters:
        most = f"{settings.question_characters:,}"
        raise RelevancyError(f"The {what} has {len(text):,} characters, and {most} are allowed: shorten it.")
    return text


def _exchanges(texts: Sequence[Any], settings: Settings) -> tuple[str, ...]:
    """Those of which something is written. Raises RelevancyError for half of one, and for too many."""
    if len(texts) > 2 * MOST_EXCHANGES or len(texts) % 2:
        raise RelevancyError(f"Before a question stand at most {MOST_EXCHANGES} exchanges: leave the first ones out.")
    found: list[str] = []
    said = [_text(text, "text of an earlier turn", settings) for text in texts]
    for number, (asked, answered) in enumerate(zip(said[::2], said[1::2], strict=True), 1):
        if bool(asked) != bool(answered):
            lacks = "what the user asked" if answered else "what the model answered"
            raise RelevancyError(f"Exchange {number} lacks {lacks}: write it, or clear the exchange.")
        found += [asked, answered] if asked else []
    return tuple(found)


def _parts(text: str, shown: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """A text as parts of a chat message, the next of what is shown at each of its places."""
    found: list[dict[str, Any]] = []
    for number, words in enumerate(text.split(PLACE)):
        found += [next(shown)] if number else []
        found += [{"type": "text", "text": words.strip()}] if words.strip() else []
    return found


def _one_of(value: Any, allowed: Sequence[Name], what: str) -> Name:
    if value not in allowed:
        raise RelevancyError(f"There is no such {what}; choose from {', '.join(allowed)}.")
    return allowed[allowed.index(value)]


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RelevancyError("A number is missing or out of range: move its slider.")
    return number


def _layer(name: str, value: Any, most: int) -> int:
    whole = not isinstance(value, bool) and isinstance(value, (int, float)) and value == value // 1
    if not whole or not 0 <= value <= most:
        end = f", or {LAST} for the last" if name == "last_layer" else ""
        raise RelevancyError(f"{name} is a whole number from 0 to {most}{end}.")
    return int(value)

"""Pictures to begin with: scenes that the embedded pair was never trained on."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from relevancy.demo.world import HELD_OUT, Scene, duck_scene, scene

_SHOWN = 5  # questions per picture


@dataclass(frozen=True, eq=False)
class Example:
    """A picture and what could be asked about it."""

    image: Image.Image
    questions: tuple[str, ...]


def examples() -> tuple[Example, ...]:
    """A few, always the same, drawn anew."""
    scenes = (duck_scene(HELD_OUT, True), duck_scene(HELD_OUT + 1, False), *(scene(HELD_OUT + n) for n in (2, 3, 5)))
    return tuple(_example(one) for one in scenes)


def _example(drawn: Scene) -> Example:
    """One question of each type, asked openly where the scene has one: then both of the pair know the answer's form.

    Colors come first: there both have maps that are strong enough to be drawn.
    """
    kinds: dict[str, str] = {}
    for question in sorted(drawn.questions, key=lambda one: (one.form != "open", one.type != "color")):
        kinds.setdefault(question.type, question.text)
    return Example(drawn.image, tuple(kinds.values())[:_SHOWN])

"""Scenes for everybody else: a picture, who owns its pixels, and questions about it; the same from the same seed."""

from __future__ import annotations

__all__ = ["HELD_OUT", "Scene", "duck_scene", "scene"]

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from relevancy.demo.layout import COLORS, KINDS, SceneLayout, place, random_layout
from relevancy.demo.questions import MIN_VISIBLE, Question, ask, with_options
from relevancy.demo.renderer import SIDE, render, visible_shares

HELD_OUT = 1_000_000_000  # training uses seeds below, evaluation and showcases use seeds from here on


@dataclass(frozen=True)
class Scene:
    """A layout and what follows from it; the picture is drawn when it is first asked for."""

    seed: int
    layout: SceneLayout
    shares: np.ndarray  # (items,) share of each item that nothing nearer hides
    questions: tuple[Question, ...]
    side: int = SIDE

    @cached_property
    def _rendered(self) -> tuple[np.ndarray, np.ndarray]:
        return render(self.layout, self.seed, self.side)

    @property
    def pixels(self) -> np.ndarray:
        """Picture, (side, side, 3) uint8 RGB."""
        return self._rendered[0]

    @property
    def owner(self) -> np.ndarray:
        """Index of the item visible at each pixel, -1 for the background; (side, side) int16."""
        return self._rendered[1]

    @property
    def image(self) -> Image.Image:
        """The picture as PIL image, RGB."""
        return Image.fromarray(self.pixels)

    def mask(self, *items: int) -> np.ndarray:
        """Visible pixels of these items together, (side, side) bool."""
        return np.isin(self.owner, items)

    @property
    def masks(self) -> dict[int, np.ndarray]:
        """Visible pixels of every item, disjoint."""
        return {index: self.mask(index) for index in range(len(self.layout.items))}


def scene(seed: int, side: int = SIDE) -> Scene:
    """The scene of this seed."""
    rng = np.random.default_rng([seed, 1])
    layout = random_layout(rng)
    shares = visible_shares(layout)
    return Scene(seed, layout, shares, tuple(ask(layout, shares, rng)), side)


def duck_scene(seed: int, floating: bool, side: int = SIDE) -> Scene:
    """A scene with exactly one duck, well visible, and the question of the paper: is it floating?

    Asked openly first, then with options as in the paper, then all the others.
    """
    rng = np.random.default_rng([seed, 2])
    openly = "Is the duck floating?", "Yes" if floating else "No"
    optional = with_options(*openly, "No" if floating else "Yes", right_first=floating)
    while True:
        others = rng.permutation(np.array([kind for kind in KINDS if kind != "duck"]))[: int(rng.integers(1, 4))]
        wanted = [("duck", str(rng.choice(COLORS)), floating)]
        wanted += [
            (str(kind), str(rng.choice(COLORS)), bool(rng.integers(2)) and kind in ("boat", "ball")) for kind in others
        ]
        layout = place(rng, wanted)
        shares = visible_shares(layout)
        (duck,) = layout.of_kind("duck")
        if shares[duck] >= MIN_VISIBLE:
            break
    first = Question("floating", "open", *openly, (duck,)), Question("floating", "ab", *optional, (duck,))
    return Scene(seed, layout, shares, (*first, *ask(layout, shares, rng)), side)

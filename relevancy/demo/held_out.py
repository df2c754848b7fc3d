"""Held-out scenes as rows of a check, with the objects' outlines as truth."""

from __future__ import annotations

__all__ = ["held_out_rows"]

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from PIL import Image

from relevancy.checking.rows import CheckRow
from relevancy.demo.evaluation import held_out
from relevancy.demo.questions import Question
from relevancy.demo.world import Scene, scene

SEED = 2  # scenes that no table of `evaluate demo` uses by default


def held_out_rows(scenes: int, seed: int = SEED) -> list[CheckRow]:
    """One question of each scene that asks about exactly one visible object; scenes without one give none."""
    return list(_rows(scenes, seed))


def _rows(scenes: int, seed: int) -> Iterator[CheckRow]:
    for drawn in held_out(scenes, seed):
        question = next((one for one in drawn.questions if len(one.items) == 1), None)
        if question is not None:
            picture, mask = _shown(drawn.seed), _outlined(drawn.seed, question)
            yield CheckRow(str(drawn.seed), str(drawn.seed), question.text, picture, question.answer, mask)


def _shown(seed: int) -> Callable[[], Image.Image]:
    return lambda: _drawn(seed).image


def _outlined(seed: int, question: Question) -> Callable[[], np.ndarray]:
    return lambda: _drawn(seed).mask(*question.items)


@lru_cache(maxsize=64)
def _drawn(seed: int) -> Scene:
    """The scene, drawn once for all that a check does with a few rows; thousands of pictures are not kept."""
    return scene(seed)

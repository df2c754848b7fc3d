"""Boxes of a row: read in the layout that they have, and brought to the picture's pixels."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

Box: TypeAlias = tuple[float, float, float, float]

LAYOUTS = ("xyxy", "xywh", "cxcywh")
"""Corners; a corner, width and height, as COCO has them; the middle, width and height, as YOLO has them."""

_SHARE = 1.001  # 1, and what rounding adds
_LEFT_OUT = "the boxes were left out: "


def read_boxes(value: Any, layout: str = "xyxy") -> tuple[tuple[Box, ...] | None, str | None]:
    """Boxes x0, y0, x1, y1 of a list of four numbers each, of four numbers, or of such a list written as JSON.

    Gives what is wrong instead where something is.
    """
    try:
        given = json.loads(value) if isinstance(value, str) else value
        given = [given] if len(given) and not isinstance(given[0], Sequence) else given
        boxes = tuple(_corners(*_numbers(box), layout) for box in given)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None, f"{_LEFT_OUT}they are no lists of four numbers"
    if not all(math.isfinite(side) for box in boxes for side in box):
        return None, f"{_LEFT_OUT}they are not finite"
    if not all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in boxes):
        way = "x0, y0, x1, y1 are the wrong way round (or x, y, width, height? Then --box-layout xywh)"
        return None, _LEFT_OUT + (way if layout == "xyxy" else "a width or a height is not above 0")
    return boxes, None


def in_pixels(boxes: Sequence[Sequence[float]], width: int, height: int) -> tuple[list[list[float]], list[str]]:
    """Boxes in the picture's pixels and within it, and what is to be said about them.

    Boxes of which no side is above 1 are shares of the picture's sides. What lies outside of the picture is cut off.
    """
    notes: list[str] = []
    if boxes and all(abs(side) <= _SHARE for box in boxes for side in box):
        boxes = [[x0 * width, y0 * height, x1 * width, y1 * height] for x0, y0, x1, y1 in boxes]
        notes.append("the boxes are between 0 and 1: taken as shares of the picture's width and height")
    within = [[max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)] for x0, y0, x1, y1 in boxes]
    kept = [box for box in within if box[0] < box[2] and box[1] < box[3]]
    if boxes and not kept:
        notes.append(f"{_LEFT_OUT}they lie outside of the picture")
    elif kept != [list(map(float, box)) for box in boxes]:
        notes.append("the boxes reach beyond the picture: what lies outside was cut off")
    return kept, notes


def _numbers(box: Any) -> tuple[float, float, float, float]:
    if isinstance(box, str):
        raise TypeError("text is no box")
    a, b, c, d = map(float, box)
    return a, b, c, d


def _corners(a: float, b: float, c: float, d: float, layout: str) -> Box:
    if layout == "xyxy":
        return a, b, c, d
    x, y = (a, b) if layout == "xywh" else (a - c / 2, b - d / 2)
    return x, y, x + c, y + d

"""Layouts -> pixels.

Everything is drawn twice as large with OpenCV and averaged down; a second canvas keeps who owns each pixel, so the
masks are what is visible after occlusion, and disjoint by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from relevancy.demo.layout import GROUNDS, Ground, SceneItem, SceneLayout

SIDE = 400  # pixels of the finished picture
SUPERSAMPLING = 2
FRACTION_BITS = 4  # OpenCV takes sub-pixel corners as fixed-point integers

Color = tuple[float, float, float]

PAINT: dict[str, Color] = {
    "red": (214, 45, 48), "yellow": (250, 206, 40), "blue": (36, 92, 222), "purple": (146, 60, 190),
    "white": (246, 246, 244), "black": (46, 46, 54),
}  # fmt: skip
LAND: dict[str, tuple[Color, Color]] = {  # far, near
    "grass": ((150, 190, 95), (92, 150, 62)), "sand": ((236, 218, 172), (222, 190, 128)),
    "snow": ((226, 232, 240), (206, 216, 228)), "autumn": ((204, 168, 96), (168, 122, 66)),
}  # fmt: skip
ORANGE, BROWN, CREAM, STONE, LEAF = (240, 134, 30), (116, 80, 52), (240, 226, 200), (138, 136, 134), (70, 118, 62)
INK = (36, 34, 40)


def render(layout: SceneLayout, seed: int, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Picture (side, side, 3) uint8 RGB, and owner (side, side) int16: index of the visible item, -1 for background."""
    large = side * SUPERSAMPLING
    brush = Brush(_background(layout.ground, large, np.random.default_rng(seed)), np.full((large, large), -1, np.int16))
    for index, item in enumerate(layout.items):
        brush.take(item, index)
        SHAPES[item.kind](brush, item)
        if item.floating:
            _waterline(brush, item)
    picture = cv2.resize(brush.canvas, (side, side), interpolation=cv2.INTER_AREA)
    return picture, brush.owner[::SUPERSAMPLING, ::SUPERSAMPLING].copy()


def visible_shares(layout: SceneLayout, side: int = 96) -> np.ndarray:
    """Share of each item that nothing nearer hides, (items,) float64; measured on a small owner canvas."""
    brush = Brush(np.zeros((side, side, 3), np.uint8), np.full((side, side), -1, np.int16))
    drawn = np.ones(len(layout.items))
    for index, item in enumerate(layout.items):
        brush.take(item, index)
        SHAPES[item.kind](brush, item)
        drawn[index] = max((brush.owner == index).sum(), 1)
    return np.array([(brush.owner == index).sum() for index in range(len(layout.items))]) / drawn


@dataclass
class Brush:
    """Draws filled shapes given in an item's own coordinates: x in [-0.5, 0.5] over its width, y up from its base."""

    canvas: np.ndarray
    owner: np.ndarray
    item: SceneItem | None = None
    index: int = -1

    def take(self, item: SceneItem, index: int) -> None:
        """Draw for this item from now on."""
        self.item, self.index = item, index

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Item coordinates (n, 2) -> fixed-point pixels (n, 2) int32."""
        item, side = self.item, len(self.canvas)
        if item is None:
            raise RuntimeError("take an item first")
        mirror = -1.0 if item.flipped else 1.0
        x = (item.x + mirror * points[:, 0] * item.width) * side
        y = (item.y - points[:, 1] * item.width) * side
        return np.round(np.stack([x, y], 1) * (1 << FRACTION_BITS)).astype(np.int32)

    def polygon(self, points: np.ndarray | list[tuple[float, float]], color: Color) -> None:
        """Fill a polygon and own its pixels."""
        corners = [self.pixels(np.asarray(points, np.float64))]
        cv2.fillPoly(self.canvas, corners, color, cv2.LINE_AA, FRACTION_BITS)
        cv2.fillPoly(self.owner, corners, self.index, cv2.LINE_8, FRACTION_BITS)

    def ellipse(self, x: float, y: float, half_x: float, half_y: float, color: Color, tilt: float = 0.0) -> None:
        """Fill an ellipse; `tilt` in radians, counter-clockwise."""
        self.polygon(oval(x, y, half_x, half_y, tilt), color)

    def line(self, points: list[tuple[float, float]], thickness: float, color: Color) -> None:
        """Draw a line of a thickness relative to the item's width."""
        for (x0, y0), (x1, y1) in pairwise(points):
            length = np.hypot(x1 - x0, y1 - y0) or 1.0
            across = np.array([-(y1 - y0), x1 - x0]) / length * thickness / 2
            start, end = np.array([x0, y0]), np.array([x1, y1])
            self.polygon(np.stack([start - across, start + across, end + across, end - across]), color)


def oval(
    x: float, y: float, half_x: float, half_y: float, tilt: float = 0.0, start: float = 0.0, stop: float = 1.0
) -> np.ndarray:
    """Points of an ellipse, or of the part of it between two shares of a turn."""
    turn = np.linspace(start, stop, 36) * 2 * np.pi
    across, up = half_x * np.cos(turn), half_y * np.sin(turn)
    return np.stack([x + across * np.cos(tilt) - up * np.sin(tilt), y + across * np.sin(tilt) + up * np.cos(tilt)], 1)


def mix(color: Color, other: Color, share: float) -> Color:
    """`share` of the other color mixed in."""
    return tuple((1 - share) * a + share * b for a, b in zip(color, other, strict=True))  # type: ignore[return-value]


def tones(item: SceneItem) -> tuple[Color, Color, Color]:
    """The item's color, a darker and a lighter tone of it."""
    main = PAINT[item.color or "white"]
    return main, mix(main, INK, 0.28), mix(main, (255, 255, 255), 0.35)


def _shadow(brush: Brush, item: SceneItem, half_x: float) -> None:
    """A soft ground shadow: belongs to the ground, so nobody owns it."""
    if item.support not in ("land", "rock"):
        return
    corners = brush.pixels(oval(0.04, 0.0, half_x, half_x * 0.2))
    (x0, y0), (x1, y1) = np.maximum(corners.min(0) >> FRACTION_BITS, 0), (corners.max(0) >> FRACTION_BITS) + 2
    part = brush.canvas[y0:y1, x0:x1]
    dark = part.copy()
    offset = np.array([x0, y0]) << FRACTION_BITS
    cv2.fillPoly(dark, [corners - offset.astype(np.int32)], (40, 44, 40), cv2.LINE_AA, FRACTION_BITS)
    part[:] = cv2.addWeighted(dark, 0.3, part, 0.7, 0)


def _duck(brush: Brush, item: SceneItem) -> None:
    main, dark, light = tones(item)
    lift = 0.0
    if item.floating:
        lift = -0.1
    else:
        lift = 0.2
        _shadow(brush, item, 0.36)
        for x in (-0.1, 0.08):
            brush.line([(x, 0.02), (x, 0.3)], 0.055, ORANGE)
            brush.polygon([(x - 0.05, 0.0), (x + 0.13, 0.0), (x + 0.02, 0.07)], ORANGE)
    brush.polygon([(-0.5, lift + 0.42), (-0.28, lift + 0.12), (-0.2, lift + 0.36)], dark)
    brush.ellipse(-0.04, lift + 0.22, 0.37, 0.22, main)
    brush.polygon([(0.08, lift + 0.2), (0.32, lift + 0.24), (0.36, lift + 0.56), (0.1, lift + 0.56)], main)
    brush.ellipse(0.23, lift + 0.58, 0.17, 0.165, main)
    brush.ellipse(-0.1, lift + 0.25, 0.22, 0.115, dark, 0.15)
    brush.polygon([(0.36, lift + 0.63), (0.36, lift + 0.49), (0.54, lift + 0.53)], ORANGE)
    brush.ellipse(0.27, lift + 0.62, 0.042, 0.042, (255, 255, 255))
    brush.ellipse(0.28, lift + 0.62, 0.024, 0.026, INK)
    if item.color != "white":
        brush.ellipse(0.16, lift + 0.68, 0.05, 0.025, light, 0.5)


def _boat(brush: Brush, item: SceneItem) -> None:
    main, dark, light = tones(item)
    lift = -0.08 if item.floating else 0.0
    _shadow(brush, item, 0.42)
    brush.line([(0.0, lift + 0.2), (0.0, 1.02)], 0.035, BROWN)
    brush.polygon([(0.04, 0.98), (0.04, lift + 0.36), (0.42, lift + 0.36)], light)
    brush.polygon([(-0.04, 0.9), (-0.04, lift + 0.36), (-0.3, lift + 0.36)], main)
    brush.polygon([(-0.5, lift + 0.3), (0.5, lift + 0.3), (0.34, lift), (-0.34, lift)], main)
    brush.polygon([(-0.5, lift + 0.3), (0.5, lift + 0.3), (0.47, lift + 0.24), (-0.47, lift + 0.24)], dark)


def _ball(brush: Brush, item: SceneItem) -> None:
    main, dark, light = tones(item)
    middle = 0.4 if item.floating else 0.5
    _shadow(brush, item, 0.42)
    brush.ellipse(0.0, middle, 0.5, 0.5, dark)
    brush.ellipse(-0.03, middle + 0.03, 0.455, 0.455, main)
    brush.line([(-0.42, middle + 0.1), (0.0, middle - 0.02), (0.44, middle + 0.06)], 0.07, dark)
    brush.line([(0.0, middle - 0.02), (-0.06, middle - 0.46)], 0.07, dark)
    brush.ellipse(-0.17, middle + 0.23, 0.11, 0.07, light, 0.6)


def _house(brush: Brush, item: SceneItem) -> None:
    main, dark, _ = tones(item)
    _shadow(brush, item, 0.5)
    brush.polygon([(0.22, 0.66), (0.36, 0.66), (0.36, 0.96), (0.22, 0.96)], mix(STONE, INK, 0.3))
    brush.polygon([(-0.42, 0.0), (0.42, 0.0), (0.42, 0.56), (-0.42, 0.56)], main)
    brush.polygon([(-0.52, 0.54), (0.52, 0.54), (0.0, 0.98)], mix(BROWN, INK, 0.15))
    brush.polygon([(-0.42, 0.0), (0.42, 0.0), (0.42, 0.05), (-0.42, 0.05)], dark)
    brush.polygon([(-0.08, 0.0), (0.12, 0.0), (0.12, 0.32), (-0.08, 0.32)], BROWN)
    for x in (-0.34, 0.2):
        brush.polygon([(x, 0.24), (x + 0.15, 0.24), (x + 0.15, 0.4), (x, 0.4)], (178, 214, 232))


def _tree(brush: Brush, item: SceneItem) -> None:
    main, dark, light = tones(item)
    _shadow(brush, item, 0.4)
    brush.polygon([(-0.1, 0.0), (0.1, 0.0), (0.06, 0.6), (-0.06, 0.6)], BROWN)
    brush.ellipse(0.0, 0.66, 0.46, 0.28, dark)
    for x, y, radius in ((-0.22, 0.72, 0.27), (0.22, 0.72, 0.27), (0.0, 1.03, 0.31), (0.0, 0.78, 0.3)):
        brush.ellipse(x, y, radius, radius, main)
    for x, y in ((-0.24, 0.84), (0.1, 1.14), (0.14, 0.76)):
        brush.ellipse(x, y, 0.07, 0.05, light)


def _balloon(brush: Brush, item: SceneItem) -> None:
    main, dark, light = tones(item)
    brush.line([(-0.2, 0.5), (-0.1, 0.18)], 0.02, INK)
    brush.line([(0.2, 0.5), (0.1, 0.18)], 0.02, INK)
    brush.polygon([(-0.13, 0.0), (0.13, 0.0), (0.15, 0.2), (-0.15, 0.2)], BROWN)
    brush.ellipse(0.0, 0.82, 0.5, 0.48, main)
    brush.polygon([(-0.4, 0.54), (0.4, 0.54), (0.15, 0.3), (-0.15, 0.3)], main)
    brush.ellipse(0.0, 0.82, 0.2, 0.48, dark)
    brush.polygon([(-0.16, 0.54), (0.16, 0.54), (0.06, 0.3), (-0.06, 0.3)], dark)
    brush.ellipse(-0.3, 1.0, 0.06, 0.11, light, -0.5)


def _mushroom(brush: Brush, item: SceneItem) -> None:
    main, dark, _ = tones(item)
    _shadow(brush, item, 0.3)
    brush.polygon([(-0.15, 0.0), (0.15, 0.0), (0.11, 0.45), (-0.11, 0.45)], CREAM)
    brush.ellipse(0.0, 0.42, 0.5, 0.1, dark)
    brush.polygon(np.concatenate([oval(0.0, 0.42, 0.5, 0.54, 0.0, 0.0, 0.5)]), main)
    spots = mix(STONE, (255, 255, 255), 0.2) if item.color == "white" else (250, 248, 240)
    for x, y, radius in ((-0.26, 0.58, 0.07), (0.04, 0.76, 0.085), (0.28, 0.56, 0.065)):
        brush.ellipse(x, y, radius, radius * 0.85, spots)


def _car(brush: Brush, item: SceneItem) -> None:
    main, dark, _ = tones(item)
    _shadow(brush, item, 0.48)
    brush.polygon([(-0.3, 0.34), (0.3, 0.34), (0.16, 0.6), (-0.2, 0.6)], main)
    brush.polygon([(-0.5, 0.12), (0.5, 0.12), (0.5, 0.3), (0.4, 0.38), (-0.46, 0.38), (-0.5, 0.3)], main)
    brush.polygon([(-0.5, 0.12), (0.5, 0.12), (0.5, 0.18), (-0.5, 0.18)], dark)
    for left, right in ((-0.23, -0.02), (0.02, 0.2)):
        brush.polygon([(left, 0.38), (right, 0.38), (right - 0.06, 0.54), (left + 0.05, 0.54)], (178, 214, 232))
    for x in (-0.28, 0.28):
        brush.ellipse(x, 0.12, 0.125, 0.125, INK)
        brush.ellipse(x, 0.12, 0.055, 0.055, (196, 198, 202))


def _rock(brush: Brush, _: SceneItem) -> None:
    points = [
        (-0.5, 0.0),
        (0.5, 0.0),
        (0.47, 0.16),
        (0.34, 0.37),
        (0.1, 0.46),
        (-0.2, 0.44),
        (-0.4, 0.3),
        (-0.49, 0.13),
    ]
    brush.polygon(points, STONE)
    brush.polygon(
        [(-0.4, 0.3), (-0.2, 0.44), (0.1, 0.46), (0.34, 0.37), (0.1, 0.33), (-0.2, 0.33)],
        mix(STONE, (255, 255, 255), 0.32),
    )
    brush.polygon([(0.5, 0.0), (0.47, 0.16), (0.34, 0.37), (0.22, 0.18), (0.26, 0.0)], mix(STONE, INK, 0.25))


def _bush(brush: Brush, item: SceneItem) -> None:
    _shadow(brush, item, 0.44)
    for x, y, radius in ((-0.27, 0.2, 0.22), (0.27, 0.2, 0.22), (0.0, 0.32, 0.28)):
        brush.ellipse(x, y, radius, radius, LEAF)
    brush.polygon([(-0.46, 0.0), (0.46, 0.0), (0.44, 0.14), (-0.44, 0.14)], mix(LEAF, INK, 0.2))
    for x, y in ((-0.3, 0.28), (0.05, 0.44), (0.26, 0.24)):
        brush.ellipse(x, y, 0.07, 0.045, mix(LEAF, (255, 255, 255), 0.25))


SHAPES = {
    "duck": _duck, "boat": _boat, "ball": _ball, "house": _house, "tree": _tree, "balloon": _balloon,
    "mushroom": _mushroom, "car": _car, "rock": _rock, "bush": _bush,
}  # fmt: skip


def _water_colors(ground: Ground) -> tuple[Color, Color]:
    warm = 0.35 * ground.dusk
    return mix((150, 202, 222), (236, 180, 150), warm), mix((58, 134, 176), (108, 112, 150), warm)


def _waterline(brush: Brush, item: SceneItem) -> None:
    """Water over the part below the base line, and ripples around it; nobody owns them."""
    side = len(brush.canvas)
    y0 = int(item.y * side)
    y1 = min(int((item.y + 0.14 * item.width) * side), side)
    x0, x1 = max(int((item.x - 0.6 * item.width) * side), 0), min(int((item.x + 0.6 * item.width) * side), side)
    below = brush.owner[y0:y1, x0:x1] == brush.index
    strip = brush.canvas[y0:y1, x0:x1]
    tint = np.array(_PLAIN_WATER, np.float32)
    strip[below] = (0.35 * strip[below] + 0.65 * tint).astype(np.uint8)
    brush.owner[y0:y1, x0:x1][below] = -1
    for half, drop, thickness in ((0.52, 0.0, 0.03), (0.42, -0.07, 0.022)):
        for start, stop in ((0.53, 0.97),):
            points = oval(0.0, drop, half, 0.06, 0.0, start, stop)
            corners = [brush.pixels(points)]
            width = max(int(thickness * item.width * side), 1)
            cv2.polylines(brush.canvas, corners, False, (228, 240, 244), width, cv2.LINE_AA, FRACTION_BITS)


_PLAIN_WATER: Color = (92, 158, 192)


def _background(ground: Ground, side: int, rng: np.random.Generator) -> np.ndarray:
    """Sky with sun, clouds and hills; water with waves; land with grass blades, pebbles or drifts."""
    rows = (np.arange(side, dtype=np.float32) / side)[:, None]
    horizon, warm = ground.horizon, ground.dusk
    top, bottom = mix((96, 164, 226), (120, 116, 176), warm), mix((206, 230, 244), (250, 200, 160), warm)
    depth = np.clip((rows - horizon) / (1 - horizon), 0, 1)
    far_land, near_land = (mix(tone, (150, 110, 110), 0.25 * warm) for tone in LAND[ground.land])
    by_row = np.zeros((len(GROUNDS), side, 4), np.uint8)  # four channels: one 32-bit word per pixel is quick to gather
    by_row[0, :, :3] = _fade(top, bottom, np.clip(rows / horizon, 0, 1))
    by_row[1, :, :3] = _fade(*_water_colors(ground), depth)
    by_row[2, :, :3] = _fade(far_land, near_land, depth)
    regions = cv2.resize(ground.regions(side // 2), (side, side), interpolation=cv2.INTER_NEAREST)
    rows_of_table = regions.astype(np.intp) * side + np.arange(side)[:, None]
    words = by_row.reshape(-1, 4).view(np.uint32)[:, 0].take(rows_of_table)
    picture = cv2.cvtColor(words.view(np.uint8).reshape(side, side, 4), cv2.COLOR_RGBA2RGB)
    _sky_things(picture, ground, rng)
    _texture(picture, ground, regions == GROUNDS.index("water"), rng)
    return picture


def _fade(start: Color, end: Color, share: np.ndarray) -> np.ndarray:
    return np.array(start, np.float32) * (1 - share) + np.array(end, np.float32) * share


def _sky_things(picture: np.ndarray, ground: Ground, rng: np.random.Generator) -> None:
    side = len(picture)
    line = int(ground.horizon * side)
    sky = picture[:line].copy()
    sun = (int(rng.uniform(0.08, 0.92) * side), int(rng.uniform(0.25, 0.9) * line))
    cv2.circle(sky, sun, int(0.035 * side), (255, 244, 206), -1, cv2.LINE_AA)
    for _ in range(int(rng.integers(1, 4))):
        x, y, size = rng.uniform(0.05, 0.95) * side, rng.uniform(0.15, 0.6) * line, rng.uniform(0.03, 0.06) * side
        for dx, dy, grow in ((-1.2, 0.15, 0.7), (0, -0.2, 1.0), (1.2, 0.1, 0.75)):
            cv2.ellipse(
                sky,
                (int(x + dx * size), int(y + dy * size)),
                (int(1.2 * size * grow), int(0.6 * size * grow)),
                0,
                0,
                360,
                (248, 250, 252),
                -1,
                cv2.LINE_AA,
            )
    hill = mix(mix((126, 158, 150), (140, 120, 150), ground.dusk), (255, 255, 255), 0.15)
    xs = np.linspace(0, side, 40)
    height = (
        0.035
        * side
        * (
            1.2
            + np.sin(xs / side * rng.uniform(4, 9) + rng.uniform(0, 6)) * 0.6
            + np.sin(xs / side * rng.uniform(9, 17)) * 0.3
        )
    )
    outline = np.concatenate([np.stack([xs, line - height], 1), [[side, line], [0, line]]]).astype(np.int32)
    cv2.fillPoly(sky, [outline], hill, cv2.LINE_AA)
    picture[:line] = cv2.addWeighted(sky, 0.8, picture[:line], 0.2, 0)


def _texture(picture: np.ndarray, ground: Ground, water: np.ndarray, rng: np.random.Generator) -> None:
    side = len(picture)
    marks = 110
    xs, ys = rng.uniform(0, side, marks), rng.uniform(ground.horizon * side + 4, side - 1, marks)
    tone = LAND[ground.land][1]
    dark = mix(tone, INK, 0.18)
    for x, y in zip(xs, ys, strict=True):
        near = 0.5 + (y / side - ground.horizon)
        column, row = int(x), int(y)
        if water[row, min(column, side - 1)]:
            half = int(0.035 * side * near)
            points = np.array([[column - half, row], [column, row - max(half // 5, 1)], [column + half, row]], np.int32)
            clear = water[row, max(column - half, 0)] and water[row, min(column + half, side - 1)]
            if clear:
                cv2.polylines(picture, [points], False, mix((92, 158, 192), (255, 255, 255), 0.45), 2, cv2.LINE_AA)
        elif ground.land in ("grass", "autumn"):
            blade = int(0.014 * side * near) + 2
            for lean in (-1, 0, 1):
                cv2.line(picture, (column, row), (column + lean * blade // 2, row - blade), dark, 2, cv2.LINE_AA)
        else:
            cv2.ellipse(
                picture,
                (column, row),
                (int(0.008 * side * near) + 1, int(0.004 * side * near) + 1),
                0,
                0,
                360,
                dark,
                -1,
                cv2.LINE_AA,
            )

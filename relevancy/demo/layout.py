"""What stands where in a scene, before any pixel is drawn: unit coordinates, x to the right, y down, both in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

KINDS = ("duck", "boat", "ball", "house", "tree", "balloon", "mushroom", "car")
FLOATERS = ("duck", "boat", "ball")
COLORS = ("red", "yellow", "blue", "purple", "white", "black")
DISTRACTORS = ("rock", "bush")
SUPPORTS = ("water", "land", "rock", "sky")
GROUNDS = ("sky", "water", "land")
SHORES = ("far", "near", "side", "pond")
LANDS = ("grass", "sand", "snow", "autumn")

ASPECT = {  # height over width of the drawn shape
    "duck": 0.95, "boat": 1.05, "ball": 1.0, "house": 1.0, "tree": 1.35, "balloon": 1.3, "mushroom": 1.0, "car": 0.62,
    "rock": 0.5, "bush": 0.62,
}  # fmt: skip
RELATIVE_WIDTH = {
    "duck": 1.0, "boat": 1.12, "ball": 0.78, "house": 1.0, "tree": 0.88, "balloon": 0.82, "mushroom": 0.86, "car": 1.25,
    "rock": 1.15, "bush": 0.7,
}  # fmt: skip
WIDTH_BY_COUNT = {1: 0.46, 2: 0.44, 3: 0.4, 4: 0.36}
MAX_OVERLAP = 0.2  # of the smaller box, between two drawn things
MOST = 3  # of one kind
EDGE = 0.02
ATTEMPTS = 60
_ACROSS, _UNDER = (-0.5, -0.25, 0.0, 0.25, 0.5), (-0.1, 0.0, 0.06)  # of an item's width: where its base stands


@dataclass(frozen=True)
class SceneItem:
    """One drawn thing. `x` is its middle, `y` its base line, `width` a share of the picture's side."""

    kind: str
    color: str | None
    x: float
    y: float
    width: float
    support: str
    flipped: bool

    @property
    def height(self) -> float:
        """Height as a share of the picture's side."""
        return self.width * ASPECT[self.kind]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        return self.x - self.width / 2, self.y - self.height, self.x + self.width / 2, self.y

    @property
    def floating(self) -> bool:
        """Whether it swims on the water."""
        return self.support == "water"


@dataclass(frozen=True)
class Ground:
    """Sky above `horizon`; below it water and land, parted by a wavy shore."""

    horizon: float
    shore: str
    land: str
    dusk: float  # 0 noon .. 1 evening light
    line: float  # where the shore runs: a height, or for "side" a horizontal place
    slope: float
    waves: tuple[float, float, float]  # amplitude, frequency, phase of the shore line
    pond: tuple[float, float, float, float]  # middle x, y and half axes, used by "pond"
    mirrored: bool

    def regions(self, side: int) -> np.ndarray:
        """Ground under each pixel of a `side` x `side` picture: indices into GROUNDS, int8."""
        middles = (np.arange(side, dtype=np.float32) + 0.5) / side
        y, x = middles[:, None], middles[None, :]
        if self.mirrored:
            x = 1 - x
        amplitude, frequency, phase = self.waves
        if self.shore == "side":
            water = x < self.line + self.slope * (y - 0.6) + amplitude * np.sin(frequency * y + phase)
        elif self.shore == "pond":
            middle_x, middle_y, half_x, half_y = self.pond
            angle = np.arctan2((y - middle_y) / half_y, (x - middle_x) / half_x)
            radius = np.hypot((x - middle_x) / half_x, (y - middle_y) / half_y)
            water = radius < 1 + 2 * amplitude * np.sin(3 * angle + phase)
        else:
            line = self.line + self.slope * (x - 0.5) + amplitude * np.sin(frequency * x + phase)
            water = (y < line) if self.shore == "far" else (y > line)
        ground = np.where(water, GROUNDS.index("water"), GROUNDS.index("land"))
        return np.where(y < self.horizon, GROUNDS.index("sky"), ground).astype(np.int8)


@dataclass(frozen=True)
class SceneLayout:
    """A scene as data. Items are listed from far to near, the order in which they are drawn."""

    ground: Ground
    items: tuple[SceneItem, ...]

    def of_kind(self, kind: str) -> list[int]:
        """Indices of the items of this kind."""
        return [index for index, item in enumerate(self.items) if item.kind == kind]


def random_ground(rng: np.random.Generator) -> Ground:
    """Sky, water and land: every scene has both water and land, so the background alone never says what floats."""
    shore = str(rng.choice(SHORES))
    horizon = rng.uniform(0.2, 0.34)
    line = {
        "far": rng.uniform(0.58, 0.7), "near": rng.uniform(0.54, 0.66), "side": rng.uniform(0.45, 0.6), "pond": 0.0,
    }[shore]  # fmt: skip
    pond = (
        float(rng.uniform(0.35, 0.65)),
        float(rng.uniform(0.62, 0.76)),
        float(rng.uniform(0.36, 0.46)),
        float(rng.uniform(0.17, 0.22)),
    )
    return Ground(
        horizon=horizon,
        shore=shore,
        land=str(rng.choice(LANDS)),
        dusk=float(rng.uniform(0, 1) ** 2),
        line=float(line),
        slope=float(rng.uniform(-0.15, 0.15)),
        waves=(float(rng.uniform(0.005, 0.025)), float(rng.uniform(5, 14)), float(rng.uniform(0, 6.28))),
        pond=pond,
        mirrored=bool(rng.integers(2)),
    )


def random_layout(rng: np.random.Generator) -> SceneLayout:
    """A scene of two to four objects: one kind stands there one to three times, one or two other kinds once each.

    Kinds, colors, counts and what floats are drawn uniformly and independently, so that no answer is likelier than
    another before the picture is seen.
    """
    kinds = rng.permutation(np.array(KINDS))
    copies = int(rng.integers(1, 4))
    others = int(rng.integers(1, 3)) if copies < MOST else 1
    wanted = [str(kinds[0])] * copies + [str(kind) for kind in kinds[1 : 1 + others]]
    colors = [str(rng.choice(COLORS)) for _ in wanted]
    floats = [kind in FLOATERS and bool(rng.integers(2)) for kind in wanted]
    return place(rng, list(zip(wanted, colors, floats, strict=True)))


def place(rng: np.random.Generator, wanted: list[tuple[str, str, bool]]) -> SceneLayout:
    """Find places for (kind, color, floats) on a random ground; the dice are thrown again until all have room."""
    for attempt in range(ATTEMPTS):
        layout = _try_place(rng, wanted, shrink=0.985**attempt)
        if layout is not None:
            return layout
    raise RuntimeError(f"no room for {wanted}")


def _try_place(rng: np.random.Generator, wanted: list[tuple[str, str, bool]], shrink: float) -> SceneLayout | None:
    ground = random_ground(rng)
    regions = ground.regions(64)
    base = WIDTH_BY_COUNT[len(wanted)] * shrink
    placed: list[SceneItem] = []
    for index in rng.permutation(len(wanted)):
        kind, color, floats = wanted[index]
        support = _support(rng, kind, floats)
        item = _find_place(rng, regions, ground, placed, kind, color, support, base)
        if item is None:
            return None
        placed.append(item)
        if support == "rock":
            placed.append(_rock_under(rng, item))
    for _ in range(int(rng.integers(0, 3))):
        kind = str(rng.choice(DISTRACTORS))
        support = "land" if kind == "bush" or rng.integers(2) else "water"
        item = _find_place(rng, regions, ground, placed, kind, None, support, base * 0.7)
        if item is not None:
            placed.append(item)
    # A rock is drawn just before what stands on it: same depth, but its base lies lower.
    return SceneLayout(ground, tuple(sorted(placed, key=_depth)))


def _depth(item: SceneItem) -> tuple[float, int]:
    return (round(item.y - 0.45 * item.height, 6) if item.kind == "rock" else item.y, item.kind != "rock")


def _support(rng: np.random.Generator, kind: str, floats: bool) -> str:
    if kind == "balloon":
        return "sky"
    if floats:
        return "water"
    return "rock" if kind in ("duck", "ball") and rng.uniform() < 0.45 else "land"


def _find_place(
    rng: np.random.Generator,
    regions: np.ndarray,
    ground: Ground,
    placed: list[SceneItem],
    kind: str,
    color: str | None,
    support: str,
    base: float,
) -> SceneItem | None:
    for _ in range(ATTEMPTS):
        y = rng.uniform(ground.horizon + 0.08, 0.97) if support != "sky" else rng.uniform(0.3, 0.62)
        near = 0.82 + 0.36 * (y - ground.horizon) / (1 - ground.horizon) if support != "sky" else 1.0
        width = base * near * RELATIVE_WIDTH[kind] * rng.uniform(0.92, 1.1)
        x = rng.uniform(width / 2 + EDGE, 1 - width / 2 - EDGE)
        item = SceneItem(kind, color, float(x), float(y), float(width), support, bool(rng.integers(2)))
        if item.box[1] > EDGE and _stands_well(item, regions) and all(_apart(item, other) for other in placed):
            return item
    return None


def _rock_under(rng: np.random.Generator, item: SceneItem) -> SceneItem:
    width = item.width * rng.uniform(1.1, 1.3)
    height = width * ASPECT["rock"]
    return SceneItem("rock", None, item.x, item.y + 0.72 * height, float(width), "land", bool(rng.integers(2)))


def _stands_well(item: SceneItem, regions: np.ndarray) -> bool:
    """Whether the ground under the item's base is what it should stand on, over its whole width."""
    if item.support == "sky":
        return True
    last = len(regions) - 1
    columns = [min(max(int((item.x + item.width * part) * len(regions)), 0), last) for part in _ACROSS]
    rows = [min(max(int((item.y + item.width * part) * len(regions)), 0), last) for part in _UNDER]
    under = (regions[row, column] for row in rows for column in columns)
    if item.support == "rock":
        bottom = item.y + item.width * 1.2 * ASPECT["rock"]
        return bottom < 1.0 and GROUNDS.index("sky") not in under
    return all(ground == GROUNDS.index(item.support) for ground in under)


def _apart(one: SceneItem, other: SceneItem) -> bool:
    """Whether two items overlap at most a little; what swims or stands side by side keeps its base line free."""
    left, top = max(one.box[0], other.box[0]), max(one.box[1], other.box[1])
    right, bottom = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    overlap = max(right - left, 0) * max(bottom - top, 0)
    smaller = min(one.width * one.height, other.width * other.height)
    return bool(overlap <= MAX_OVERLAP * smaller)


def mirrored(layout: SceneLayout) -> SceneLayout:
    """The same scene seen in a mirror."""
    items = tuple(replace(item, x=1 - item.x, flipped=not item.flipped) for item in layout.items)
    return SceneLayout(replace(layout.ground, mirrored=not layout.ground.mirrored), items)

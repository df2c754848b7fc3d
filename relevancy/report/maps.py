"""Numbers of many maps at once: how concentrated each is, how far two lie apart, how well one meets the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relevancy.metrics.localization import mass_on, peak_on

TOP = 0.1  # of the patches: whose mass is taken
SIDE = 12  # of the raster on which maps of different grids are compared


def masses(maps: np.ndarray) -> np.ndarray:
    """Each map (maps, cells) as a distribution over its cells; NaN for one that is empty or not finite."""
    positive = np.clip(maps.astype(np.float64), 0, None)
    total = positive.sum(1, keepdims=True)
    with np.errstate(all="ignore"):
        return np.where(np.isfinite(total) & (total > 0), positive / total, np.nan)


def entropy(mass: np.ndarray) -> np.ndarray:
    """Normalised entropy (maps,): 1 where all cells have the same mass, 0 where one has it all."""
    cells = mass.shape[1]
    if cells < 2:
        return np.full(len(mass), np.nan)
    with np.errstate(all="ignore"):
        bits = np.where(mass > 0, mass * np.log(mass), np.where(np.isnan(mass), np.nan, 0.0))
    return np.abs(bits.sum(1)) / np.log(cells)


def top_mass(mass: np.ndarray, top: float = TOP) -> np.ndarray:
    """Mass (maps,) in the most relevant share `top` of the cells; an even map has exactly `top` in it.

    Where the share is no whole number of cells, the last cell counts in part.
    """
    count = top * mass.shape[1]
    whole = int(count)
    falling = -np.sort(-mass, axis=1)
    rest = falling[:, whole] * (count - whole) if whole < mass.shape[1] else 0.0
    return falling[:, :whole].sum(1) + rest


def on_raster(mass: np.ndarray, x_edges: np.ndarray, y_edges: np.ndarray, width: int, height: int) -> np.ndarray:
    """Maps (maps, rows * cols) of one grid as distributions over parts of the picture, (maps, SIDE * SIDE)."""
    down, across = (_overlaps(edges, length) for edges, length in ((y_edges, height), (x_edges, width)))
    grids = mass.reshape(len(mass), len(y_edges) - 1, len(x_edges) - 1)
    return masses(np.einsum("ai,nij,bj->nab", down, grids, across, optimize=True).reshape(len(mass), -1))


def divergence(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence (maps,) of distributions (maps, parts), in bits: 0 the same, 1 never meeting."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    middle = (one + other) / 2
    with np.errstate(all="ignore"):
        halves = [
            np.where(mass > 0, mass * np.log2(mass / middle), np.where(np.isnan(mass), np.nan, 0)).sum(1)
            for mass in (one, other)
        ]
    return np.clip((halves[0] + halves[1]) / 2, 0, 1)


def _overlaps(edges: np.ndarray, length: int) -> np.ndarray:
    """Which share of each cell lies in each of SIDE equal parts of the picture's side, (SIDE, cells)."""
    bounds = np.linspace(0, length, SIDE + 1)
    upper = np.minimum(edges[None, 1:], bounds[1:, None])
    lower = np.maximum(edges[None, :-1], bounds[:-1, None])
    return np.clip(upper - lower, 0, None) / np.diff(edges)[None]


@dataclass(frozen=True)
class Meeting:
    """How well a map meets the truth, beside chance.

    pointing: 1 if its peak's cell has its middle on the truth (a share where several cells are the peak), else 0; by
    chance, the share of cells that do. energy: share of its mass on the truth; by chance, the truth's share of the
    picture the model saw. Sources: Zhang et al. 2018 (pointing game), Arras et al. 2022
    (relevance mass).
    """

    pointing: float
    pointing_chance: float
    energy: float
    energy_chance: float


NOTHING = Meeting(*[float("nan")] * 4)


@dataclass(frozen=True, eq=False)
class Truth:
    """Where the truth lies: bool (len(y) - 1, len(x) - 1) over rectangles between lines x and y, in pixels."""

    inside: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @classmethod
    def of_mask(cls, mask: np.ndarray, width: int, height: int) -> Truth:
        """A mask (rows, cols) of any resolution, laid over the whole picture."""
        rows, cols = mask.shape
        return cls(mask.astype(bool), np.linspace(0, width, cols + 1), np.linspace(0, height, rows + 1))

    @classmethod
    def of_boxes(cls, boxes: Sequence[Sequence[float]], width: int, height: int) -> Truth:
        """Boxes x0, y0, x1, y1 in the picture's pixels; where they overlap they count once."""
        corners = np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), 0, [width, height, width, height])
        x, y = (np.unique(np.concatenate([[0.0, end], corners[:, i], corners[:, i + 2]]))
                for i, end in ((0, width), (1, height)))  # fmt: skip
        inside = np.zeros((len(y) - 1, len(x) - 1), bool)
        for x0, y0, x1, y1 in corners:
            inside[np.ix_((y[:-1] >= y0) & (y[1:] <= y1), (x[:-1] >= x0) & (x[1:] <= x1))] = True
        return cls(inside, x, y)

    def met_by(self, image_map: np.ndarray, x_edges: np.ndarray, y_edges: np.ndarray) -> Meeting:
        """The meeting of a map (rows, cols) with this; `NOTHING` if the map is empty, or the model saw no truth."""
        x, y = (np.clip(edges, 0, lines[-1]) for edges, lines in ((x_edges, self.x), (y_edges, self.y)))
        area = np.outer(np.diff(y), np.diff(x))
        seen = area > 0
        mass = np.where(seen, np.clip(image_map, 0, None), 0.0).astype(np.float64)
        truth = self._areas(x, y)
        if not np.isfinite(mass).all() or not mass.any() or not truth.sum() > 0:
            return NOTHING
        middle_x, middle_y = ((edges[1:] + edges[:-1]) / 2 for edges in (x, y))
        hit = self.inside[np.ix_(_between(self.y, middle_y), _between(self.x, middle_x))]
        cover = np.divide(truth, area, out=np.zeros_like(truth), where=seen)
        return Meeting(
            pointing=peak_on(mass[seen], hit[seen]),
            pointing_chance=float(hit[seen].mean()),
            energy=mass_on(mass, cover),
            energy_chance=float(truth.sum() / area.sum()),
        )

    def _areas(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The truth's area in each cell between the edges, (rows, cols)."""
        piece = self.inside * np.outer(np.diff(self.y), np.diff(self.x))
        integral = np.zeros((len(self.y), len(self.x)))
        integral[1:, 1:] = piece.cumsum(0).cumsum(1)
        at_rows = _interpolated(integral, self.y, y)
        at_both = _interpolated(at_rows.T, self.x, x).T
        return np.clip(np.diff(np.diff(at_both, axis=0), axis=1), 0, None)


def _between(lines: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The number of the interval between lines that holds each place."""
    return np.clip(np.searchsorted(lines, places, side="right") - 1, 0, len(lines) - 2)


def _interpolated(values: np.ndarray, lines: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values (lines, any) between the lines, straight from one to the next, (places, any)."""
    below = _between(lines, places)
    part = ((places - lines[below]) / (lines[below + 1] - lines[below]))[:, None]
    return values[below] * (1 - part) + values[below + 1] * part

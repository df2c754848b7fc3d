"""One picture as a model looks at it: views (the whole, tiles, a thumbnail), each a grid of image tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from relevancy.errors import RelevancyError
from relevancy.geometry import Grid, overlaps

_SEEN = 1e-6  # of a token's rectangle: less than this is rounding
_FINEST = 1.5  # times the smallest cell's area: views with cells up to that make the map's grid
_SAME = 0.25  # of the smallest cell: edges nearer than that are one
_GAP = 1e-6  # pixels of the picture that a map may leave out: more gets cells of its own


@dataclass(frozen=True, eq=False)
class View:
    """One look at a picture: `tokens` (rows, cols) are the places of its grid's cells among the picture's image tokens.

    name: "whole", "tile 3" (from 1, row by row), "tiles" where tokens of several are one grid, or "thumbnail".
    """

    name: str
    grid: Grid
    tokens: np.ndarray


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the `count` image tokens of one picture lie in it; those of no view have no place (separators).

    A video has a layout for each of its steps. video: which of the question's videos, None for a picture; frames: how
    many of its frames the step's tokens are made of, among which their relevance is divided.
    grid: cells of the picture's map. A token's relevance is a mass: it is spread evenly over its rectangle, and views
    are summed. Only where the map has cells is anything put, so a rectangle that reaches beyond them is spread over
    the rest of it.
    """

    views: tuple[View, ...]
    count: int
    grid: Grid
    frames: int = 1
    video: int | None = None

    @property
    def plain(self) -> bool:
        """Whether there is one view and the map's cells are its tokens."""
        return len(self.views) == 1 and self.views[0].grid is self.grid

    @cached_property
    def placed(self) -> np.ndarray:
        """Which image tokens have a place, bool (count,)."""
        placed = np.zeros(self.count, dtype=bool)
        for view in self.views:
            placed[view.tokens] = True
        return placed

    @cached_property
    def middles(self) -> np.ndarray:
        """The middle of what each token has seen of the picture, x and y, (count, 2); NaN without a place."""
        middles = np.full((self.count, 2), np.nan)
        for view in self.views:
            boxes = view.grid.boxes()
            middles[view.tokens.ravel()] = (boxes[:, :2] + boxes[:, 2:]) / 2
        return middles

    def image_map(self, values: np.ndarray) -> np.ndarray:
        """Numbers of the image tokens (count,) -> the picture's map, float32 (rows, cols); its sum is theirs."""
        if self.plain:
            return values[self.views[0].tokens].astype(np.float32)
        summed = np.zeros((self.grid.rows, self.grid.cols))
        for view in self.views:
            down, across = self._overlaps(view)
            summed += down @ values[view.tokens].astype(np.float64) @ across.T
        return summed.astype(np.float32)

    def tokens_of(self, cells: np.ndarray) -> np.ndarray:
        """Which image tokens, bool (count,), have seen any of the cells that a mask (rows, cols) chooses."""
        chosen = np.asarray(cells, dtype=bool)
        if chosen.shape != (self.grid.rows, self.grid.cols):
            raise RelevancyError(
                f"a mask of this map has shape ({self.grid.rows}, {self.grid.cols}), not {chosen.shape}"
            )
        found = np.zeros(self.count, dtype=bool)
        for view, (down, across) in zip(self.views, self._meeting, strict=True):
            found[view.tokens] = down.T @ chosen @ across > 0
        return found

    def hidden_with(self, cells: np.ndarray) -> np.ndarray:
        """Which image tokens, bool (count,), are hidden where a mask (rows, cols) of cells is.

        `tokens_of` them; with all cells that show the picture, those go too that have no place.
        """
        whole = np.asarray(cells, dtype=bool).ravel()[self._shown].all()
        return np.ones(self.count, dtype=bool) if whole else self.tokens_of(cells)

    def check(self, tokens: int) -> None:
        """Raises RelevancyError where a picture has another number of image tokens: its places would be wrong."""
        if tokens != self.count:
            raise RelevancyError(
                f"the picture has {tokens} image tokens where {self.count} were expected, so where they lie is not "
                "known: the processor belongs to another model, or cuts pictures in a way not known here"
            )

    @cached_property
    def _shown(self) -> np.ndarray:
        """Which cells show something of the picture, bool (cells,)."""
        return np.asarray(np.ptp(self.grid.boxes().reshape(-1, 2, 2), axis=1).min(-1) > 0)

    @cached_property
    def _meeting(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each view, which of its rows and columns meet which of the map's, 0 or 1."""
        return [(1.0 * (down > _SEEN), 1.0 * (across > _SEEN)) for down, across in map(self._overlaps, self.views)]

    def _overlaps(self, view: View) -> tuple[np.ndarray, np.ndarray]:
        """How much of each row and column of a view lies in those of the map."""
        return overlaps(view.grid.y_edges, self.grid.y_edges), overlaps(view.grid.x_edges, self.grid.x_edges)


def parted(values: np.ndarray, layouts: Sequence[Layout]) -> list[np.ndarray]:
    """What belongs to each of several pictures of one prompt, of numbers of all image tokens in their order.

    Raises RelevancyError where they are not as many as the pictures have.
    """
    ends = np.cumsum([0, *(layout.count for layout in layouts)])
    if len(layouts) == 1:
        layouts[0].check(len(values))
    elif len(values) != ends[-1]:
        raise RelevancyError(
            f"the pictures have {len(values)} image tokens where {ends[-1]} were expected, so where they lie is not "
            "known: the processor belongs to another model, or cuts several pictures in another way than one"
        )
    return [values[start:stop] for start, stop in pairwise(ends)]


def one_grid(grid: Grid, before: int = 0) -> Layout:
    """The layout of a picture whose image tokens are one grid row by row, with `before` others in front."""
    tokens = before + np.arange(grid.rows * grid.cols).reshape(grid.rows, grid.cols)
    return Layout((View("whole", grid, tokens),), before + grid.rows * grid.cols, grid)


def stretched(width: int, height: int, y_edges: np.ndarray, x_edges: np.ndarray) -> Grid:
    """A grid on a picture that was stretched, its edges given as parts of the stretched sides."""
    return Grid(width, height, x_edges * width, y_edges * height)


def tiled(grid: Grid, down: int, across: int, thumbnail: Grid, *, thumbnail_first: bool = False) -> Layout:
    """Tiles row by row, down x across of them on one grid, and the whole picture squashed into one, last or first."""
    rows, cols = grid.rows // down, grid.cols // across
    views: list[View] = []
    for number in range(down * across):
        top, left = number // across * rows, number % across * cols
        tile = Grid(grid.width, grid.height, grid.x_edges[left : left + cols + 1], grid.y_edges[top : top + rows + 1])
        views.append(View(f"tile {number + 1}", tile, _block(rows, cols, number + thumbnail_first)))
    place = 0 if thumbnail_first else len(views)
    views.insert(place, View("thumbnail", thumbnail, _block(rows, cols, place)))
    return Layout(tuple(views), len(views) * rows * cols, covering(grid, thumbnail))


def gathered(views: Sequence[View], count: int) -> Layout:
    """A layout of views of any kind: the map's cells are those of the finest views, wherever one of their edges is.

    Edges nearer to each other than a part of a cell are one. Where coarser views have seen more, there are cells too,
    but none beside the picture.
    """
    if len(views) == 1:
        return Layout(tuple(views), count, views[0].grid)
    areas = [float(np.diff(view.grid.x_edges).mean() * np.diff(view.grid.y_edges).mean()) for view in views]
    finest = [view.grid for view, area in zip(views, areas, strict=True) if area <= _FINEST * min(areas)]
    width, height = finest[0].width, finest[0].height
    grid = Grid(width, height, _united([one.x_edges for one in finest]), _united([one.y_edges for one in finest]))
    for view in views:
        grid = covering(grid, view.grid)
    grid = Grid(width, height, _touching(grid.x_edges, width), _touching(grid.y_edges, height))
    return Layout(tuple(views), count, grid)


def _touching(edges: np.ndarray, length: int) -> np.ndarray:
    """The edges without those of outer cells that lie beside the picture."""
    return edges[(np.append(edges[1:], np.inf) > _GAP) & (np.append(-np.inf, edges[:-1]) < length - _GAP)]


def _united(edges: Sequence[np.ndarray]) -> np.ndarray:
    """All edges in order, those that are nearly the same as their mean."""
    near = _SAME * min(float(np.diff(some).min()) for some in edges)
    every = np.sort(np.concatenate(edges))
    groups = np.split(every, np.flatnonzero(np.diff(every) > near) + 1)
    return np.array([group.mean() for group in groups])


def covering(grid: Grid, whole: Grid) -> Grid:
    """The grid with one more row or column on each side where another view has seen more of the picture."""
    x_edges, y_edges = _covering(grid.x_edges, whole.x_edges), _covering(grid.y_edges, whole.y_edges)
    return Grid(grid.width, grid.height, x_edges, y_edges)


def tile_edges(tiles: int, tile: int, cells: int, step: int) -> np.ndarray:
    """Edges (tiles * cells + 1,) in pixels of `cells` cells of `step` pixels in each of some tiles of `tile` pixels.

    A tile's remainder too small for a cell is seen by no token; inside the picture it goes with the cell beside it.
    """
    starts = np.arange(tiles)[:, None] * tile + np.arange(cells) * step
    return np.append(starts.ravel(), (tiles - 1) * tile + cells * step).astype(np.float64)


def _block(rows: int, cols: int, number: int) -> np.ndarray:
    return (np.arange(rows * cols) + number * rows * cols).reshape(rows, cols)


def _covering(edges: np.ndarray, whole: np.ndarray) -> np.ndarray:
    first = whole[:1] if whole[0] < edges[0] - _GAP else whole[:0]
    last = whole[-1:] if whole[-1] > edges[-1] + _GAP else whole[:0]
    return np.concatenate([first, edges, last])

"""A map's patches in order of relevance, and which of them are hidden at each step."""

from __future__ import annotations

__all__ = ["order", "orders", "random_order", "seen"]

from collections.abc import Sequence
from itertools import pairwise, permutations, product
from math import factorial, prod

import numpy as np

from relevancy.geometry import Grid

DRAWS = 4  # at most: orders of patches of equal relevance, over which numbers are averaged


def seen(grid: Grid) -> np.ndarray:
    """Which patches show any of the picture, bool (rows * cols,); the others saw padding alone."""
    x0, y0, x1, y1 = grid.boxes().T
    return (x1 > x0) & (y1 > y0)


def order(image_map: np.ndarray, among: np.ndarray, seed: int | Sequence[int] = 0) -> np.ndarray:
    """Patches, most relevant first: indices into the flat map of those `among` (bool, (patches,)).

    Patches of equal relevance come in an order drawn from `seed`, so that a map that says nothing is a random map; one
    of its own for each picture, if the seed is. What is not a number comes last.
    """
    values = np.nan_to_num(np.asarray(image_map, np.float64).ravel(), nan=-np.inf)
    patches = np.flatnonzero(among)
    ties = np.random.default_rng(seed).random(len(patches))
    return patches[np.lexsort((ties, -values[patches]))]


def orders(image_map: np.ndarray, among: np.ndarray, seed: int | Sequence[int] = 0) -> np.ndarray:
    """The orders that patches of equal relevance leave open, (orders, patches): a number's mean over them is expected.

    One where no two are equal; all there are, up to `DRAWS`; of more, so many drawn from `seed`, each with its reverse
    among equals, so that each of n equals stands on average in their middle, as in all n! orders.
    """
    values = np.nan_to_num(np.asarray(image_map, np.float64).ravel(), nan=-np.inf)
    patches = np.flatnonzero(among)
    groups = [patches[values[patches] == value] for value in np.unique(values[patches])[::-1]]
    if prod(factorial(min(len(group), DRAWS)) for group in groups) <= DRAWS:
        return np.array([np.concatenate(parts) for parts in product(*map(permutations, groups))], int)
    rng = np.random.default_rng(seed)
    drawn = [[rng.permutation(group) for group in groups] for _ in range(DRAWS // 2)]
    return np.array([np.concatenate([part[::way] for part in parts]) for parts in drawn for way in (1, -1)])


def random_order(among: np.ndarray, seed: int | Sequence[int]) -> np.ndarray:
    """The patches `among` (bool, (patches,)) in an order drawn from `seed`."""
    return np.random.default_rng(seed).permutation(np.flatnonzero(among))


def singly(found: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Orders of several maps, (patches,) or (orders, patches) of each, as single ones, and where each map's begin."""
    some = [np.atleast_2d(own) for own in found]
    return [one for own in some for one in own], np.cumsum([0, *map(len, some)])


def mean_of(values: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Values (single orders, ...) averaged over each map's own, (maps, ...); begins: as `singly` gives them."""
    return np.stack([values[start:stop].mean(0) for start, stop in pairwise(begins)])


def first_of(ordered: np.ndarray, shares: Sequence[float] | np.ndarray, patches: int) -> np.ndarray:
    """For each share, which patches are the first share of the order: bool (shares, patches)."""
    counts = np.floor(np.asarray(shares, np.float64) * len(ordered) + 0.5).astype(int)
    chosen = np.zeros((len(counts), patches), dtype=bool)
    for row, count in zip(chosen, counts, strict=True):
        row[ordered[:count]] = True
    return chosen


def area(shares: Sequence[float] | np.ndarray, values: np.ndarray) -> float:
    """Area under values over shares, trapezoids, divided by the shares' range: the mean height of the curve."""
    x, y = np.asarray(shares, np.float64), np.asarray(values, np.float64)
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))

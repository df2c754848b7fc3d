"""A map's patches in order of relevance, and which of them are hidden at each step."""

from __future__ import annotations

__all__ = ["order", "random_order", "seen"]

from collections.abc import Sequence

import numpy as np

from relevancy.geometry import Grid


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


def random_order(among: np.ndarray, seed: int | Sequence[int]) -> np.ndarray:
    """The patches `among` (bool, (patches,)) in an order drawn from `seed`."""
    return np.random.default_rng(seed).permutation(np.flatnonzero(among))


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

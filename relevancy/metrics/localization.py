"""A map against where the asked-about thing really is: pure numbers, pixel by pixel.

All take `heat` float (height, width), raw, NaN where the model never looked, and `mask` bool of the same shape, and
give NaN where there is nothing to say: no mask inside what the model saw, or a map that is the same everywhere.
"""

from __future__ import annotations

__all__ = ["against_truth", "energy", "iou", "nss", "pointing", "pointing_patch", "rank_accuracy", "recovery"]

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from relevancy.errors import RelevancyError
from relevancy.geometry import Grid, overlaps
from relevancy.metrics.patch_order import seen

if TYPE_CHECKING:
    from relevancy.explanations.explanation import Explanation

RECOVERED = 0.05  # of the patches
_ROUNDING = 1e-9
_BINS = 256
_MAX_SIDE = 256  # pixels of the longer side at which a map and a mask are compared


def pointing(heat: np.ndarray, mask: np.ndarray) -> float:
    """Is the map's highest pixel on the mask? 1 or 0, or the share of its highest pixels. Chance: the mask's share.

    Source: Zhang et al., IJCV 2018 (the pointing game, without its tolerance).
    """
    values, inside = _both(heat, mask)
    return float("nan") if values is None else peak_on(values, inside)


def pointing_patch(image_map: np.ndarray, grid: Grid, mask: np.ndarray) -> float:
    """Has the highest patch its middle on the mask? 1 or 0, or the share of its highest patches.

    image_map: (rows, cols) of the grid. mask: bool (height, width) of its picture. Chance: the share of patches whose
    middle is on the mask, on average the mask's share. The highest pixel of a smoothed map has another chance, since
    smoothing takes from every peak, but least from those at the border.
    """
    values = np.where(seen(grid).reshape(image_map.shape), image_map, np.nan)
    middles = grid.at_middles(mask)
    if middles.any() or not mask.any():
        return pointing(values, middles)
    return float("nan") if np.isnan(pointing(values, np.ones_like(middles))) else 0.0  # smaller than a patch


def energy(heat: np.ndarray, mask: np.ndarray) -> float:
    """Share of the map's positive mass on the mask. Chance: the mask's share.

    Sources: Wang et al. 2020 (energy-based pointing game); the same as relevance mass accuracy, Arras et al. 2022.
    """
    values, inside = _both(heat, mask)
    return float("nan") if values is None else mass_on(values, inside)


def peak_on(values: np.ndarray, inside: np.ndarray) -> float:
    """The share of the highest values that lie inside; both of one shape, of pixels or of cells."""
    return float(inside[values == values.max()].mean())


def mass_on(values: np.ndarray, covered: np.ndarray) -> float:
    """The share of the positive values that lies inside, `covered` being how much of each does; NaN without any."""
    positive = np.clip(values, 0, None)
    total = positive.sum()
    return float((positive * covered).sum() / total) if total > 0 else float("nan")


def rank_accuracy(heat: np.ndarray, mask: np.ndarray) -> float:
    """Share of the K highest pixels on the mask, K being the mask's size. Chance: the mask's share.

    Where equal pixels stand on both sides of the cut, each counts in part. Source: Arras et al. 2022.
    """
    values, inside = _both(heat, mask)
    if values is None:
        return float("nan")
    size = int(inside.sum())
    above, level, part = _cut(values, size)
    return float((inside[above].sum() + part * inside[level].sum()) / size)


def recovery(image_map: np.ndarray, grid: Grid, mask: np.ndarray, share: float = RECOVERED) -> float:
    """Share of the mask that the highest patches cover, whole patches, `share` of them rounded up. Chance: that share.

    image_map: (rows, cols) of the grid. mask: bool (height, width) of its picture; what no patch shows is left out.
    Where equal patches stand on both sides of the cut, each counts in part: the mean over their orders. Source:
    FlashTrace's Recovery@5% on pictures.
    """
    looked = seen(grid)
    values = np.asarray(image_map, np.float64).ravel()[looked]
    down = overlaps(np.arange(grid.height + 1.0), grid.y_edges)
    across = overlaps(np.arange(grid.width + 1.0), grid.x_edges)
    covered = (down @ mask @ across.T).ravel()[looked]
    if not (covered.sum() > 0 and np.isfinite(values).all() and np.ptp(values) > 0):
        return float("nan")
    size = math.ceil(share * len(values) - _ROUNDING)
    above, level, part = _cut(values, size)
    return float((covered[above].sum() + part * covered[level].sum()) / covered.sum())


def _cut(values: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Which values are surely among the `size` highest, which stand at the cut, and how much of those counts."""
    cut = np.partition(values, len(values) - size)[len(values) - size]
    above, level = values > cut, values == cut
    return above, level, float((size - above.sum()) / level.sum())


def iou(heat: np.ndarray, mask: np.ndarray) -> float:
    """Intersection over union of the mask and the map above its Otsu threshold. Chance: what a random map gets.

    Source: Otsu 1979; as in TAM's evaluation (Li et al. 2025).
    """
    values, inside = _both(heat, mask)
    if values is None:
        return float("nan")
    above = values > otsu(values)
    return float((above & inside).sum() / (above | inside).sum())


def nss(heat: np.ndarray, mask: np.ndarray) -> float:
    """Normalised scanpath saliency: the mean z-score of the map on the mask. Chance: 0.

    Source: Peters et al. 2005, as in Bylinskii et al. 2019, with every pixel of the mask for a fixation.
    """
    values, inside = _both(heat, mask)
    return float("nan") if values is None else float(((values - values.mean()) / values.std())[inside].mean())


def otsu(values: np.ndarray) -> float:
    """The threshold above which a value belongs to the upper class: the largest variance between the two classes.

    The middle of the best split where several are equally good. Values are counted in 256 bins.
    """
    low, spread = float(values.min()), float(np.ptp(values))
    # In units of the spread: between two of the smallest numbers there is no room for bins.
    counts, edges = np.histogram((values - low) / (spread or 1), _BINS, (0, 1))
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = len(values) - below
    total = np.cumsum(counts * middles)
    with np.errstate(all="ignore"):
        between = below * above * (total[:-1] / below - (total[-1] - total[:-1]) / above) ** 2
    best = np.flatnonzero(between >= np.nanmax(between) * (1 - 1e-12))
    return low + spread * float(edges[1:-1][best].mean())


def against_truth(result: Explanation, mask: np.ndarray) -> dict[str, float]:
    """All of these of one result against a mask, bool (height, width) of its picture, and `chance`: the mask's share.

    pointing and recovery read patches, iou the smooth map that is drawn, the others each patch's own value.
    """
    size = result.image.size
    if mask.shape != size[::-1]:
        raise RelevancyError(
            f"The mask has {mask.shape[1]} x {mask.shape[0]} pixels, the picture {size[0]} x {size[1]}."
        )
    small = result.reduced(_MAX_SIDE)
    if small.image.size != size:
        shrunk = cv2.resize(mask.astype(np.float32), small.image.size, interpolation=cv2.INTER_AREA)
        mask = shrunk >= min(0.5, float(shrunk.max()) or 1.0)
    plain = small.heatmap(smooth=False)
    inside = np.isfinite(plain)
    chance = float(mask[inside].mean()) if inside.any() else float("nan")
    return {
        "pointing": pointing_patch(small.image_map, small.grid, mask),
        "iou": iou(small.heatmap(), mask),
        "energy": energy(plain, mask),
        "recovery": recovery(small.image_map, small.grid, mask),
        "rank_accuracy": rank_accuracy(plain, mask),
        "nss": nss(plain, mask),
        "chance": chance,
    }


def _both(heat: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Values and mask, flat, where the model looked; no values where a metric has nothing to say."""
    looked = ~np.isnan(heat)
    values, inside = heat[looked].astype(np.float64), mask[looked]
    fit = inside.any() and np.isfinite(values).all() and np.ptp(values) > 0
    return (values if fit else None), inside

"""What evidence must see through: explainers that look at no model, a model that looks at no picture."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from relevancy.demo.world import Scene
from relevancy.geometry import Grid, overlaps
from relevancy.methods.functions import MapRequest
from relevancy.methods.registry import MapFunction
from relevancy.models.model import Model, wrap

_WIDE = 0.2  # of the picture's side: the blob's standard deviation
_OFF = 0.25  # of a patch: how far the blob is from the middle, so that one patch is the highest


def planting(maps: Sequence[np.ndarray]) -> MapFunction:
    """A method, as `explain` takes one, that gives these maps (rows, cols) for a batch whatever the model does."""
    stacked = np.stack(maps)

    def planted(_: MapRequest) -> np.ndarray:
        return stacked

    return planted


def outline(drawn: Scene, items: Sequence[int], grid: Grid) -> np.ndarray:
    """The objects themselves as a map (rows, cols): how many of their visible pixels each patch has."""
    down = overlaps(np.arange(grid.height + 1.0), grid.y_edges)
    across = overlaps(np.arange(grid.width + 1.0), grid.x_edges)
    return down @ drawn.mask(*items).astype(np.float64) @ across.T


def another(drawn: Scene, items: Sequence[int]) -> int | None:
    """The most visible of the other objects; None where there is no other."""
    others = [item for item in range(len(drawn.layout.items)) if item not in items]
    return max(others, key=lambda item: int(drawn.mask(item).sum()), default=None)


def blob(rows: int, cols: int) -> np.ndarray:
    """A round spot in the middle of the picture, (rows, cols)."""
    y, x = ((np.arange(length) - (length - 1) / 2 + _OFF) / (length * _WIDE) for length in (rows, cols))
    return np.exp(-(y[:, None] ** 2 + x**2) / 2)


def blinded(model: Model) -> Model:
    """The same model with a connector of zeros: of every picture it sees the same nothing. For LLaVA's layout."""
    blind = copy.deepcopy(model.model)
    with torch.no_grad():
        for parameter in blind.model.multi_modal_projector.parameters():
            parameter.zero_()
    return wrap(blind, model.processor, name=f"{model.name}, blind")

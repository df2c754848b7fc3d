"""The relevance on one picture: raw numbers on its patches, in its own pixels, and drawn over it."""

from __future__ import annotations

__all__ = ["PictureMap"]

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from relevancy.geometry import Grid
from relevancy.plotting import figures
from relevancy.plotting import overlay as drawing


@dataclass(frozen=True, eq=False)
class PictureMap:
    """One picture of what a model read, or one frame of a video, and the relevance on it.

    grid: where the cells of `image_map`, (rows, cols) float32, raw, lie in the picture. share: of the row's whole mass,
    what is on this picture's tokens; of signed numbers, that of their sizes. Frames that share tokens divide both.
    video: which of the question's videos the frame is of, from 0; None for a picture.
    """

    image: Image.Image = field(repr=False)
    grid: Grid = field(repr=False)
    image_map: np.ndarray = field(repr=False)
    share: float
    video: int | None = None

    @property
    def empty(self) -> bool:
        """Whether the map shows nothing: all zero, or not a number."""
        return not np.isfinite(self.image_map).all() or not self.image_map.any()

    def heatmap(self, *, smooth: bool = True) -> np.ndarray:
        """As `Explanation.heatmap`."""
        return self.grid.heatmap(self.image_map, smooth=smooth)

    def shown(self, *, smooth: bool = True, floor: float = drawing.FLOOR) -> tuple[np.ndarray, str]:
        """As `Explanation.shown`, by this picture's own share."""
        return drawing.shown(self.heatmap(smooth=smooth), self.share, floor)

    def overlay(self, *, smooth: bool = True, floor: float = drawing.FLOOR, **options: Any) -> Image.Image:
        """As `Explanation.overlay`."""
        heatmap, why = self.shown(smooth=smooth, floor=floor)
        return drawing.labelled(drawing.overlay(self.image, heatmap, **options), why)

    def reduced(self, max_side: int) -> PictureMap:
        """As `Explanation.reduced`."""
        scale = max_side / max(self.image.size)
        if scale >= 1:
            return self
        width, height = (max(1, round(side * scale)) for side in self.image.size)
        grid = Grid(
            width,
            height,
            self.grid.x_edges * (width / self.grid.width),
            self.grid.y_edges * (height / self.grid.height),
        )
        return replace(self, image=figures.resized(self.image, (width, height)), grid=grid)

    def patch_at(self, x: float, y: float) -> tuple[int, int] | None:
        """As `Explanation.patch_at`."""
        col, row = (
            int(np.searchsorted(edges, place, side="right")) - 1
            for edges, place in ((self.grid.x_edges, x + 0.5), (self.grid.y_edges, y + 0.5))
        )
        inside = 0 <= x < self.grid.width and 0 <= y < self.grid.height
        return (row, col) if inside and 0 <= row < self.grid.rows and 0 <= col < self.grid.cols else None

    def placed(self) -> dict[str, Any]:
        """Where its cells lie, as JSON takes it."""
        return {
            "width": self.grid.width,
            "height": self.grid.height,
            "rows": self.grid.rows,
            "cols": self.grid.cols,
            "x_edges": self.grid.x_edges.tolist(),
            "y_edges": self.grid.y_edges.tolist(),
        }

    @classmethod
    def stored(
        cls, image: Image.Image, placed: Mapping[str, Any], image_map: Any, share: float, video: int | None = None
    ) -> PictureMap:
        """From JSON: what `placed` gave, and a map as lists in which null stands for what was not a number."""
        grid = Grid(placed["width"], placed["height"], np.array(placed["x_edges"]), np.array(placed["y_edges"]))
        return cls(image, grid, np.array(image_map, dtype=np.float32), share, video)

"""Image token <-> rectangle in the ORIGINAL picture, through whatever an image processor does before the model looks.

Every step of a supported processor (pad to a square, resize, center crop, zero pad) maps columns to columns and rows to
rows, so a grid of tokens is two lists of edges, and a map on the picture is `weights_y @ map @ weights_x.T`.
"""

__all__ = ["Grid"]

from dataclasses import dataclass
from typing import Any

import numpy as np

from relevancy.errors import RelevancyError
from relevancy.images import MAX_PIXELS

_STEPS = ("preprocess", "_preprocess_image_like_inputs", "process_image", "_preprocess", "resize", "center_crop", "pad",
          "pad_to_square")  # fmt: skip
_GENERIC = frozenset({"BaseImageProcessor", "PilBackend", "TorchvisionBackend"})
_SQUARING = frozenset({"LlavaImageProcessor", "LlavaImageProcessorPil"})
_OVERLAP = 1e-9  # pixels; less than this of a pixel inside the grid is rounding, not sight
_GROWTH = 4  # times the picture's own pixels that its processor may need on the way, once it is past MAX_PIXELS


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the model's image tokens lie in a picture of `width` x `height` pixels.

    `x_edges` (cols + 1,) and `y_edges` (rows + 1,) are float64 pixel coordinates of the original picture, 0 at its left
    and upper border. They lie outside the picture where the model saw padding.
    """

    width: int
    height: int
    x_edges: np.ndarray
    y_edges: np.ndarray

    @property
    def rows(self) -> int:
        """Number of token rows."""
        return len(self.y_edges) - 1

    @property
    def cols(self) -> int:
        """Number of token columns."""
        return len(self.x_edges) - 1

    @property
    def unseen(self) -> float:
        """Share of the picture's area that the model never saw, as what a center crop cuts off."""
        width, height = np.ptp(np.clip(self.x_edges, 0, self.width)), np.ptp(np.clip(self.y_edges, 0, self.height))
        return float(1 - width * height / (self.width * self.height))

    def boxes(self) -> np.ndarray:
        """Each token's rectangle (rows * cols, 4) as x0, y0, x1, y1, clipped to the picture, row by row.

        A token that saw only padding has an empty rectangle on the picture's border.
        """
        x, y = np.clip(self.x_edges, 0, self.width), np.clip(self.y_edges, 0, self.height)
        x0, y0 = np.meshgrid(x[:-1], y[:-1])
        x1, y1 = np.meshgrid(x[1:], y[1:])
        return np.stack([x0, y0, x1, y1], axis=-1).reshape(-1, 4)

    def at_middles(self, pixels: np.ndarray) -> np.ndarray:
        """What pixels (height, width) are at the middle of each token's rectangle on the picture, (rows, cols)."""
        x0, y0, x1, y1 = self.boxes().reshape(self.rows, self.cols, 4).transpose(2, 0, 1)
        x, y = (
            np.clip(((start + end) / 2).astype(int), 0, length - 1)
            for start, end, length in ((x0, x1, self.width), (y0, y1, self.height))
        )
        return pixels[y, x]

    def heatmap(self, image_map: np.ndarray, smooth: bool = True) -> np.ndarray:
        """One value per token (rows, cols) -> one value per pixel, float32 (height, width).

        Bilinear between the tokens' centers and constant beyond the outermost; `smooth=False` gives each pixel its own
        token's value. NaN where the model never looked.
        """
        image_map = np.asarray(image_map, dtype=np.float32)
        if image_map.shape != (self.rows, self.cols):
            raise RelevancyError(f"a map of this picture has shape ({self.rows}, {self.cols}), not {image_map.shape}")
        rows, unseen_rows = _weights(self.y_edges, self.height, smooth)
        cols, unseen_cols = _weights(self.x_edges, self.width, smooth)
        pixels = (rows @ image_map) @ cols.T
        pixels[unseen_rows] = np.nan
        pixels[:, unseen_cols] = np.nan
        return pixels

    def pixels_of(self, cells: np.ndarray) -> np.ndarray:
        """The pixels of chosen cells, bool (rows, cols) -> bool (height, width).

        A pixel in which cells meet goes with those that cover at least half of what all of them cover of it.
        """
        down, across = (
            overlaps(np.arange(length + 1.0), edges).T
            for edges, length in ((self.y_edges, self.height), (self.x_edges, self.width))
        )
        covered = down @ np.asarray(cells, dtype=np.float64) @ across.T
        return np.asarray(covered >= 0.5 - _OVERLAP)

    def spread(self, image_map: np.ndarray) -> np.ndarray:
        """A map (rows, cols) as a mass, float64 (height, width): each cell's is even over its part of the picture.

        The sum is the map's own, less that of cells which saw padding only. Nothing is where the model never looked.
        """
        down = overlaps(self.y_edges, np.arange(self.height + 1.0))
        across = overlaps(self.x_edges, np.arange(self.width + 1.0))
        return down @ np.asarray(image_map, dtype=np.float64) @ across.T


def overlaps(edges: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Which part of each cell lies in each of other cells, (others, cells): columns sum to 1, or to 0 beside them all.

    edges, onto: where the cells and the others begin and end, ascending. What lies beside all others is left out.
    """
    common = np.minimum(edges[1:], onto[1:, None]) - np.maximum(edges[:-1], onto[:-1, None])
    common = np.where(common > _OVERLAP, common, 0.0)
    sums = common.sum(0)
    return common / np.where(sums > 0, sums, 1.0)


def _weights(edges: np.ndarray, length: int, smooth: bool) -> tuple[np.ndarray, np.ndarray]:
    """How much of each cell a pixel shows, float32 (length, cells); whether no cell touches it, bool (length,)."""
    start = np.arange(length, dtype=np.float64)
    center, cells = start + 0.5, np.arange(len(edges) - 1)
    unseen = (start + 1 - edges[0] <= _OVERLAP) | (edges[-1] - start <= _OVERLAP)
    if smooth:
        place = np.interp(center, (edges[:-1] + edges[1:]) / 2, cells)
    else:
        place = np.clip(np.searchsorted(edges, center, side="right") - 1, 0, cells[-1])
    return np.maximum(0, 1 - np.abs(place[:, None] - cells)).astype(np.float32), unseen


def grid_for(
    image_processor: Any, width: int, height: int, rows: int, cols: int, *, token_side: int | None = None
) -> Grid:
    """The grid of `rows` x `cols` tokens on a `width` x `height` picture, from the processor's own settings.

    Follows transformers' shared pipeline (CLIP, SigLIP, BiT as used by DINOv2, ...) and LLaVA's pad to a square, with
    their rounding. `token_side` is the number of processed pixels that a token spans; without it, it is the one that
    fits: pixels / tokens, or the only whole number that leaves a remainder smaller than a token. A processor that does
    anything else, or would have to blow the picture up beyond reason, raises `RelevancyError`: no map is better than a
    wrong one.
    """
    x, y = _GridAxis(width), _GridAxis(height)
    squaring = _check_known(image_processor)
    name = type(image_processor).__name__
    if squaring and image_processor.do_pad:
        side = max(width, height)
        _check_growth(width, height, side, side, f"{name} pads it to a square")
        x, y = x.padded(side), y.padded(side)
    if image_processor.do_resize:
        new_width, new_height = _resized(name, image_processor.size, x.length, y.length)
        _check_growth(width, height, new_width, new_height, f"{name} resizes its short side")
        x, y = x.resized(new_width), y.resized(new_height)
    if image_processor.do_center_crop:
        size, ceil = image_processor.crop_size, getattr(image_processor, "backend", "pil") == "pil"
        x, y = x.cropped(size["width"], ceil), y.cropped(size["height"], ceil)
    if not squaring and image_processor.do_pad:
        size = image_processor.pad_size
        if not size:
            raise RelevancyError(
                f"{name} pads to the largest picture of a batch: give it a pad_size or set do_pad=False"
            )
        x, y = x.extended(size["width"]), y.extended(size["height"])
    return Grid(width, height, x.edges(cols, token_side), y.edges(rows, token_side))


@dataclass(frozen=True)
class _GridAxis:
    """One axis on its way to the model: pixel p of its `length` starts at `origin + p * step` in the original."""

    length: int
    origin: float = 0.0
    step: float = 1.0

    def padded(self, side: int) -> "_GridAxis":
        return _GridAxis(side, self.origin - (side - self.length) // 2 * self.step, self.step)

    def resized(self, length: int) -> "_GridAxis":
        return _GridAxis(length, self.origin, self.step * self.length / length)

    def cropped(self, length: int, ceil: bool) -> "_GridAxis":
        # A crop larger than the picture pads it with zeros; Pillow's path puts the odd pixel first, torchvision's last.
        first = (self.length - length) // 2 if ceil or length <= self.length else -((length - self.length) // 2)
        return _GridAxis(length, self.origin + first * self.step, self.step)

    def extended(self, length: int) -> "_GridAxis":
        return _GridAxis(length, self.origin, self.step)

    def edges(self, cells: int, side: int | None) -> np.ndarray:
        """Edges (cells + 1,) of the cells; a remainder too small for one more cell is never looked at."""
        smallest, largest = self.length // (cells + 1) + 1, self.length // cells
        if side is None and (smallest == largest or self.length % cells == 0):
            side = largest
        if side is None or not smallest <= side <= largest:
            raise RelevancyError(
                f"{cells} image tokens do not divide the {self.length} pixels the image processor makes"
            )
        return self.origin + np.arange(cells + 1, dtype=np.float64) * side * self.step


def _check_known(image_processor: Any) -> bool:
    """Whether it is LLaVA's processor, which pads to a square first; raises unless every step is a known one."""
    kind = type(image_processor)
    owners = {step: next((c.__name__ for c in kind.__mro__ if step in vars(c)), None) for step in _STEPS}
    settings = ("do_resize", "size", "do_center_crop", "crop_size", "do_pad")
    squaring = owners["_preprocess"] in _SQUARING
    known = _GENERIC | _SQUARING if squaring else _GENERIC
    strange = [step for step, owner in owners.items() if owner and owner not in known]
    missing = [setting for setting in settings if not hasattr(image_processor, setting)]
    if getattr(image_processor, "image_grid_pinpoints", None):
        reason = "it cuts pictures into tiles"
    elif owners["_preprocess"] is None or missing:
        reason = "it is not built like the image processors of transformers >= 5"
    elif strange:
        reason = f"it has its own {', '.join(strange)}"
    else:
        return squaring
    raise RelevancyError(f"{kind.__name__}: no known way from its image tokens back to the picture: {reason}")


def _resized(name: str, size: Any, width: int, height: int) -> tuple[int, int]:
    """Width and height after the processor's resize step, with its rounding."""
    given = {key: value for key, value in dict(size or {}).items() if value}
    if set(given) == {"shortest_edge"}:
        short, long = min(width, height), max(width, height)
        new_short, new_long = given["shortest_edge"], int(given["shortest_edge"] * long / short)
        return (new_short, new_long) if width <= height else (new_long, new_short)
    if set(given) == {"height", "width"}:
        return given["width"], given["height"]
    raise RelevancyError(f"{name}: no known way to follow size={given}; it takes shortest_edge, or height and width")


def _check_growth(width: int, height: int, new_width: int, new_height: int, step: str) -> None:
    if new_width * new_height > max(MAX_PIXELS, _GROWTH * width * height):
        raise RelevancyError(
            f"a picture of {width} x {height} is too elongated: {step}, which makes {new_width} x {new_height} pixels; "
            "cut it to the part that matters"
        )

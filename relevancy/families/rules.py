"""How each family lays its image tokens over a picture, by transformers' own arithmetic."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np

from relevancy.errors import RelevancyError
from relevancy.families.views import Layout, View, covering, one_grid, stretched, tile_edges, tiled
from relevancy.geometry import Grid

Rule = Callable[[Any, Any, int, int], Layout | None]


def layout_of(config: Any, processor: Any, width: int, height: int) -> Layout | None:
    """Where the image tokens of a picture of `width` x `height` pixels lie; None where no rule is written for it.

    config, processor: the model's. Raises RelevancyError for a processor that belongs to another model.
    """
    pictures = processor.image_processor
    expected, rule = RULES.get(config.model_type, ("", None))
    name = type(pictures).__name__.removesuffix("Pil").removesuffix("Fast")
    if rule is None or name != expected or not pictures.do_resize:
        return None
    return rule(config, processor, width, height)


def _gemma3(config: Any, processor: Any, width: int, height: int) -> Layout | None:
    """Stretched to a square, pooled to mm_tokens_per_image; without pan and scan."""
    if _setting(processor, "do_pan_and_scan"):
        return None
    vision, side = config.vision_config, math.isqrt(config.mm_tokens_per_image)
    pooled = vision.image_size // vision.patch_size // side * vision.patch_size
    edges = tile_edges(1, vision.image_size, side, pooled) / vision.image_size
    return one_grid(stretched(width, height, edges, edges))


def _gemma4(config: Any, processor: Any, width: int, height: int) -> Layout:
    """Sides rounded down to pooled patches within a budget of them, by stretching."""
    pictures = processor.image_processor
    patch, pooled = pictures.patch_size, pictures.pooling_kernel_size
    most = pictures.max_soft_tokens * pooled**2
    size = _followed(config, _own(pictures, "get_aspect_ratio_preserving_size"), height, width, patch, most, pooled)
    return _cut(width, height, size, patch * pooled)


def _janus(config: Any, processor: Any, width: int, height: int) -> Layout | None:
    """Long side to `size`, then padded to a square around the middle; one grid."""
    pictures, vision = processor.image_processor, config.vision_config
    side, cells = pictures.size["height"], pictures.size["height"] // vision.patch_size
    seen = [max(round(length * (side / max(width, height))), pictures.min_size) for length in (width, height)]
    if not pictures.do_pad or max(seen) != side:
        return None
    edges = tile_edges(1, side, cells, vision.patch_size)
    x_edges, y_edges = (edges - (side - length) // 2 for length in seen)
    return one_grid(stretched(width, height, y_edges / seen[1], x_edges / seen[0]))


def _ovis2(config: Any, processor: Any, width: int, height: int) -> Layout | None:
    """The whole first, squashed to a tile, if there are more tiles than one; then columns x rows of tiles."""
    pictures, vision = processor.image_processor, config.vision_config
    size, most, across, down = pictures.size["height"], _setting(processor, "max_patches"), 1, 1
    step = vision.patch_size * vision.hidden_stride
    if size % step or pictures.size["width"] != size or not _setting(processor, "use_covering_area_grid"):
        return None
    if _setting(processor, "crop_to_patches"):
        across, down = _own(pictures, "get_min_tile_covering_grid")((height, width), size, most)
    return _tiled(width, height, (down, across), (size, size), (step, step), thumbnail_first=True)


def _perception_lm(config: Any, processor: Any, width: int, height: int) -> Layout | None:
    """The whole first, squashed to a tile; then columns x rows of tiles, even if there is only one."""
    pictures, vision = processor.image_processor, config.vision_config
    size, step = pictures.tile_size, vision.patch_size * config.projector_pooling_ratio
    if size % step or pictures.vision_input_type != "thumb+tile":
        return None
    fitting = pictures._fit_image_to_canvas(width, height, size)
    across, down = fitting or pictures._find_closest_aspect_ratio(width, height, size)
    cells = size // step
    whole, grid = (
        stretched(width, height, np.linspace(0, 1, rows * cells + 1), np.linspace(0, 1, cols * cells + 1))
        for rows, cols in ((1, 1), (down, across))
    )
    return tiled(grid, down, across, whole, thumbnail_first=True)


def _pixtral(config: Any, processor: Any, width: int, height: int) -> Layout | None:
    """Shrunk to the longest edge, sides rounded up to merged patches, by stretching."""
    pictures, vision = processor.image_processor, config.vision_config
    step = vision.patch_size * getattr(config, "spatial_merge_size", 1)
    merged = getattr(processor, "effective_patch_size", processor.patch_size * processor.spatial_merge_size)
    if merged != step or pictures.do_center_crop:
        return None
    longest, empty = pictures.size["longest_edge"], np.empty((height, width, 3), np.bool_)
    size = _own(pictures, "get_resize_output_image_size")(empty, size=longest, patch_size=step)
    return _cut(width, height, size, step)


def _internvl(config: Any, processor: Any, width: int, height: int) -> Layout:
    """Stretched to columns x rows of tiles; the whole last, if there is more than one."""
    pictures = processor.image_processor
    size = (pictures.size["height"], pictures.size["width"])
    most, across, down = _setting(processor, "max_patches"), 1, 1
    if _setting(processor, "crop_to_patches") and most > 1:
        canvas = _own(pictures, "get_optimal_tiled_canvas")
        across, down = canvas((height, width), size, _setting(processor, "min_patches"), most)
    merged = config.downsample_factor if hasattr(config, "downsample_factor") else 1 / config.downsample_ratio
    steps = [round(patch * merged) for patch in _pair(config.vision_config.patch_size)]
    return _tiled(width, height, (down, across), size, (steps[0], steps[1]))


def _idefics3(config: Any, processor: Any, width: int, height: int) -> Layout:
    """Long side to `size`, sides up to multiples of a tile, all by stretching; the whole last, squashed to a tile."""
    pictures = processor.image_processor
    tile, down, across = pictures.max_image_size["longest_edge"], 1, 1
    if _setting(processor, "do_image_splitting"):
        rescaled = _own(pictures, "_resize_output_size_rescale_to_max_len")
        bounded = _own(pictures, "_resize_output_size_scale_below_upper_bound")
        longest = _own(pictures, "MAX_IMAGE_SIZE")
        tall, wide = bounded(*rescaled(height, width, max_len=pictures.size["longest_edge"]), max_len=longest)
        aspect = wide / tall
        if wide >= tall:
            wide = math.ceil(wide / tile) * tile
            tall = math.ceil(int(wide / aspect) / tile) * tile
        else:
            tall = math.ceil(tall / tile) * tile
            wide = math.ceil(int(tall * aspect) / tile) * tile
        down, across = tall // tile, wide // tile
    step = config.vision_config.patch_size * config.scale_factor
    return _tiled(width, height, (down, across), (tile, tile), (step, step))


def _qwen2_vl(config: Any, processor: Any, width: int, height: int) -> Layout:
    """Sides rounded to merged patches within a budget of pixels, by stretching."""
    pictures = processor.image_processor
    step = pictures.patch_size * pictures.merge_size
    budget = pictures.size["shortest_edge"], pictures.size["longest_edge"]
    return _cut(width, height, _followed(config, _own(pictures, "smart_resize"), height, width, step, *budget), step)


def _glm4v(config: Any, processor: Any, width: int, height: int) -> Layout:
    """As Qwen2-VL, with a budget of pixels over all frames of a patch."""
    pictures = processor.image_processor
    step, frames = pictures.patch_size * pictures.merge_size, pictures.temporal_patch_size
    budget = pictures.size["shortest_edge"], pictures.size["longest_edge"]
    resize = _own(pictures, "smart_resize")
    return _cut(width, height, _followed(config, resize, frames, height, width, frames, step, *budget), step)


def _followed(config: Any, resize: Callable[..., tuple[int, int]], *arguments: int) -> tuple[int, int]:
    """Height and width that a resizing of transformers makes. Raises RelevancyError where it refuses a picture."""
    try:
        return resize(*arguments)
    except ValueError as error:
        raise RelevancyError(f"a picture of these sides is too elongated for {config.model_type}: {error}") from error


def _cut(width: int, height: int, size: tuple[int, int], step: int) -> Layout:
    """One grid on a picture that was stretched to `size`, height and width, a token for each `step` pixels."""
    rows, cols = (length // step for length in size)
    return one_grid(stretched(width, height, np.linspace(0, 1, rows + 1), np.linspace(0, 1, cols + 1)))


def _llava_next(config: Any, processor: Any, width: int, height: int) -> Layout:
    """The whole first, stretched; then tiles of the best pinpoint (resized, centered, padded) as one grid of rows.

    Rows and columns of padding are cut off, and a separator ends each row.
    """
    return _anyres(config, processor, width, height, most_tiles=math.inf)


def _llava_onevision(config: Any, processor: Any, width: int, height: int) -> Layout:
    """As LLaVA-NeXT; the tiles' features are interpolated to fewer above a number of tokens."""
    most = int(processor.vision_aspect_ratio.strip("anyres_max_"))  # noqa: B005  # as transformers strips it
    return _anyres(config, processor, width, height, most_tiles=most)


def _anyres(config: Any, processor: Any, width: int, height: int, *, most_tiles: float) -> Layout:
    pictures, vision = processor.image_processor, config.vision_config
    side, patch = vision.image_size, vision.patch_size
    seen = [dict(given or {}) for given in (pictures.size, pictures.crop_size)]
    if any(value not in (None, side) for given in seen for value in given.values()):
        raise RelevancyError(
            f"{config.model_type}: size and crop_size of its image processor must be the {side} pixels of the tower"
        )
    best = _own(pictures, "select_best_resolution")((height, width), pictures.image_grid_pinpoints)
    if any(length % side for length in best):
        raise RelevancyError(
            f"{config.model_type}: the pinpoint {best[0]} x {best[1]} is no multiple of the tower's {side} pixels: the "
            "processor belongs to another model"
        )
    cells = side // patch
    y_edges, x_edges = (tile_edges(length // side, side, cells, patch) for length in best)
    resized = _own(pictures, "get_patch_output_size")(
        np.empty((3, height, width), np.bool_), best, input_data_format="channels_first"
    )
    y_edges, x_edges = (
        (edges - (target - length) // 2) * (original / length)
        for edges, target, length, original in zip((y_edges, x_edges), best, resized, (height, width), strict=True)
    )
    rows, cols = len(y_edges) - 1, len(x_edges) - 1
    if width / height > cols / rows:
        y_edges = _unpadded(y_edges, int(round(height * (cols / width), 7)))
    else:
        x_edges = _unpadded(x_edges, int(round(width * (rows / height), 7)))
    rows, cols = len(y_edges) - 1, len(x_edges) - 1
    ratio = math.sqrt(rows * cols / (most_tiles * cells**2))
    if ratio > 1.1:
        y_edges, x_edges = _resampled(y_edges, int(rows // ratio)), _resampled(x_edges, int(cols // ratio))
        rows, cols = len(y_edges) - 1, len(x_edges) - 1
    part = tile_edges(1, side, cells, patch) / side
    whole = View("whole", stretched(width, height, part, part), np.arange(cells**2).reshape(cells, cells))
    if not rows * cols:
        return Layout((whole,), cells**2 + rows, whole.grid)
    grid = Grid(width, height, x_edges, y_edges)
    tokens = cells**2 + np.arange(rows)[:, None] * (cols + 1) + np.arange(cols)
    return Layout((whole, View("tiles", grid, tokens)), cells**2 + rows * (cols + 1), covering(grid, whole.grid))


def _unpadded(edges: np.ndarray, length: int) -> np.ndarray:
    """Edges without those of the rows that are padding, as many at each end."""
    padding = (len(edges) - 1 - length) // 2
    return edges[padding : len(edges) - padding]


def _resampled(edges: np.ndarray, cells: int) -> np.ndarray:
    """Edges of fewer cells over the same length, as an interpolation of their features makes them."""
    places = np.arange(len(edges))
    return np.interp(np.linspace(0, places[-1], cells + 1), places, edges)


def _tiled(
    width: int,
    height: int,
    tiles: tuple[int, int],
    size: tuple[int, int],
    steps: tuple[int, int],
    *,
    thumbnail_first: bool = False,
) -> Layout:
    """Tiles of `size` pixels on the stretched picture, a token for each step of pixels, the whole last or first.

    tiles, size, steps: (down, across).
    """
    (rows, y_step), (cols, x_step) = ((length // step, step) for length, step in zip(size, steps, strict=True))
    down, across = tiles
    whole = stretched(
        width,
        height,
        tile_edges(1, size[0], rows, y_step) / size[0],
        tile_edges(1, size[1], cols, x_step) / size[1],
    )
    if tiles == (1, 1):
        return one_grid(whole)
    grid = stretched(
        width,
        height,
        tile_edges(down, size[0], rows, y_step) / (down * size[0]),
        tile_edges(across, size[1], cols, x_step) / (across * size[1]),
    )
    return tiled(grid, down, across, whole, thumbnail_first=thumbnail_first)


def _setting(processor: Any, name: str) -> Any:
    """A setting of the image processor, or what the processor sets in its place at every call."""
    own = getattr(processor.image_processor, name, None)
    return getattr(processor, "images_kwargs", {}).get(name, own)


def _own(pictures: Any, name: str) -> Any:
    """A function or number of the module in which transformers defines this image processor."""
    for kind in type(pictures).__mro__:
        if (found := getattr(sys.modules[kind.__module__], name, None)) is not None:
            return found
    raise RelevancyError(f"{type(pictures).__name__} of this transformers has no {name}: use transformers 5.23 or so")


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


# Of each family (config.model_type): its image processor, and the rule.
RULES = MappingProxyType[str, tuple[str, Rule]](
    {
        "aya_vision": ("GotOcr2ImageProcessor", _internvl),
        "cohere_compass": ("CohereCompassImageProcessor", _qwen2_vl),
        "cohere2_vision": ("Cohere2VisionImageProcessor", _internvl),
        "cosmos3_edge": ("Cosmos3EdgeImageProcessor", _glm4v),
        "cosmos3_omni": ("Qwen2VLImageProcessor", _qwen2_vl),
        "deepseek_vl": ("DeepseekVLImageProcessor", _janus),
        "ernie4_5_vl_moe": ("Ernie4_5_VLMoeImageProcessor", _qwen2_vl),
        "exaone4_5": ("Qwen2VLImageProcessor", _qwen2_vl),
        "gemma3": ("Gemma3ImageProcessor", _gemma3),
        "gemma4": ("Gemma4ImageProcessor", _gemma4),
        "gemma4_unified": ("Gemma4UnifiedImageProcessor", _gemma4),
        "glm46v": ("Glm46VImageProcessor", _glm4v),
        "glm4v": ("Glm4vImageProcessor", _glm4v),
        "glm4v_moe": ("Glm4vImageProcessor", _glm4v),
        "glm_ocr": ("Glm46VImageProcessor", _glm4v),
        "hyperclovax_vision_v2": ("Qwen2VLImageProcessor", _qwen2_vl),
        "idefics3": ("Idefics3ImageProcessor", _idefics3),
        "internvl": ("GotOcr2ImageProcessor", _internvl),
        "janus": ("JanusImageProcessor", _janus),
        "lighton_ocr": ("PixtralImageProcessor", _pixtral),
        "llava": ("PixtralImageProcessor", _pixtral),
        "llava_next": ("LlavaNextImageProcessor", _llava_next),
        "llava_next_video": ("LlavaNextImageProcessor", _llava_next),
        "llava_onevision": ("LlavaOnevisionImageProcessor", _llava_onevision),
        "minimax_m3_vl": ("MiniMaxM3VLImageProcessor", _qwen2_vl),
        "mistral3": ("PixtralImageProcessor", _pixtral),
        "ovis2": ("Ovis2ImageProcessor", _ovis2),
        "paddleocr_vl": ("PaddleOCRVLImageProcessor", _qwen2_vl),
        "perception_lm": ("PerceptionLMImageProcessor", _perception_lm),
        "qianfan_ocr": ("GotOcr2ImageProcessor", _internvl),
        "qwen2_5_omni_thinker": ("Qwen2VLImageProcessor", _qwen2_vl),
        "qwen2_5_vl": ("Qwen2VLImageProcessor", _qwen2_vl),
        "qwen2_vl": ("Qwen2VLImageProcessor", _qwen2_vl),
        "qwen3_5": ("Qwen2VLImageProcessor", _qwen2_vl),
        "qwen3_omni_moe_thinker": ("Qwen2VLImageProcessor", _qwen2_vl),
        "qwen3_vl": ("Qwen2VLImageProcessor", _qwen2_vl),
        "qwen3_vl_moe": ("Qwen2VLImageProcessor", _qwen2_vl),
        "shieldgemma2": ("Gemma3ImageProcessor", _gemma3),
        "smolvlm": ("SmolVLMImageProcessor", _idefics3),
        "video_llama_3": ("VideoLlama3ImageProcessor", _qwen2_vl),
    }
)


def _onevision_beside_others(config: Any, width: int, height: int) -> Layout:
    """Padded to a square and seen as a whole, without tiles; a separator comes last."""
    vision = config.vision_config
    side, cells = max(width, height), vision.image_size // vision.patch_size
    edges = tile_edges(1, vision.image_size, cells, vision.patch_size) / vision.image_size * side
    grid = Grid(width, height, edges - (side - width) // 2, edges - (side - height) // 2)
    whole = View("whole", grid, np.arange(cells**2).reshape(cells, cells))
    return Layout((whole,), cells**2 + 1, grid)


# Families that see a picture in another way when there are several in one question: of each, how.
BESIDE_OTHERS = MappingProxyType[str, Callable[[Any, int, int], Layout]]({"llava_onevision": _onevision_beside_others})

# Families of which questions are asked one at a time: several pictures are processed together only where they have as
# many tiles, are numbered over the whole batch, or have tokens for which tiles or patches are no measure.
ONE_AT_A_TIME = frozenset({"hunyuan_vl", "lfm2_vl", "minicpmv4_6", "molmo2", "perception_lm", "step3p7"})

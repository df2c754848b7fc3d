from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from relevancy.errors import RelevancyError
from relevancy.geometry import Grid, grid_for


def square(side):
    return {"height": side, "width": side}


def clip(side, crop=None, kind=CLIPImageProcessorPil, **settings):
    return kind(size={"shortest_edge": side}, crop_size=square(crop or side), **settings)


PROCESSORS = {  # name: (processor, token side in the pixels the model gets)
    "CLIP 336/14": (clip(336), 14),
    "CLIP 64/8": (clip(64), 8),
    "CLIP crop larger than the resized picture": (clip(48, crop=63), 9),
    "CLIP resized to a fixed size, then cropped": (
        CLIPImageProcessorPil(size={"height": 80, "width": 100}, crop_size={"height": 64, "width": 96}), 16,
    ),
    "DINOv2 256 -> 224/14": (clip(256, crop=224, kind=BitImageProcessorPil), 14),
    "LLaVA crop 336/14": (clip(336, kind=LlavaImageProcessorPil), 14),
    "LLaVA pad 336/14": (clip(336, kind=LlavaImageProcessorPil, do_pad=True), 14),
    "LLaVA pad 64/8": (clip(64, kind=LlavaImageProcessorPil, do_pad=True), 8),
    "SigLIP stretched to 224/16": (SiglipImageProcessorPil(), 16),
    "SigLIP 60/14, four pixels left over": (SiglipImageProcessorPil(size=square(60)), 14),
    "only cropped": (CLIPImageProcessorPil(do_resize=False, crop_size=square(64)), 8),
}  # fmt: skip

CHANNELS = 3


def ramp(length):
    """Pixel centers 0.5 .. length - 0.5 as three channels whose sum rises linearly: three times finer than one."""
    steps = np.linspace(0, CHANNELS, length)[:, None] if length > 1 else np.full((1, 1), CHANNELS / 2)
    return np.rint(np.clip(steps - np.arange(CHANNELS), 0, 1) * 255).astype(np.uint8)


def seen_pixels(processor, pixels):
    """What the model gets for this picture, normalisation undone: 0..255, (height, width, 3)."""
    values = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    mean, std = np.array(processor.image_mean), np.array(processor.image_std)
    return (values.transpose(1, 2, 0) * std + mean) * 255


def cell_means(values, side):
    rows, cols = values.shape[0] // side, values.shape[1] // side
    return values[: rows * side, : cols * side].reshape(rows, side, cols, side).mean(axis=(1, 3))


def clear_of_padding(edges, length, side):
    """Cells in the picture, and so far from padding that resampling mixes none of it in."""
    reach = 3 * max(1, (edges[1] - edges[0]) / side)
    padded = edges[0] < -1e-9 or edges[-1] > length + 1e-9
    return (edges[:-1] >= reach) & (edges[1:] <= length - reach) if padded else np.ones(len(edges) - 1, bool)


def check_axis(means, edges, length):
    """Mean coordinate of the cells wholly inside the picture against the middles of their edges.

    Rounding to 8 bits before and after resampling is off by half a level each; overshoot where the ramp's channels hand
    over adds less than a tenth of a pixel. Near the picture's border bicubic resampling has only part of its support,
    or mixes in the padding's color: there the coordinate is drawn by up to a pixel and a half. Wrong rounding by one
    pixel of the processor's raster exceeds this in pictures of about its size.
    """
    level = length / (255 * CHANNELS)
    coordinates = means / (255 * CHANNELS) * (length - 1) + 0.5
    cell = edges[1] - edges[0]
    middle = (edges[:-1] + edges[1:]) / 2
    border = (edges[:-1] < 3) | (edges[1:] > length - 3) | (edges[:-1] < cell) | (edges[1:] > length - cell)
    tolerance = level + np.where(border, 1.5 + 0.03 * cell, 0.08)
    inside = (edges[:-1] >= -1e-9) & (edges[1:] <= length + 1e-9)
    assert (np.abs(coordinates - middle)[inside] <= tolerance[inside]).all()


@pytest.mark.parametrize("name", PROCESSORS)
@settings(max_examples=12)
@given(data=st.data())
def test_every_cell_is_where_the_real_processor_looked(name, data):
    processor, side = PROCESSORS[name]
    width = data.draw(st.integers(2, 120) | st.integers(121, 700), label="width")
    height = data.draw(st.integers(max(2, width // 6), min(700, width * 6)), label="height")
    across = np.broadcast_to(ramp(width)[None], (height, width, CHANNELS))
    down = np.broadcast_to(ramp(height)[:, None], (height, width, CHANNELS))
    x_values = cell_means(seen_pixels(processor, np.ascontiguousarray(across)).sum(axis=2), side)
    y_values = cell_means(seen_pixels(processor, np.ascontiguousarray(down)).sum(axis=2), side)
    grid = grid_for(processor, width, height, *x_values.shape, token_side=side)
    for row in np.flatnonzero(clear_of_padding(grid.y_edges, height, side)):
        check_axis(x_values[row], grid.x_edges, width)
    for col in np.flatnonzero(clear_of_padding(grid.x_edges, width, side)):
        check_axis(y_values[:, col], grid.y_edges, height)


@pytest.mark.parametrize("kind", [CLIPImageProcessorPil, LlavaImageProcessorPil])
@pytest.mark.parametrize(("width", "height"), [(100, 41), (41, 100), (7, 90), (90, 7), (33, 64)])
def test_cells_wholly_in_the_padding_hold_no_picture(kind, width, height):
    processor = (
        clip(64, kind=kind, do_pad=True)
        if kind is LlavaImageProcessorPil
        else CLIPImageProcessorPil(do_resize=False, crop_size=square(96))
    )
    white = np.full((height, width, 3), 255, np.uint8)
    means = cell_means(seen_pixels(processor, white).mean(axis=2), 8)
    boxes = grid_for(processor, width, height, *means.shape).boxes().reshape(*means.shape, 4)
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    background = np.mean(np.trunc(np.array(processor.image_mean) * 255)) if kind is LlavaImageProcessorPil else 0
    is_padding = np.abs(means - background) < 0.01
    ringing = 1.05  # bicubic resampling carries the picture's edge a little into the padding
    bare = area == 0
    assert (is_padding <= bare).all()
    assert np.abs(means - background)[bare].max(initial=0) < (ringing if kind is CLIPImageProcessorPil else 12)


def test_known_edges():
    landscape = grid_for(clip(336), 640, 480, 24, 24)
    assert landscape.y_edges[[0, -1]] == pytest.approx([0, 480])
    assert landscape.x_edges[[0, -1]] == pytest.approx([80, 560])
    padded = grid_for(clip(336, kind=LlavaImageProcessorPil, do_pad=True), 640, 480, 24, 24)
    assert padded.x_edges[[0, -1]] == pytest.approx([0, 640])
    assert padded.y_edges[[0, -1]] == pytest.approx([-80, 560])
    stretched = grid_for(SiglipImageProcessorPil(), 640, 480, 14, 14)
    assert stretched.x_edges[[0, -1]] == pytest.approx([0, 640])
    assert stretched.y_edges[[0, -1]] == pytest.approx([0, 480])


def test_torchvision_puts_the_odd_padding_pixel_last():
    class Fast(CLIPImageProcessorPil):
        backend = "torchvision"

    settings = {"do_resize": False, "crop_size": square(8)}
    assert grid_for(CLIPImageProcessorPil(**settings), 5, 9, 8, 8).x_edges[0] == -2
    assert grid_for(Fast(**settings), 5, 9, 8, 8).x_edges[0] == -1


def test_padding_to_a_given_size_goes_right_and_down():
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False, do_pad=True, pad_size=square(64))
    grid = grid_for(processor, 50, 20, 8, 8)
    assert grid.x_edges[[0, -1]] == pytest.approx([0, 64])
    assert grid.boxes()[-1] == pytest.approx([50, 20, 50, 20])


def test_boxes_run_row_by_row_and_stop_at_the_picture():
    grid = Grid(10, 4, np.array([-2.0, 5.0, 12.0]), np.array([0.0, 2.0, 4.0]))
    assert grid.unseen == 0
    assert grid.boxes().tolist() == [[0, 0, 5, 2], [5, 0, 10, 2], [0, 2, 5, 4], [5, 2, 10, 4]]


def test_at_middles_by_hand():
    """Pixel (row, column) is 10 * row + column; a rectangle is cut at the picture's border before it is halved."""
    grid = Grid(10, 4, np.array([-2.0, 5.0, 12.0]), np.array([0.0, 2.0, 4.0]))
    pixels = 10 * np.arange(4)[:, None] + np.arange(10)
    assert grid.at_middles(pixels).tolist() == [[12, 17], [32, 37]]


def test_heatmap_by_hand():
    grid = Grid(6, 1, np.array([1.0, 3.0, 5.0]), np.array([0.0, 1.0]))
    assert grid.unseen == pytest.approx(1 / 3)
    image_map = np.array([[1.0, 3.0]])
    smooth, exact = grid.heatmap(image_map), grid.heatmap(image_map, smooth=False)
    assert smooth.dtype == exact.dtype == np.float32
    np.testing.assert_allclose(smooth, [[np.nan, 1, 1.5, 2.5, 3, np.nan]])
    np.testing.assert_array_equal(exact, [[np.nan, 1, 1, 3, 3, np.nan]])


@settings(max_examples=40)
@given(
    name=st.sampled_from(sorted(PROCESSORS)),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    seed=st.integers(0, 99),
)
def test_heatmap_stays_between_the_map_values_and_covers_what_was_seen(name, width, height, seed):
    processor, side = PROCESSORS[name]
    size = seen_pixels(processor, np.zeros((1, 1, 3), np.uint8)).shape
    rows, cols = size[0] // side, size[1] // side
    grid = grid_for(processor, width, height, rows, cols)
    image_map = np.random.default_rng(seed).random((rows, cols), dtype=np.float32)
    for smooth in (True, False):
        pixels = grid.heatmap(image_map, smooth=smooth)
        seen = np.isfinite(pixels)
        assert pixels.shape == (height, width)
        assert seen.any()
        assert pixels[seen].min() >= image_map.min() - 1e-6
        assert pixels[seen].max() <= image_map.max() + 1e-6
    x_centers, y_centers = np.arange(width) + 0.5, np.arange(height) + 0.5
    looked_x = (x_centers > grid.x_edges[0]) & (x_centers < grid.x_edges[-1])
    looked_y = (y_centers > grid.y_edges[0]) & (y_centers < grid.y_edges[-1])
    assert seen[np.ix_(looked_y, looked_x)].all()
    assert not seen[np.arange(height) + 1 <= grid.y_edges[0]].any()
    assert not seen[:, np.arange(width) >= grid.x_edges[-1]].any()


def test_patch_exact_heatmap_shows_each_token_in_its_own_box():
    grid = grid_for(clip(64), 200, 131, 8, 8)
    image_map = np.arange(64, dtype=np.float32).reshape(8, 8)
    pixels = grid.heatmap(image_map, smooth=False)
    for token, box in enumerate(grid.boxes()):
        x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
        assert pixels[y, x] == token


def test_a_map_of_the_wrong_shape_is_refused():
    with pytest.raises(RelevancyError, match=r"shape \(8, 8\)"):
        grid_for(clip(64), 100, 100, 8, 8).heatmap(np.zeros((24, 24)))


@pytest.mark.parametrize("processor", [clip(336), clip(336, kind=LlavaImageProcessorPil, do_pad=True)])
@pytest.mark.parametrize(("width", "height"), [(1, 20000), (20000, 1)])
def test_elongated_pictures_are_refused_before_they_fill_the_memory(processor, width, height):
    with pytest.raises(RelevancyError, match="too elongated"):
        grid_for(processor, width, height, 24, 24)


def test_large_square_pictures_are_not_elongated():
    assert grid_for(clip(336), 20000, 20000, 24, 24).x_edges[-1] == pytest.approx(20000)
    assert grid_for(clip(336, kind=LlavaImageProcessorPil, do_pad=True), 20000, 12000, 24, 24).rows == 24


class OwnResize(CLIPImageProcessorPil):
    def resize(self, *args, **kwargs):
        return super().resize(*args, **kwargs)


class Bare:
    """Has the settings, and no steps that are known."""

    do_resize = do_center_crop = do_pad = False
    size = crop_size = square(64)


class Half(CLIPImageProcessorPil):
    """Tells its height alone."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.size = {"height": 64}


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (LlavaNextImageProcessorPil(), "LlavaNextImageProcessorPil.*tiles"),
        (Qwen2VLImageProcessorPil(), "Qwen2VLImageProcessorPil.*its own"),
        (OwnResize(), "OwnResize.*its own resize"),
        (SimpleNamespace(size={"shortest_edge": 336}), "SimpleNamespace.*not built like"),
        (CLIPImageProcessorPil(size={"shortest_edge": 100, "longest_edge": 200}), "longest_edge"),
        (CLIPImageProcessorPil(do_pad=True), "pad_size"),
        (Bare(), "Bare.*not built like"),
        (Half(size=square(64)), "no known way to follow size={'height': 64}"),
        (clip(100), "7 image tokens do not divide the 100 pixels"),
        (clip(5), "7 image tokens do not divide the 5 pixels"),
    ],
)
def test_what_cannot_be_mapped_is_refused_by_name(processor, reason):
    with pytest.raises(RelevancyError, match=reason):
        grid_for(processor, 120, 100, 7, 7)

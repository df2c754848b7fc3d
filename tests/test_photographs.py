"""Photographs through the whole path, from a file to its overlay: sizes, colors, borders.

The demonstration models know nothing of photographs; what they say about them means nothing and is not looked at. The
pictures come with scikit-learn (CC BY 2.0, danielbuechele and vultilion on Flickr) and with scikit-image (CC0 or public
domain), and are read where these are installed.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from typer.testing import CliRunner

import relevancy
from relevancy.cli import app
from relevancy.explanations.explanation import Explanation
from relevancy.images import open_picture
from relevancy.models.model import Model

QUESTION = "Is the duck floating? (a) Yes (b) No"
SEEN = 80  # pixels of the square that the models are shown
TURNED = 6  # EXIF: the camera was held so that the picture has to be turned by a quarter, clockwise
ORIENTATION = 274


def with_sklearn(name: str) -> Path:
    return Path(pytest.importorskip("sklearn.datasets").__path__[0]) / "images" / name


def with_skimage(name: str) -> Path:
    return Path(pytest.importorskip("skimage.data").__path__[0]) / name


PHOTOGRAPHS: dict[str, tuple[Callable[[str], Path], str, tuple[int, int]]] = {  # where, mode, width and height
    "china.jpg": (with_sklearn, "RGB", (640, 427)),
    "flower.jpg": (with_sklearn, "RGB", (640, 427)),
    "astronaut.png": (with_skimage, "RGB", (512, 512)),
    "camera.png": (with_skimage, "L", (512, 512)),
    "chelsea.png": (with_skimage, "RGB", (451, 300)),
    "coffee.png": (with_skimage, "RGB", (600, 400)),
    "rocket.jpg": (with_skimage, "RGB", (640, 427)),
    "retina.jpg": (with_skimage, "RGB", (1411, 1411)),
}
NAMES = [
    pytest.param(name, marks=pytest.mark.engines("skimage") if where is with_skimage else ())
    for name, (where, _, _) in PHOTOGRAPHS.items()
]
CUTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as it is": lambda photograph: photograph,
    "upright": lambda photograph: photograph.transpose(Image.Transpose.ROTATE_90),
    "a strip": lambda photograph: photograph.crop((0, 100, photograph.width, 141)),
    "a thumbnail": lambda photograph: photograph.resize((31, 20)),
    "odd sides": lambda photograph: photograph.crop((3, 5, 300, 224)),
    "large": lambda photograph: photograph.resize((photograph.width * 4, photograph.height * 4)),
}


@pytest.fixture(scope="module")
def model() -> Model:
    return relevancy.load("demo-small")


@pytest.fixture
def china() -> Image.Image:
    return Image.open(with_sklearn("china.jpg")).convert("RGB")


def square_of(image: Image.Image) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what a model sees that resizes the short side and crops the middle."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return left, top, left + side, top + side


def outside(image: Image.Image, margin: float) -> np.ndarray:
    """Pixels (height, width) more than `margin` outside of that square; for a negative one, not as far within."""
    left, top, right, bottom = square_of(image)
    x, y = np.arange(image.width)[None] + 0.5, np.arange(image.height)[:, None] + 0.5
    return (x < left - margin) | (x > right + margin) | (y < top - margin) | (y > bottom + margin)


def check_drawn(result: Explanation, photograph: Image.Image) -> None:
    """The picture, the map and the overlay have the photograph's size; unseen is what lies outside of the square."""
    step = min(photograph.size) / SEEN + 1  # a picture is cropped at whole pixels of the small one
    assert result.image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(result.image), np.asarray(photograph))
    heatmap = result.heatmap()
    assert heatmap.shape == (photograph.height, photograph.width)
    assert np.isnan(heatmap[outside(photograph, step)]).all()
    assert np.isfinite(heatmap[~outside(photograph, -step)]).all()
    assert result.image_map.shape == (10, 10)
    assert result.image_map.min() >= 0 < result.image_map.max()
    assert result.overlay(floor=0).size == photograph.size


@pytest.mark.parametrize("name", NAMES)
def test_from_a_file_to_its_overlay(name, tmp_path) -> None:
    where, mode, size = PHOTOGRAPHS[name]
    path = where(name)
    photograph = Image.open(path)
    assert (photograph.mode, photograph.size) == (mode, size)
    asked = ("--model", "demo-small", "--image", str(path), "--question", QUESTION, "--out", str(tmp_path / "out"))
    done = CliRunner().invoke(app, ["explain", *asked])
    assert done.exit_code == 0, done.output
    result = Explanation.load(tmp_path / "out")
    check_drawn(result, photograph.convert("RGB"))
    assert Image.open(tmp_path / "out" / "overlay.png").size == size
    assert np.load(tmp_path / "out" / "heatmap.npy").shape == size[::-1]


@pytest.mark.parametrize("cut", CUTS)
def test_sizes(model, china, cut) -> None:
    photograph = CUTS[cut](china)
    check_drawn(relevancy.explain(model, photograph, QUESTION), photograph)


@pytest.mark.parametrize("cut", ["as it is", "upright", "odd sides"])
def test_the_model_is_shown_the_middle_in_its_own_colors(model, china, cut) -> None:
    photograph = CUTS[cut](china)
    shown = model.prepare([photograph], [QUESTION])["pixel_values"][0].numpy().transpose(1, 2, 0)
    pixels = (shown * OPENAI_CLIP_STD + OPENAI_CLIP_MEAN) * 255
    expected = photograph.resize((SEEN, SEEN), Image.Resampling.BICUBIC, box=square_of(photograph))
    difference = np.abs(pixels - np.asarray(expected, float))
    assert np.median(difference) < 3  # the square begins at up to half a pixel of the small picture beside its place
    for order in ([2, 1, 0], [1, 0, 2]):  # of the channels
        assert np.median(np.abs(pixels[..., order] - np.asarray(expected, float))) > 6


@pytest.mark.parametrize("cut", ["as it is", "upright"])
def test_nothing_beyond_the_border_counts(model, china, cut) -> None:
    photograph = CUTS[cut](china)
    pixels, noise = np.asarray(photograph), np.random.default_rng(0).integers(0, 256, (*china.size[::-1], 3), np.uint8)
    noise = noise.reshape(pixels.shape)
    reach = 3 * min(photograph.size) / SEEN  # of a bicubic kernel, and of the crop's whole pixels
    away, within = outside(photograph, reach), outside(photograph, -reach)
    plain, changed_away, changed_within = relevancy.explain(
        model,
        [
            photograph,
            Image.fromarray(np.where(away[..., None], noise, pixels)),
            Image.fromarray(np.where(within[..., None], noise, pixels)),
        ],
        QUESTION,
    )
    assert away.any()
    np.testing.assert_array_equal(plain.image_map, changed_away.image_map)
    assert plain.target.logit == changed_away.target.logit
    assert plain.target.logit != changed_within.target.logit


def stored(photograph: Image.Image, form: str, path: Path) -> Path:
    """The photograph in a file that holds the same pixels in another way."""
    if form == "turned by EXIF":
        exif = Image.Exif()
        exif[ORIENTATION] = TURNED
        photograph.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    elif form == "with an opaque alpha":
        photograph.convert("RGBA").save(path)
    elif form == "interlaced by TIFF":
        photograph.save(path.with_suffix(".tif"), compression="tiff_lzw")
        return path.with_suffix(".tif")
    else:
        photograph.convert("L").save(path)
    return path


@pytest.mark.parametrize("form", ["turned by EXIF", "with an opaque alpha", "interlaced by TIFF", "in gray"])
def test_how_a_photograph_is_stored_does_not_matter(model, china, form, tmp_path) -> None:
    expected = china.convert("L").convert("RGB") if form == "in gray" else china
    path = stored(china, form, tmp_path / "photograph.png")
    np.testing.assert_array_equal(np.asarray(open_picture(path).image), np.asarray(expected))
    found, own = relevancy.explain(model, path, QUESTION), relevancy.explain(model, expected, QUESTION)
    np.testing.assert_array_equal(found.image_map, own.image_map)
    assert found.answer == own.answer
    check_drawn(found, expected)

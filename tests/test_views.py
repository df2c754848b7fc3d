"""Families with views of their own: each image token's place by planted changes, rows by the equations, maps by mass."""

from functools import cache

import numpy as np
import pictured
import pytest
import tiny
import torch
from PIL import Image
from reference import reference
from torch import nn

from relevancy.errors import RelevancyError
from relevancy.explanations.explain import explain
from relevancy.families.views import Layout, View, covering, tiled
from relevancy.geometry import Grid
from relevancy.models.hooks import read_by_decoder
from relevancy.models.model import Model, wrap

SIZES = {"tiny": (9, 7), "tall": (61, 200), "wide": (230, 57), "large": (640, 480), "odd": (101, 99)}
QUESTIONS = ["what color is the ball ?", "is the duck floating ?"]
SEPARATED = {"llava_next", "llava_onevision"}


@cache
def model_of(family: str) -> Model:
    return wrap(*pictured.BUILDERS[family](), name=family)


@pytest.fixture(params=pictured.BUILDERS)
def model(request: pytest.FixtureRequest) -> Model:
    return model_of(request.param)


@cache
def unmixed(family: str) -> Model:
    """The same model with a tower in which no patch hears of another."""
    model = wrap(*pictured.BUILDERS[family](), name=family)
    for module in model.model.get_encoder(modality="image").modules():
        if type(module).__name__.endswith("Attention"):
            for name in ("out_proj", "o_proj", "proj", "projection_layer"):
                if isinstance(last := getattr(module, name, None), nn.Linear):
                    nn.init.zeros_(last.weight)
    return model


def embeddings(model: Model, picture: Image.Image) -> np.ndarray:
    """What the decoder reads of a picture, (image tokens, width)."""
    inputs = model.prepare([picture], [QUESTIONS[0]])
    with torch.no_grad(), read_by_decoder(model) as read:
        model.model(**inputs)
    return read[0][inputs["input_ids"] == model.image_token_id].numpy()


def rectangles(layout: Layout) -> np.ndarray:
    """Each image token's rectangle (count, 4), NaN where it has none."""
    found = np.full((layout.count, 4), np.nan)
    for view in layout.views:
        found[view.tokens.ravel()] = view.grid.boxes()
    return found


def inside(start: float, end: float) -> tuple[int, int]:
    """The pixels that lie wholly between two places, or the one in the middle."""
    first, last = int(np.ceil(start)), int(np.floor(end))
    middle = int((start + end) / 2)
    return (first, last) if first < last else (middle, middle + 1)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("family", pictured.BUILDERS)
def test_the_token_that_a_changed_place_changes_most_owns_it(family, size):
    model, rng = unmixed(family), np.random.default_rng(1)
    width, height = size
    layout = model.layout(width, height)
    pixels = rng.integers(96, 160, (height, width, 3)).astype(np.uint8)
    before, boxes = embeddings(model, Image.fromarray(pixels)), rectangles(layout)
    assert len(before) == layout.count
    known = np.flatnonzero(layout.placed & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    for token in rng.choice(known, min(5, len(known)), replace=False):
        (left, right), (upper, lower) = (inside(*boxes[token][axis::2]) for axis in (0, 1))
        changed = pixels.copy()
        changed[upper:lower, left:right] = 255 * (changed[upper:lower, left:right] < 128)
        moved = np.linalg.norm(embeddings(model, Image.fromarray(changed)) - before, axis=1)
        found = boxes[moved.argmax()]
        overlap = np.minimum(found[2:], [right, lower]) - np.maximum(found[:2], [left, upper])
        smaller = np.minimum(found[2:] - found[:2], [right - left, lower - upper])
        assert (overlap > 0.5 * smaller).all(), (layout.count, token, boxes[token], moved.argmax(), found)
        assert not moved[~layout.placed].any()

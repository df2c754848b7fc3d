"""A tokenizer and processor of the picture world, and pictures on disk, some of them broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_data import PATCH, SIZE, small_llava

from relevancy.demo.language import build_processor, build_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def processor(tokenizer):
    return build_processor(tokenizer, SIZE, PATCH)


@pytest.fixture
def model(tokenizer):
    return small_llava(tokenizer)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """wide.png, tall.jpg, square.png; broken.jpg, cut off in the middle; text.png, which is none."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name, shape in {"wide.png": (20, 50), "tall.jpg": (60, 24), "square.png": (32, 32)}.items():
        Image.fromarray(random.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(folder / name)
    whole = (folder / "tall.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture")
    return folder

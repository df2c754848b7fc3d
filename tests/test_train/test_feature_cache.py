"""The tower looks at each picture once, however often it is stopped, and at what was mended since."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from relevancy.errors import RelevancyError
from relevancy.train import feature_cache
from relevancy.train.composition import assembled
from relevancy.train.data.examples import Encoder
from relevancy.train.data.sources import open_data
from relevancy.train.feature_cache import FILE, INDEX, CachedEncoder
from relevancy.train.parts import parts_of, processor_for

Cache = Callable[..., CachedEncoder]


class Stopped(BaseException):
    """As a signal that nobody handles."""


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Eight dialogues about a picture each."""
    folder = tmp_path / "data"
    folder.mkdir()
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It."}]
    for number in range(8):
        Image.new("RGB", (60, 60), (30 * number, 0, 0)).save(folder / f"{number}.png")
    entries = [{"id": str(number), "image": f"{number}.png", "conversations": said} for number in range(8)]
    (folder / "data.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture
def looked() -> list[int]:
    """How many pictures the tower was given, each time."""
    return []


@pytest.fixture
def cache(small, pictures, looked, monkeypatch) -> Cache:
    """The data's features in a folder; a pass takes two pictures at a time and writes its index every second time."""
    monkeypatch.setattr(feature_cache, "_BATCH", 2)
    monkeypatch.setattr(feature_cache, "_KEPT", 2)
    parts = parts_of(small)
    model = assembled(small, parts, small.align)
    model.model.vision_tower.register_forward_pre_hook(lambda _, given: looked.append(len(given[0])))
    encoder = Encoder.of_stage(processor_for(parts, small.image_size, None, model.config), small.align)

    def cached(folder: Path, progress: Callable[[float], None] | None = None) -> CachedEncoder:
        return feature_cache.cached(encoder, open_data(pictures / "data.json"), model, folder, progress)

    return cached


def test_a_pass_that_was_stopped_goes_on_after_what_its_index_knows(cache, looked, pictures, tmp_path) -> None:
    def stop(share: float) -> None:
        if share > 0.7:
            raise Stopped

    whole = cache(tmp_path / "whole")
    with pytest.raises(Stopped):
        cache(tmp_path / "stopped", stop)
    looked.clear()
    again = cache(tmp_path / "stopped")
    assert looked == [2, 2]
    assert (tmp_path / "stopped" / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()
    for number in range(8):
        picture = (pictures / f"{number}.png",)
        assert torch.equal(again.pixels(picture), whole.pixels(picture))


def test_mended_and_new_pictures_are_looked_at_and_no_other(cache, looked, pictures, tmp_path) -> None:
    broken = pictures / "3.png"
    fine = broken.read_bytes()
    broken.write_bytes(b"no picture")
    with pytest.raises(RelevancyError, match=r"3\.png would not open"):
        cache(tmp_path / "features").pixels((broken,))
    broken.write_bytes(fine)
    looked.clear()
    assert cache(tmp_path / "features").pixels((broken, pictures / "4.png")).shape[0] == 2
    assert looked == [1]
    cache(tmp_path / "features")
    assert looked == [1]


@pytest.mark.parametrize("lost", [FILE, INDEX])
def test_without_the_file_or_its_index_all_is_looked_at(lost, cache, looked, tmp_path) -> None:
    cache(tmp_path)
    (tmp_path / lost).unlink()
    looked.clear()
    cache(tmp_path)
    assert sum(looked) == 8


def test_features_of_another_tower_do_not_count(cache, looked, tmp_path, monkeypatch) -> None:
    cache(tmp_path)
    monkeypatch.setattr(feature_cache, "_key", lambda *_: "another tower")
    looked.clear()
    cache(tmp_path)
    assert sum(looked) == 8
    assert json.loads((tmp_path / INDEX).read_text())["key"] == "another tower"

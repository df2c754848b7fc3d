"""Dialogues with pictures -> examples: pixels as the recipe makes them; what will not open keeps its place."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from training_data import PATCHES, SIZE, entry, write

from relevancy.errors import RelevancyError
from relevancy.models import compat
from relevancy.train.collate import Collate
from relevancy.train.data.examples import Encoder, Examples, Skipped
from relevancy.train.data.sources import open_data
from relevancy.train.template import IGNORED, IMAGE


def asked(name: str, picture: str | None) -> dict:
    mark = "" if picture is None else f"{IMAGE}\n"
    return entry(name, f"{mark}What color is the {name}?", "Red.", **({} if picture is None else {"image": picture}))


def examples(tmp_path, pictures, entries, processor, skipped=None, **options) -> Examples:
    data = open_data(write(tmp_path / "data.json", entries), pictures)
    return Examples(data, Encoder(processor, **options), skipped)


def squared(picture: Image.Image, mean) -> Image.Image:
    """LLaVA's expand2square, written anew."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in mean))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


@pytest.mark.parametrize("name", ["wide.png", "tall.jpg", "square.png"])
@pytest.mark.parametrize("framing", ["pad", "crop"])
def test_pixels_are_the_recipes(tmp_path, pictures, processor, framing, name):
    """The same bits as CLIP's own processor gives, of the square that LLaVA makes or of the picture as it is."""
    found = examples(tmp_path, pictures, [asked("a", name)], compat.frame(processor, framing))[0]["pixel_values"]
    picture = Image.open(pictures / name).convert("RGB")
    clip = processor.image_processor
    given = squared(picture, clip.image_mean) if framing == "pad" else picture
    expected = clip(images=[given], return_tensors="pt")["pixel_values"]
    assert found.shape == (1, 3, SIZE, SIZE)
    assert torch.equal(found, expected)


def test_text_one_picture_and_several(tmp_path, pictures, processor, tokenizer, model):
    entries = [
        asked("duck", "wide.png"),
        asked("wall", None),
        entry("both", f"{IMAGE}\n{IMAGE}\nSame?", "No", images=["wide.png", "square.png"]),
        entry("later", "Hello", "Hi", f"{IMAGE}And this?", "Red", image="tall.jpg"),
    ]
    found = examples(tmp_path, pictures, entries, processor)
    batch = Collate(tokenizer.pad_token_id)([found[place] for place in range(4)])
    assert batch["pixel_values"].shape == (4, 3, SIZE, SIZE)
    marks = (batch["input_ids"] == tokenizer.convert_tokens_to_ids(IMAGE)).sum(1)
    assert marks.tolist() == [PATCHES, 0, 2 * PATCHES, PATCHES]
    assert "pixel_values" not in found[1]
    assert torch.isfinite(model(**batch).loss)  # the model counts features and tokens, and refuses what differs


def test_pictures_of_a_round_that_is_left_out_are_left_out(tmp_path, pictures, processor):
    entries = [entry("x", f"{IMAGE}One?", "Red", f"{IMAGE}Two?", images=["wide.png", "text.png"])]
    assert examples(tmp_path, pictures, entries, processor)[0]["pixel_values"].shape[0] == 1


BROKEN = {2: "broken.jpg", 5: "none.png", 7: "text.png"}


def epoch(tmp_path, pictures, processor, tokenizer, broken, skipped=None, workers=0):
    entries = [asked(f"n{place}", broken.get(place, "wide.png")) for place in range(10)]
    found = examples(tmp_path, pictures, entries, processor, skipped)
    order = torch.Generator().manual_seed(3)
    loader = DataLoader(
        found, 2, sampler=torch.randperm(10, generator=order).tolist(), collate_fn=Collate(tokenizer.pad_token_id),
        num_workers=workers,
    )  # fmt: skip
    return list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_that_break_in_an_epoch_move_nothing(tmp_path, pictures, processor, tokenizer, workers):
    """Every other sample is where and what it would have been; the broken ones teach nothing, and are named."""
    skipped = Skipped(tmp_path / "out" / "skipped.jsonl")
    whole = epoch(tmp_path, pictures, processor, tokenizer, {})
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3)).tolist()
    batches = epoch(tmp_path, pictures, processor, tokenizer, BROKEN, skipped, workers)
    assert len(batches) == len(whole) == 5
    for number, (batch, good) in enumerate(zip(batches, whole, strict=True)):
        assert torch.equal(batch["input_ids"], good["input_ids"])
        for row, place in enumerate(order[2 * number : 2 * number + 2]):
            if place in BROKEN:
                assert set(batch["labels"][row].tolist()) == {IGNORED}
                assert not batch["pixel_values"][row].any()
            else:
                assert torch.equal(batch["labels"][row], good["labels"][row])
                assert torch.equal(batch["pixel_values"][row], good["pixel_values"][row])
    assert [(one["position"], one["id"]) for one in skipped.all()] == [(2, "n2"), (5, "n5"), (7, "n7")]
    assert "cut short" in skipped.all()[0]["why"]
    assert "no such file" in skipped.all()[1]["why"]
    assert len(skipped) == 3


def test_a_sample_met_again_is_counted_once(tmp_path):
    skipped = Skipped(tmp_path / "skipped.jsonl")
    for _ in range(3):
        skipped.add(4, "x", "why")
    with skipped.path.open("a") as stream:
        stream.write('{"position": 9, "id": "cut')  # the process was killed while it wrote
    assert skipped.all() == [{"position": 4, "id": "x", "why": "why"}]


def test_skipping_goes_on_where_nothing_can_be_written(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        Skipped(tmp_path / "file" / "skipped.jsonl").add(1, "x", "why")
    assert "cannot be written" in caplog.text


def test_only_the_first_are_warned_of(caplog):
    skipped = Skipped()
    with caplog.at_level(logging.WARNING):
        for place in range(100):
            skipped.add(place, "x", "why")
    assert len(caplog.records) == 10
    assert len(skipped) == 100


def test_a_dialogue_that_cannot_be_trained_on_keeps_its_place(tmp_path, pictures, processor):
    found = examples(tmp_path, pictures, [entry("x", "Only a question"), asked("a", None), {"id": "z"}], processor)
    for place in (0, 2):
        assert found[place] == {"input_ids": found[place]["input_ids"], "labels": [IGNORED]}
        assert len(found[place]["input_ids"]) == 1
    assert [one["id"] for one in found.skipped.all()] == ["x", "z"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"style": "vicuna"}, "choose one of gemma, plain, chat"),
        ({"overlong": "keep"}, "one of cut, drop"),
        ({"max_length": PATCHES}, "a picture takes 4 tokens"),
    ],
)
def test_options_that_do_not_fit(processor, options, why):
    with pytest.raises(RelevancyError, match=why):
        Encoder(processor, **options)


def test_pictures_of_every_mode_are_rgb(tmp_path, processor):
    for name, mode in {"gray.png": "L", "palette.png": "P", "alpha.png": "RGBA"}.items():
        Image.fromarray(np.full((20, 30), 100, np.uint8)).convert(mode).save(tmp_path / name)
    found = examples(tmp_path, tmp_path, [asked(n, f"{n}.png") for n in ("gray", "palette", "alpha")], processor)
    assert [found[place]["pixel_values"].shape for place in range(3)] == [(1, 3, SIZE, SIZE)] * 3
    assert json.loads(json.dumps(found.skipped.all())) == []

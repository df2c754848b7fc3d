"""A small decoder and a small tower in folders, as a hub would give them, and data in LLaVA's JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from transformers import AutoModel, CLIPImageProcessorPil, CLIPVisionModel, Dinov2Model, GemmaConfig, GemmaForCausalLM

from relevancy.train.presets import Preset
from relevancy.train.stages import Stage

SIZE = 56
COLORS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "white": (250, 250, 250)}


@pytest.fixture(scope="session")
def bases(tmp_path_factory) -> Path:
    """Folders `decoder`, `clip` and `dinov2`, each with weights and what prepares its input."""
    folder = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    tokenizer = tiny.gemma_tokenizer()
    decoder = GemmaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=512, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    GemmaForCausalLM(decoder).save_pretrained(folder / "decoder")
    tokenizer.save_pretrained(folder / "decoder")
    square = {"height": SIZE, "width": SIZE}
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=square)
    towers: dict[str, AutoModel] = {"clip": CLIPVisionModel(tiny.clip()), "dinov2": Dinov2Model(tiny.dinov2())}
    for name, tower in towers.items():
        tower.save_pretrained(folder / name)
        pictures.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """64 dialogues about pictures of one color, every fourth without a picture: `data.json`."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    entries = []
    for number in range(64):
        color = list(COLORS)[number % 4]
        entry = {
            "id": str(number),
            "conversations": [
                {"from": "human", "value": "<image>\nWhat color is the ball?"},
                {"from": "gpt", "value": f"It is {color}." + " One two three." * int(random.integers(3))},
            ],
        }
        if number % 4 == 3:
            entry["conversations"][0]["value"] = "How many boats are in the picture?"
        else:
            entry["image"] = f"{number}.png"
            Image.new("RGB", (70, 60 + number), COLORS[color]).save(folder / f"{number}.png")
        entries.append(entry)
    (folder / "data.json").write_text(json.dumps(entries))
    return folder / "data.json"


@pytest.fixture(scope="session")
def small(bases) -> Preset:
    """A preset in miniature: eight steps and twelve."""
    stage = Stage(
        "align", ("connector",), steps=8, batch=8, learning_rate=1e-2, save_every=3, max_tokens=256, loss_chunk=16,
        grouped=True, outer_scale=True,
    )  # fmt: skip
    second = replace(stage, name="finetune", trains=("connector", "decoder"), steps=12, batch=4, learning_rate=1e-3)
    return Preset("small", str(bases / "decoder"), str(bases / "clip"), SIZE, stage, second)

"""The shipped pair: small enough, one tower, plain Hugging Face checkpoints, and right about the picture."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoProcessor, LlavaForConditionalGeneration

from relevancy.demo import evaluation, world
from relevancy.demo.weights import NAMES, folder
from relevancy.models.model import wrap

MEGABYTE = 1_000_000


def tower_hash(name: str) -> str:
    digest = hashlib.sha256()
    with safe_open(folder(name) / "model.safetensors", "pt") as weights:
        keys = sorted(key for key in weights.keys() if "vision_tower" in key)  # noqa: SIM118 - no mapping
        assert keys
        for key in keys:
            digest.update(key.encode())
            digest.update(weights.get_tensor(key).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module", params=NAMES)
def shipped(request: pytest.FixtureRequest):
    model = LlavaForConditionalGeneration.from_pretrained(folder(request.param)).eval()
    return wrap(model, AutoProcessor.from_pretrained(folder(request.param)), name=request.param)


@pytest.fixture(scope="module")
def own(shipped):
    """What it answers rightly about fifty scenes of a seed nobody trained on."""
    return evaluation.accuracy(shipped, scenes=50, seed=77)


def test_one_tower() -> None:
    small, large = (tower_hash(name) for name in NAMES)
    assert small == large


def test_size_and_card() -> None:
    for name in NAMES:
        assert (folder(name) / "model.safetensors").stat().st_size <= 12 * MEGABYTE
        assert "never LLaVA-Gemma-2B" in " ".join((folder(name) / "README.md").read_text().split())


def test_loads_as_float32(shipped) -> None:
    assert shipped.model.dtype == torch.float32
    assert shipped.tokenizer.convert_tokens_to_ids("<end_of_turn>") in shipped.model.generation_config.eos_token_id


def test_right_about_the_picture_and_not_without_it(shipped, own) -> None:
    """Right on held-out scenes; with another's picture no better than by guessing."""
    blind = evaluation.accuracy(shipped, scenes=50, seed=77, picture="other")
    assert own.questions == blind.questions > 300
    assert own.overall > own.chance_overall + {"demo-small": 0.4, "demo-large": 0.45}[shipped.name]
    assert blind.overall < blind.chance_overall + 0.05


def test_teacher_forced_hits_are_what_generate_writes(shipped) -> None:
    """`accuracy` needs one pass per question: the same verdicts as decoding token by token."""
    scored = evaluation.accuracy(shipped, scenes=4, seed=5)
    for one, hits in zip(evaluation.held_out(4, 5), scored.right, strict=True):
        inputs = shipped.prepare([one.image] * len(hits), [question.text for question in one.questions])
        written = shipped.model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        answers = shipped.tokenizer.batch_decode(written, skip_special_tokens=True)
        assert [
            answer.strip() == question.answer for answer, question in zip(answers, one.questions, strict=True)
        ] == hits


def test_maps_find_the_object(shipped, own) -> None:
    truth = evaluation.map_truth(shipped, replace(own, scenes=30, right=own.right[:30]))
    assert truth.maps > 80
    assert truth.pointing["relevancy"] > 4 * max(truth.pointing["random"], truth.object_share)
    assert truth.energy["relevancy"] > 2 * truth.object_share
    if shipped.name == "demo-large":  # demo-small reads the picture in its last layer, whose attention says as much
        assert truth.energy["relevancy"] > 1.3 * truth.energy["last-layer attention"]


def test_duck_question(shipped) -> None:
    right = []
    for seed in range(20):
        drawn = world.duck_scene(world.HELD_OUT + seed, floating=bool(seed % 2))
        for question in drawn.questions[:2]:
            inputs = shipped.prepare([drawn.image], [question.text])
            written = shipped.model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
            right.append(shipped.tokenizer.decode(written, skip_special_tokens=True).strip() == question.answer)
    assert np.mean(right[::2]) >= 0.9  # a blind model gets half
    assert np.mean(right[1::2]) >= 0.9

"""Google's own weights: what the connector of a decoder that multiplies its words hands over while it is aligned.

RELEVANCY_GEMMA=FOLDER pytest -s tests/test_real_weights.py, where FOLDER holds a Gemma of generation 1, 2 or 3 as
transformers saves it. Gemma 3 270M takes about five minutes on one core.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference import passed_on, reference, relative
from transformers import AutoConfig, PreTrainedModel
from typer.testing import CliRunner

import relevancy
from relevancy.cli import app
from relevancy.demo.questions import describe
from relevancy.demo.world import scene
from relevancy.train import composition, forwards, presets
from relevancy.train.parts import parts_of, pictures_of, tokenizer_of
from relevancy.train.presets import overridden

GEMMA = "RELEVANCY_GEMMA"
STEPS, BATCH = 12, 8

pytestmark = pytest.mark.weights(GEMMA)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Drawn scenes and what is to be seen in them, in LLaVA's JSON."""
    folder = tmp_path_factory.mktemp("scenes")
    random, entries = np.random.default_rng(0), []
    for number in range(STEPS * BATCH):
        drawn = scene(700_000 + number)
        drawn.image.save(folder / f"{number}.png")
        said = (("human", "<image>\nDescribe the picture."), ("gpt", describe(drawn.layout, random)))
        turns = [{"from": who, "value": text} for who, text in said]
        entries.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(entries))
    return folder / "data.json"


@contextmanager
def unscaled() -> Iterator[None]:
    """The connector as torch makes it: the words' factor is left out."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (composition, forwards):
            patch.setattr(module, "scale_of", lambda _: 1.0)
        yield


def chosen() -> list[str]:
    return [
        "image_size=80",
        f"align.steps={STEPS}",
        f"align.batch={BATCH}",
        f"align.micro={BATCH}",
        f"language={os.environ[GEMMA]}",
    ]


def aligned(scenes: Path, out: Path) -> tuple[list[float], float]:
    """The loss of each step, and how long image tokens are beside words after the last."""
    changes = [part for one in chosen() for part in ("--set", one)]
    words = ["--vision", "demo-large", "--data", str(scenes), "--out", str(out), "--log-every", "1", "--workers", "0"]
    done = CliRunner().invoke(app, ["train", "align", *words, *changes])
    assert done.exit_code == 0, (done.output, done.exception)
    lines = [json.loads(line) for line in (out / "align" / "metrics.jsonl").read_text().splitlines()]
    model = relevancy.load(out / "model", device="cpu", dtype="float32").model
    return [line["loss"] for line in lines if "loss" in line], relative_length(model, scenes.parent)


def fresh(scenes: Path) -> float:
    """How long image tokens are beside words before the first step."""
    preset = overridden(presets.preset("llava-gemma-2b-clip"), [*chosen(), "vision=demo-large"])
    return relative_length(composition.assembled(preset, parts_of(preset)).eval(), scenes.parent)


@torch.no_grad()
def relative_length(model: PreTrainedModel, pictures: Path) -> float:
    """Mean length of a picture's tokens over that of words."""
    shown = [Image.open(pictures / f"{number}.png") for number in range(8)]
    pixels = pictures_of("demo-large")(shown, return_tensors="pt")["pixel_values"]
    ids = tokenizer_of(os.environ[GEMMA])("A red ball lies left of a white boat.", return_tensors="pt").input_ids
    handed = torch.cat([*model.get_image_features(pixels).pooler_output])
    return float(handed.norm(dim=-1).mean() / model.get_input_embeddings()(ids).norm(dim=-1).mean())


def test_a_fresh_connector_takes_over_what_the_decoder_multiplies_words_by(scenes) -> None:
    with unscaled():
        plain = fresh(scenes)
    hidden = AutoConfig.from_pretrained(os.environ[GEMMA]).hidden_size
    scaled = fresh(scenes)
    sys.stdout.write(f"\nimage tokens beside words, fresh: {plain:.2f} without the factor, {scaled:.2f} with it\n")
    assert scaled / plain == pytest.approx(hidden**0.5, rel=1e-3)


def test_twelve_steps_of_align_with_and_without_the_factor(scenes, tmp_path) -> None:
    """Which loss is lower hangs on how large the tower's features are, and is printed, not asked for."""
    with unscaled():
        plain, shorter = aligned(scenes, tmp_path / "plain")
    losses, length = aligned(scenes, tmp_path / "scaled")
    for name, one, beside in (("without", plain, shorter), ("with", losses, length)):
        told = f"loss {one[0]:.2f} -> {one[-1]:.2f}, image tokens beside words {beside:.2f}"
        sys.stdout.write(f"\n{name} the factor: {told}\n")
    assert len(losses) == STEPS
    assert losses[-1] < 0.75 * losses[0]
    assert length > shorter


def test_a_question_to_words_alone() -> None:
    """Gemma goes on with what stood beside Paris before, and where its answer comes from can be followed."""
    model = relevancy.load(os.environ[GEMMA], device="cpu", dtype="float32")
    question = "Madrid, Spain; Paris, France; Rome, Italy; Paris,"
    result = relevancy.explain(model, None, question, max_new_tokens=1)
    sys.stdout.write(f"\n{result.summary()}\n")
    assert result.answer == "France"
    inputs = model.prepare([()], [question])
    expected = passed_on(reference(model.model, dict(inputs)).language)[0]
    assert relative(torch.from_numpy(result.relevance), expected) < 1e-4
    words = [(value, word.strip("▁ ")) for word, value in result.words()[1:]]
    assert {word for _, word in sorted(words, reverse=True)[:3]} == {"Paris", "France"}, words

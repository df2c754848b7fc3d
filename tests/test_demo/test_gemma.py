"""`demo-gemma` in miniature: its recipe, what it leaves, and the commands that take it."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_gemma import LAYERS, save_gemma
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import relevancy
from relevancy.cli import app
from relevancy.demo import gemma, showcase
from relevancy.demo.dialogues import look_and_answer_variously
from relevancy.demo.evaluation import accuracy, held_out
from relevancy.demo.layout import KINDS
from relevancy.demo.pool import draw_pool
from relevancy.demo.tower import SIDE, SIZE, normalized
from relevancy.demo.wordings import SENTENCE, never_heard
from relevancy.demo.world import HELD_OUT, duck_scene
from relevancy.errors import RelevancyError
from relevancy.models import bases
from relevancy.train.features import look_once
from relevancy.train.template import IMAGE

SHIPPED = {
    "trained.safetensors", "base.json", "config.json", "generation_config.json", "processor_config.json",
    "chat_template.jinja", "README.md", "NOTICE",
}  # fmt: skip


@pytest.fixture(scope="module")
def pool():
    return draw_pool(range(1, 41), SIZE, SIDE, workers=1)


def test_what_a_training_leaves(trained_gemma):
    assert {file.name for file in trained_gemma.folder.iterdir()} == SHIPPED
    trained = load_file(trained_gemma.folder / bases.TRAINED)
    adapters = [name for name in trained if ".lora_" in name]
    assert len(adapters) == 2 * 7 * LAYERS
    assert {weight.dtype for weight in trained.values()} == {torch.float16}
    assert not any("embed_tokens" in name or "lm_head" in name for name in trained)
    assert all(trained[name].abs().max() > 0 for name in adapters if name.endswith(bases.UP))  # they have learned


def test_what_ships_is_no_part_of_the_base():
    """Of Gemma there is nothing, neither words nor weights, and a commit can hold it."""
    folder = relevancy.MODELS["demo-gemma"].source
    assert {file.name for file in folder.iterdir()} == SHIPPED
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 20_000_000
    own = "model.vision_tower.", "model.multi_modal_projector."
    assert all(name.startswith(own) or ".lora_" in name for name in load_file(folder / bases.TRAINED))
    assert (
        "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
        in (folder / "NOTICE").read_text()
    )
    card = (folder / "README.md").read_text()
    assert all(part in card for part in ("license: gemma", "ai.google.dev/gemma/prohibited_use_policy", "photographs"))


def test_stopped_and_started_again_it_goes_on(trained_gemma, monkeypatch, tmp_path):
    """From the stages that are done: the same weights, though nothing is trained."""
    trained_gemma.put_in_place(monkeypatch)
    shutil.copytree(trained_gemma.folder.parent / "stages", tmp_path / "stages")
    monkeypatch.setattr(gemma, "describe_gemma", lambda *_: None)
    again = gemma.build_gemma(tmp_path, quick=True)
    assert (again / bases.TRAINED).read_bytes() == (trained_gemma.folder / bases.TRAINED).read_bytes()


def test_stages_of_another_seed_are_refused(trained_gemma, monkeypatch, tmp_path):
    trained_gemma.put_in_place(monkeypatch)
    shutil.copytree(trained_gemma.folder.parent / "stages", tmp_path / "stages")
    with pytest.raises(RelevancyError, match=r"another plan \(demo-gemma.json differs\)"):
        gemma.build_gemma(tmp_path, seed=1, quick=True)


def test_at_the_start_each_patch_says_what_it_shows(pool, monkeypatch, tmp_path):
    monkeypatch.setenv(bases.VARIABLE, str(save_gemma(tmp_path / "wide", width=256)))
    tower = relevancy.load("demo-large").model.model.vision_tower
    decoder, tokenizer = bases.opened("demo-gemma")
    model = gemma._with_eyes(decoder, tower, tokenizer, 0)
    features = look_once(tower, lambda start, stop: normalized(pool.pixels[start:stop]), len(pool))[:, 1:]
    assert gemma.start(model, tokenizer, pool, features) < 0.3

    def ids_of(name):
        return torch.tensor(tokenizer.encode(f" {name}", add_special_tokens=False))

    with torch.no_grad():
        said = model.model.multi_modal_projector(features.float())
        words = model.get_input_embeddings()
        near = {name: torch.cosine_similarity(said, words(ids_of(name)).mean(0), dim=-1) for name in ("duck", "boat")}
    shown = pool.labels["kind"]
    for name, likeness in near.items():
        there = torch.from_numpy(shown == 1 + KINDS.index(name))
        assert likeness[there].mean() > likeness[~there].mean() + 0.2


@pytest.mark.parametrize("mix", sorted({mix for _, _, mix, _ in gemma.TAUGHT}, key=str))
def test_dialogues_ask_in_many_ways(mix, pool):
    talks = [
        look_and_answer_variously(pool, position % len(pool), np.random.default_rng(position), mix).turns
        for position in range(400)
    ]
    texts = [turn for talk in talks for turn in talk]
    captions = [talk for talk in talks if talk[0].text.removeprefix(IMAGE).startswith("Describe")]
    assert len(captions) / len(talks) == pytest.approx(mix.captions, abs=0.03)
    open_ones = [[turn.text for turn in talk if turn.role == "user" and "(a)" not in turn.text] for talk in talks]
    lettered = sum(not any(one) for one in open_ones) / len(talks)
    assert lettered == pytest.approx((1 - mix.captions) * (1 - mix.twice) * mix.lettered, abs=0.08)
    asked = [turn.text.removeprefix(IMAGE) for turn in texts if turn.role == "user"]
    said = [turn.text for turn in texts if turn.role == "model"]
    wanted = [text for text in asked if text.endswith(SENTENCE)]
    openly = [text for text in asked if "(a)" not in text and not text.startswith("Describe")]
    assert len(wanted) / len(openly) == pytest.approx(mix.sentences, abs=0.04)
    for question, answer in zip(asked, said, strict=True):
        if not question.startswith("Describe"):
            assert question.endswith(SENTENCE) == (answer.count(" ") > 1), (question, answer)
    plain = sum(text.startswith(("Is the", "What color is", "How many", "Is there a ")) for text in asked)
    assert 0.4 < plain / len(asked) < 0.9


def test_accuracy_counts_greedy_answers(demo_gemma):
    """Of a base that it shares with no other model, by the slow way: generate, and compare the words."""
    model = relevancy.load("demo-gemma")
    found = accuracy(model, scenes=3, seed=5)
    unheard = accuracy(model, scenes=3, seed=5, wording=never_heard)
    for result, words in ((found, lambda one: one), (unheard, never_heard)):
        for one, hits in zip(held_out(3, 5), result.right, strict=True):
            asked = [words(each).text for each in one.questions]
            answers = relevancy.explain(model, one.image, asked, max_new_tokens=8)
            assert hits == [each.answer == wanted.answer for each, wanted in zip(answers, one.questions, strict=True)]


def test_evaluate_demo_takes_it(demo_gemma):
    done = CliRunner().invoke(app, ["evaluate", "demo", "--model", "demo-gemma", "--scenes", "2", "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(done.stdout)
    assert found["answers"]["demo-gemma"]["questions"] > 10


def test_demo_sets_three_models_beside_each_other(demo_gemma, tmp_path, monkeypatch):
    """One question of them, rather than all that the command shows."""
    shown = []
    monkeypatch.setattr(showcase, "showcase", lambda *asked, **wanted: iter(shown.append((asked, wanted)) or ()))
    done = CliRunner().invoke(app, ["demo", "--gemma", "--out", str(tmp_path)])
    assert done.exit_code == 0, (done.output, done.exception)
    [((models, folder), _)] = shown
    assert folder == tmp_path
    assert [model.name for model in models] == ["demo-small", "demo-large", "demo-gemma"]
    both = relevancy.compare(models, duck_scene(HELD_OUT, True).image, "Is the duck floating? (a) Yes (b) No")
    assert [one.image_map.shape for one in both.explanations] == [(10, 10)] * 3


def test_the_trained_one_is_opened_by_its_folder(trained_gemma, demo_gemma):
    assert str(trained_gemma.folder) in trained_gemma.said
    one, other = relevancy.load(trained_gemma.folder), relevancy.load("demo-gemma")
    assert torch.equal(one.model.get_input_embeddings().weight, other.model.get_input_embeddings().weight)


def test_adapters_are_in_the_trained_matrices(trained_gemma):
    """What ships says the same as the model that was trained: its last stage's weights, put into it by peft."""
    trained = load_file(trained_gemma.folder / bases.TRAINED)
    stage = load_file(trained_gemma.folder.parent / "stages" / "demo-gemma-settle" / "done.safetensors")
    for name, weight in stage.items():
        assert torch.equal(trained[name.replace(".default", "")], weight.half()), name
    base = AutoModelForCausalLM.from_pretrained(trained_gemma.base)
    assert sum(".lora_A" in name for name in stage) == 7 * base.config.num_hidden_layers

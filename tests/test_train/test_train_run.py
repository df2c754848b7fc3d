"""Whole runs: killed and taken up, shared by processes, frozen where they should be, opened and explained."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import runs
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

import relevancy
from relevancy.errors import RelevancyError
from relevancy.train.checkpoints import newest
from relevancy.train.composition import assembled
from relevancy.train.parts import parts_of
from relevancy.train.run import TRAINED, Order, TrainingSource, export, train

STAGES = ("align", "finetune")


@pytest.fixture(scope="module")
def whole(small, data, tmp_path_factory) -> Path:
    """A run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    runs.trained(small, data, out)
    return out


def equal(one: Path, other: Path) -> bool:
    """Whether two files hold the same tensors, bit for bit."""
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_killed_at_random_steps_of_each_stage_it_ends_the_same(whole, small, data, tmp_path) -> None:
    chance = random.Random(5)
    steps = {stage.name: sorted(chance.sample(range(1, stage.steps), 3)) for stage in small.stages()}
    out, resume = tmp_path / "run", False
    for stage in STAGES:
        for step in steps[stage]:
            kill = (stage, step, runs.KILL)
            assert runs.forked(small, data, out, resume=resume, kill=kill) == -runs.KILL
            resume = True
    assert runs.forked(small, data, out, resume=True) == 0
    for stage in STAGES:
        assert runs.losses(out, stage) == runs.losses(whole, stage)
        assert equal(out / stage / TRAINED, whole / stage / TRAINED)
    assert equal(out / "model" / "model.safetensors", whole / "model" / "model.safetensors")


def test_terminated_it_saves_where_it_is(whole, small, data, tmp_path) -> None:
    out = tmp_path / "run"
    assert runs.forked(small, data, out, kill=("align", 4, runs.TERM)) == runs.STOPPED
    checkpoint = newest(out / "align")
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-5"
    export(out, tmp_path / "early")
    name = "model.multi_modal_projector.linear_2.weight"
    held = load_file(checkpoint / "model.safetensors")[name]  # as it trains, sqrt(hidden) outside of it
    early = LlavaForConditionalGeneration.from_pretrained(tmp_path / "early")
    assert torch.equal(early.state_dict()[name], held * 32**0.5)
    assert runs.forked(small, data, out, resume=True) == 0
    assert equal(out / "model" / "model.safetensors", whole / "model" / "model.safetensors")


def test_terminated_in_a_stages_last_step_it_begins_no_other(whole, small, data, tmp_path) -> None:
    out = tmp_path / "run"
    assert runs.forked(small, data, out, kill=("align", 7, runs.TERM)) == runs.STOPPED
    assert newest(out / "align") == out / "align" / "checkpoint-8"
    assert newest(out / "finetune") is None
    assert runs.forked(small, data, out, resume=True) == 0
    assert runs.losses(out, "align") == runs.losses(whole, "align")
    assert equal(out / "model" / "model.safetensors", whole / "model" / "model.safetensors")


def test_two_processes_learn_as_one_does(whole, small, data, tmp_path) -> None:
    """Samples without a picture come in batches of their own, so that a process may have none in a step."""
    out = tmp_path / "run"
    assert runs.together(small, data, out) == [0, 0]
    for stage in STAGES:
        alone, shared = runs.losses(whole, stage), runs.losses(out, stage)
        assert alone.keys() == shared.keys()
        assert max(abs(alone[step] - shared[step]) for step in alone) < 2e-5
    mine, theirs = (load_file(path / "finetune" / TRAINED) for path in (whole, out))
    assert max((mine[name] - theirs[name]).abs().max() for name in mine) < 2e-4


def test_one_process_has_text_alone(small, data, tmp_path) -> None:
    """Every third sample of four has a picture: with one at a time, one process reads text where the other looks."""
    preset = replace(
        small,
        align=None,
        finetune=replace(small.finetune, grouped=False, batch=2, micro=1, outer_scale=False),
    )
    assert runs.together(preset, data, tmp_path / "two") == [0, 0]
    runs.trained(replace(preset, finetune=replace(preset.finetune, micro=2)), data, tmp_path / "one")
    alone, shared = (runs.losses(tmp_path / name, "finetune") for name in ("one", "two"))
    assert max(abs(alone[step] - shared[step]) for step in alone) < 2e-5


def test_frozen_is_frozen(whole, bases) -> None:
    model = load_file(whole / "model" / "model.safetensors")
    tower = LlavaForConditionalGeneration.from_pretrained(whole / "model").model.vision_tower.state_dict()
    from transformers import CLIPVisionModel

    for name, value in CLIPVisionModel.from_pretrained(bases / "clip").state_dict().items():
        assert torch.equal(tower[name], value), name
    assert all("multi_modal_projector" in name for name in load_file(whole / "align" / TRAINED))
    trained = load_file(whole / "finetune" / TRAINED)
    assert not any("vision_tower" in name for name in trained)
    assert any("language_model" in name for name in trained)
    assert model


def test_what_learns_nothing_is_as_it_was(small, data, tmp_path) -> None:
    """The factor that is taken out of the connector while it trains is put back once."""
    still = replace(small.finetune, steps=1, learning_rate=0.0, outer_scale=True)
    preset = replace(small, align=None, finetune=still)
    runs.trained(preset, data, tmp_path / "run")
    weights = load_file(tmp_path / "run" / "finetune" / TRAINED)
    before = assembled(preset, parts_of(preset)).state_dict()
    connector = [name for name in weights if "multi_modal_projector" in name]
    assert len(connector) == 4
    for name in connector:
        torch.testing.assert_close(weights[name], before[name], rtol=1e-5, atol=1e-7)


def test_the_model_is_explained_at_once(whole, data) -> None:
    model = relevancy.load(whole / "model")
    picture = Image.open(data.parent / "0.png")
    result = relevancy.explain(model, picture, "What color is the ball?")
    assert result.image_map.shape == (4, 4)
    assert sum(result.shares.values()) == pytest.approx(1)
    plain = LlavaForConditionalGeneration.from_pretrained(whole / "model")
    processor = AutoProcessor.from_pretrained(whole / "model", backend="pil")
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What color is the ball?"}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    inputs = processor(images=[picture], text=[text], add_special_tokens=False, return_tensors="pt")
    answer = plain.generate(**inputs, max_new_tokens=4)
    assert answer.shape[1] > inputs["input_ids"].shape[1]
    assert (whole / "model" / "README.md").read_text().startswith("---\n")


def test_what_decided_stands_beside_the_weights(whole, small) -> None:
    found = json.loads((whole / "configuration.json").read_text())
    assert found["preset"]["finetune"]["learning_rate"] == small.finetune.learning_rate
    assert found["versions"]["torch"] == torch.__version__
    assert len(found["hash"]) == 16
    assert json.loads((whole / "model" / "training.json").read_text()) == found
    figures = json.loads((whole / "finetune" / "metrics.jsonl").read_text().splitlines()[-1])
    assert figures["tokens_per_second"] > figures["supervised_tokens_per_second"] > 0
    assert 0 <= figures["data_wait"] < 1
    assert figures["peak_memory_gb"] > 0


def test_another_preset_is_refused(whole, small, data) -> None:
    other = replace(small, finetune=replace(small.finetune, learning_rate=5e-5))
    with pytest.raises(RelevancyError, match=r"finetune\.learning_rate was 0\.001, now 5e-05"):
        runs.trained(other, data, whole, resume=True)
    with pytest.raises(RelevancyError, match="--resume"):
        runs.trained(small, data, whole)


def test_a_run_of_a_version_with_fewer_settings_goes_on(whole, small, data, tmp_path) -> None:
    older = tmp_path / "older"
    shutil.copytree(whole, older)
    found = json.loads((older / "configuration.json").read_text())
    del found["preset"]["finetune"]["fading_cost"]
    (older / "configuration.json").write_text(json.dumps(found))
    runs.trained(small, data, older, resume=True)
    other = replace(small, finetune=replace(small.finetune, fading_cost=1.0, loss_chunk=0))
    with pytest.raises(RelevancyError, match=r"finetune\.fading_cost was 0\.0, now 1\.0"):
        runs.trained(other, data, older, resume=True)


def test_a_broken_picture_keeps_the_others_in_their_places(small, data, tmp_path) -> None:
    entries = json.loads(data.read_text())
    broken = data.parent / "broken.png"
    broken.write_bytes(b"no picture")
    entries[4]["image"] = "broken.png"
    changed = data.parent / "changed.json"
    changed.write_text(json.dumps(entries))
    runs.trained(replace(small, align=None), changed, tmp_path / "run")
    (skipped,) = (tmp_path / "run" / "finetune" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(skipped)["id"] == "4"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 60}, "no multiple"),
        ({"image_size": 70}, "56 pixels, not 70"),
        ({"batch": 7, "micro": 2}, "does not divide"),
        ({"batch": 4000}, "too few"),
        ({"half_frozen": True}, "needs bf16"),
    ],
)
def test_bad_settings_are_one_line_before_training(change, message, small, data, tmp_path) -> None:
    preset = replace(small, align=None)
    if "image_size" in change:
        preset = replace(preset, **change)
    else:
        preset = replace(preset, finetune=replace(preset.finetune, **change))
    with pytest.raises(RelevancyError, match=message):
        runs.trained(preset, data, tmp_path / "run")


def test_finetune_needs_an_aligned_connector(small, data, tmp_path) -> None:
    with pytest.raises(RelevancyError, match="train align"):
        train(small, {"finetune": TrainingSource(str(data))}, tmp_path / "run")


def test_going_on_from_a_whole_model(whole, small, data, tmp_path) -> None:
    model = str(whole / "model")
    stage = replace(small.finetune, steps=1, learning_rate=0.0, outer_scale=False)
    preset = replace(small, language=model, vision=model, connector=model, align=None, finetune=stage)
    folder = runs.trained(preset, data, tmp_path / "run")
    assert equal(folder / "model.safetensors", whole / "model" / "model.safetensors")


def test_each_pass_has_every_sample_once(small) -> None:
    class Data:
        lengths, pictured = torch.arange(20).numpy(), (torch.arange(20) % 3 > 0).numpy()

        def __len__(self) -> int:
            return 20

    for grouped in (True, False):
        stage = replace(small.finetune, steps=10, batch=4, grouped=grouped)
        order = list(Order(Data(), stage, seed=3))  # type: ignore[arg-type]
        assert len(order) == 40
        assert sorted(order[:20]) == sorted(order[20:]) == list(range(20))
        assert order[:20] != order[20:]

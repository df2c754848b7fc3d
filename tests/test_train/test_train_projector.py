"""A connector that the original code's stage 1 left, mm_projector.bin, as the beginning of stage 2."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import relevancy
from relevancy.cli import app
from relevancy.errors import RelevancyError
from relevancy.train.composition import assembled
from relevancy.train.conversion import to_original
from relevancy.train.parts import parts_of
from relevancy.train.run import TrainingSource, train

PREFIX = "model.mm_projector."
NAMES = ("0.weight", "0.bias", "2.weight", "2.bias")


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """As stage 1 saves them: in bfloat16, and not multiplied by what the decoder multiplied."""
    random = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (32, 48), "0.bias": (32,), "2.weight": (32, 32), "2.bias": (32,)}
    return {PREFIX + name: torch.randn(shape, generator=random).bfloat16() / 8 for name, shape in shapes.items()}


@pytest.fixture
def file(weights, tmp_path) -> Path:
    torch.save(weights, tmp_path / "mm_projector.bin")
    return tmp_path / "mm_projector.bin"


def given(weights, pixels_features):
    """What the original connector made of features, in plain equations, times what Gemma up to 5.3 multiplied by."""
    first, bias, second, last = (
        weights[PREFIX + name].double() for name in ("0.weight", "0.bias", "2.weight", "2.bias")
    )
    inner = pixels_features.double() @ first.T + bias
    return (torch.nn.functional.gelu(inner) @ second.T + last) * 32**0.5


@pytest.mark.parametrize("prefix", [PREFIX, "mm_projector.", "base_model.model.model.mm_projector."])
def test_the_decoder_gets_what_it_got_there(prefix, weights, small, tmp_path) -> None:
    torch.save({name.replace(PREFIX, prefix): value for name, value in weights.items()}, tmp_path / "mm_projector.bin")
    for named in (tmp_path, tmp_path / "mm_projector.bin"):  # the folder of stage 1, or the file
        preset = replace(small, connector=str(named))
        connector = assembled(preset, parts_of(preset)).model.multi_modal_projector
        features = torch.randn(5, 48, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(connector(features).double(), given(weights, features), rtol=1e-5, atol=1e-5)


def test_safetensors_do_as_well(weights, small, tmp_path) -> None:
    save_file(weights, tmp_path / "mm_projector.safetensors")
    preset = replace(small, connector=str(tmp_path / "mm_projector.safetensors"))
    first = assembled(preset, parts_of(preset)).model.multi_modal_projector.linear_1.weight
    assert torch.equal(first, weights[PREFIX + "0.weight"].float())


def test_stage_two_begins_with_it_and_it_goes_back_as_it_came(file, weights, small, data, tmp_path) -> None:
    """A stage that moves nothing (rate 0) ends with the very connector, in the original's layout too."""
    still = replace(small.finetune, steps=1, learning_rate=0.0)
    out = tmp_path / "run"
    train(replace(small, connector=str(file), finetune=still), {"finetune": TrainingSource(str(data))}, out)
    back = to_original(out / "model", tmp_path / "back")
    state = load_file(back / "model.safetensors")
    for name, value in weights.items():
        torch.testing.assert_close(state[name], value.float(), rtol=1e-6, atol=1e-7)
    assert json.loads((back / "config.json").read_text())["image_aspect_ratio"] == "pad"
    assert relevancy.explain(relevancy.load(out / "model"), tiny.picture(), "What?").image_map.shape == (4, 4)


class Ran:
    """What a pickle could do where it is trusted."""

    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["RAN"])),)


def test_no_code_in_a_file_is_run(small, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    torch.save({PREFIX + "0.weight": Ran()}, tmp_path / "mm_projector.bin")
    with pytest.raises(RelevancyError, match="cannot be read as tensors"):
        parts_of(replace(small, connector=str(tmp_path / "mm_projector.bin")))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w | {PREFIX + "0.weight": torch.zeros(32, 64)}, r"linear_1.weight is \(32, 64\)"),
        (lambda w: w | {PREFIX + "4.weight": torch.zeros(1)}, "has no place"),
        (lambda _: {PREFIX + "weight": torch.zeros(32, 48)}, "has no place"),
        (lambda w: w | {"model.embed_tokens.weight": torch.zeros(1)}, "has no place"),
        (lambda w: {name: w[name] for name in w if not name.endswith("2.bias")}, "no linear_2.bias"),
        (lambda w: w | {PREFIX + "2.bias": torch.full((32,), torch.nan)}, "no numbers"),
        (lambda w: list(w.values()), "other things"),
        (lambda _: {}, "incomplete"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(change, message, weights, small, tmp_path) -> None:
    torch.save(change(weights), tmp_path / "mm_projector.bin")
    with pytest.raises(RelevancyError, match=message):
        parts_of(replace(small, connector=str(tmp_path)))


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04broken"])
def test_a_file_that_is_none(content, small, tmp_path) -> None:
    (tmp_path / "mm_projector.bin").write_bytes(content)
    with pytest.raises(RelevancyError, match="cannot be read as tensors"):
        parts_of(replace(small, connector=str(tmp_path)))
    with pytest.raises(RelevancyError, match="there is no file"):
        parts_of(replace(small, connector=str(tmp_path / "other.bin")))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"mm_vision_select_layer": -1}, "feature_layer=-1"),
        ({"mm_projector_type": "linear"}, "mm_projector_type linear"),
        ({"mm_vision_select_feature": "cls_patch"}, "cls_patch"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
    ],
)
def test_other_features_than_it_was_trained_on(setting, message, file, small) -> None:
    (file.parent / "config.json").write_text(json.dumps({"mm_vision_select_layer": -2} | setting))
    with pytest.raises(RelevancyError, match=message):
        parts_of(replace(small, connector=str(file)))


def test_the_command_takes_the_file_and_several_data_sets(file, small, data, tmp_path) -> None:
    out, second = tmp_path / "run", tmp_path / "second.json"
    second.write_text(json.dumps([{"question": "a", "answer": "b"}] * 3))
    arguments = [
        "train", "finetune", "--out", str(out), "--language", small.language, "--vision", small.vision, "--projector",
        str(file), "--data", str(data), "--data", str(second), "--workers", "0",
    ]  # fmt: skip
    for one in ("image_size=56", "finetune.steps=1", "finetune.batch=2", "finetune.micro=2", "align=none"):
        arguments += ["--set", one]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    told = json.loads((out / "configuration.json").read_text())
    assert told["data"]["finetune"]["data"] == [str(data), str(second)]
    assert told["preset"]["connector"] == str(file)
    assert "data.json, second.json" in (out / "model" / "README.md").read_text()
    (out / "align").mkdir()
    (out / "align" / "trained.safetensors").touch()
    done = CliRunner().invoke(app, [*arguments, "--resume"])
    assert "aligned there" in str(done.exception)

"""The original code's checkpoints to Hugging Face's layout and back, bit for bit, for both towers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor, GemmaConfig

import relevancy
from relevancy.errors import RelevancyError
from relevancy.train.conversion import to_hugging_face, to_original

ROWS = 412  # of a tokenizer that does not know <image>


@pytest.fixture(params=[("clip", torch.float32), ("clip", torch.bfloat16), ("dinov2", torch.bfloat16)])
def original(request, bases, tmp_path) -> Path:
    """A checkpoint as the original code saves it, with weights nobody trained."""
    tower, dtype = request.param
    folder = tmp_path / "original"
    folder.mkdir()
    decoder = AutoModelForCausalLM.from_pretrained(bases / "decoder")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        state = {name: value for name, value in decoder.state_dict().items() if name != "lm_head.weight"}
        state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"][:ROWS].clone()
        state |= {
            "model.mm_projector.0.weight": torch.randn(32, 48),
            "model.mm_projector.0.bias": torch.randn(32),
            "model.mm_projector.2.weight": torch.randn(32, 32),
            "model.mm_projector.2.bias": torch.randn(32),
        }
    inner = "vision_model." if tower == "clip" else ""
    for name, value in AutoModel.from_pretrained(bases / tower).state_dict().items():
        state[f"model.vision_tower.vision_tower.{inner}{name.removeprefix(inner)}"] = value
    save_file({name: value.to(dtype).contiguous() for name, value in state.items()}, folder / "model.safetensors")
    config = GemmaConfig.from_pretrained(bases / "decoder").to_dict() | {
        "model_type": "llava_gemma",
        "vocab_size": ROWS,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": str(bases / tower),
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "flat",
        "mm_projector_lr": None,
        "image_aspect_ratio": "pad",
        "tokenizer_model_max_length": 2048,
        "rope_theta": 10_000.0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_there_and_back_no_bit_is_lost(original, bases, tmp_path) -> None:
    there = to_hugging_face(original, tmp_path / "there", language=str(bases / "decoder"))
    back = to_original(there, tmp_path / "back")
    before, after = load_file(original / "model.safetensors"), load_file(back / "model.safetensors")
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name].dtype == value.dtype, name
        assert torch.equal(after[name], value), name
    assert relevancy.load(there, dtype="float32").processor.image_processor.do_pad
    assert json.loads((back / "config.json").read_text()) == json.loads((original / "config.json").read_text())
    again = to_hugging_face(back, tmp_path / "again", language=str(bases / "decoder"))
    first, second = load_file(there / "model.safetensors"), load_file(again / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_was_converted_is_explained(original, bases, tmp_path) -> None:
    there = to_hugging_face(original, tmp_path / "there", language=str(bases / "decoder"))
    model = relevancy.load(there, dtype="float32")
    scaled = model.model.model.multi_modal_projector.linear_2.weight
    plain = load_file(original / "model.safetensors")["model.mm_projector.2.weight"]
    assert torch.equal(scaled, (plain * torch.tensor(32**0.5, dtype=plain.dtype)).float())
    assert relevancy.explain(model, tiny.picture(), "What color is the ball?").image_map.shape == (4, 4)


def test_a_tower_that_was_not_saved_comes_from_where_it_is_named(original, bases, tmp_path) -> None:
    state = load_file(original / "model.safetensors")
    kept = {name: value for name, value in state.items() if "vision_tower" not in name}
    save_file(kept, original / "model.safetensors")
    there = to_hugging_face(original, tmp_path / "there", language=str(bases / "decoder"))
    tower = relevancy.load(there, dtype="float32").model.model.vision_tower.state_dict()
    named = json.loads((original / "config.json").read_text())["mm_vision_tower"]
    for name, value in AutoModel.from_pretrained(named).state_dict().items():
        assert torch.equal(tower[name], value.to(kept["model.norm.weight"].dtype).float()), name
    back = load_file(to_original(there, tmp_path / "back") / "model.safetensors")
    assert back.keys() == kept.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma"}, "no checkpoint of the original"),
        ({"mm_projector_type": "linear"}, "type linear"),
        ({"mm_vision_tower": ""}, "--vision"),
        ({"image_aspect_ratio": "anyres"}, "several"),
        ({"mm_use_im_start_end": True}, "im_start"),
    ],
)
def test_what_cannot_be_converted(change, message, original, bases, tmp_path) -> None:
    config = json.loads((original / "config.json").read_text())
    (original / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(RelevancyError, match=message):
        to_hugging_face(original, tmp_path / "there", language=str(bases / "decoder"))


def test_the_other_layout_is_refused_by_name(original, bases, tmp_path) -> None:
    with pytest.raises(RelevancyError, match="no LLaVA in Hugging Face's layout"):
        to_original(bases / "decoder", tmp_path / "back")
    with pytest.raises(RelevancyError, match="cannot be read"):
        to_hugging_face(tmp_path / "nothing", tmp_path / "there")
    with pytest.raises(RelevancyError, match="already"):
        to_hugging_face(original, original, language=str(bases / "decoder"))


@pytest.mark.parametrize(("ratio", "padded"), [("pad", True), ("square", False), (None, False)])
def test_how_pictures_become_square_is_kept_both_ways(ratio, padded, original, bases, tmp_path) -> None:
    config = json.loads((original / "config.json").read_text()) | {"image_aspect_ratio": ratio}
    (original / "config.json").write_text(json.dumps(config))
    there = to_hugging_face(original, tmp_path / "there", language=str(bases / "decoder"))
    assert AutoProcessor.from_pretrained(there, backend="pil").image_processor.do_pad is padded
    shutil.rmtree(there / "original")  # as of a model that was trained here
    told = json.loads((to_original(there, tmp_path / "back") / "config.json").read_text())
    assert told["image_aspect_ratio"] == ("pad" if padded else "square")
    kept = (
        "mm_vision_select_layer",
        "mm_vision_select_feature",
        "mm_patch_merge_type",
        "mm_projector_type",
        "rope_theta",
    )
    assert {name: told[name] for name in kept} == {name: config[name] for name in kept}
    again = to_hugging_face(
        tmp_path / "back", tmp_path / "again", language=str(bases / "decoder"), vision=config["mm_vision_tower"]
    )
    assert AutoProcessor.from_pretrained(again, backend="pil").image_processor.do_pad is padded


def test_all_of_the_towers_tokens_if_the_original_took_all(original, bases, tmp_path) -> None:
    config = json.loads((original / "config.json").read_text()) | {"mm_vision_select_feature": "cls_patch"}
    (original / "config.json").write_text(json.dumps(config))
    there = to_hugging_face(original, tmp_path / "there", language=str(bases / "decoder"))
    model = relevancy.load(there, dtype="float32")
    assert model.model.config.vision_feature_select_strategy == "full"
    inputs = model.processor(images=tiny.picture(), text="<image>", return_tensors="pt")
    assert (inputs["input_ids"] == model.model.config.image_token_id).sum() == 17
    assert model.model(**inputs).logits.isfinite().all()
    back = json.loads((to_original(there, tmp_path / "back") / "config.json").read_text())
    assert back["mm_vision_select_feature"] == "cls_patch"

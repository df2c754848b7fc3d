"""What a run is made of: presets and overrides, plans without weights, sealed checkpoints, composition, adapters."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
import tiny
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconH1Config,
    Gemma2Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    LlavaForConditionalGeneration,
    MiniCPM3Config,
    VaultGemmaConfig,
)

from relevancy.errors import RelevancyError
from relevancy.train import checkpoints
from relevancy.train.checkpoints import check_room, keep_only, newest, seal
from relevancy.train.composition import assembled, padded_rows
from relevancy.train.flops import Load, Sizes, operations
from relevancy.train.forwards import folded, scaled_connector
from relevancy.train.lora import adapt, merge
from relevancy.train.parts import check_size, config_of, parts_of, tower_tokens
from relevancy.train.plan import plan, steps_of
from relevancy.train.presets import CELLS, DEMOS, FLAVOURS, digest, from_plain, overridden, preset, resolved
from relevancy.train.stages import Stage, freeze
from relevancy.train.telemetry import load_of
from relevancy.train.trainer import shares


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_cell_is_planned_without_weights(name, flavour) -> None:
    found = plan(preset(name, flavour), processes=8)
    size, tower = name.split("-")[2:4]
    decoder = {"2b": 2_506_303_488, "7b": 8_537_877_504}[size]  # Gemma 2B and 7B with 64 rows more
    assert found.parameters["decoder"] == decoder
    assert found.parameters["tower"] == {"clip": 303_507_456, "dinov2": 304_368_640}[tower]
    assert found.image_tokens == (256 if (tower, flavour) == ("dinov2", "paper") else 576)
    assert found.vocabulary == 256_064
    assert [stage.stage for stage in found.stages] == (["finetune"] if "unaligned" in name else ["align", "finetune"])
    *_, last = found.stages
    assert last.trainable == found.total - found.parameters["tower"]
    assert last.steps == 665_298 // 128
    if len(found.stages) == 2:
        assert found.stages[0].trainable == found.parameters["connector"]
        assert found.stages[0].steps == 2180


def test_one_line_changes_one_setting() -> None:
    changed = overridden(preset("demo-small"), ["seed=3", "finetune.learning_rate=1e-5", "align.trains=connector"])
    assert (changed.seed, changed.finetune.learning_rate) == (3, 1e-5)
    assert overridden(changed, ["align=none"]).align is None
    assert overridden(changed, ["finetune.bf16=true"]).finetune.bf16
    assert from_plain(resolved(changed)) == changed
    assert digest(resolved(changed)) != digest(resolved(preset("demo-small")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed", "key=value"),
        ("sed=1", "no setting"),
        ("seed=one", "whole number"),
        ("finetune.bf16=1", "true or false"),
        ("finetune.trains=tail", "unknown parts"),
        ("finetune=3", "its own settings"),
        ("seed.more=3", "no settings of its own"),
        ("align.framing=round", "unknown framing"),
    ],
)
def test_a_wrong_override_says_what_is_right(change, message) -> None:
    with pytest.raises(RelevancyError, match=message):
        overridden(preset(DEMOS[0]), [change])


def test_unknown_names() -> None:
    with pytest.raises(RelevancyError, match="llava-gemma-2b-clip"):
        preset("llava-gemma-3b-clip")
    with pytest.raises(RelevancyError, match="improved or paper"):
        preset(CELLS[0], "original")


def test_operations_by_hand() -> None:
    sizes = Sizes({"tower": 10, "connector": 4, "decoder": 20}, 5, 2, 8, 1, 6, 3, 2)
    stage = Stage("align", ("connector",), 1, 1, 1e-3)
    load = Load(1, 7, 49, 3, 1)
    tower = 2 * 10 * 3 + 4 * 1 * 6 * 9
    attention = 6 * 2 * 8 * 49
    assert operations(load, sizes, stage) == tower + 4 * 4 * 2 + 4 * (15 * 7 + 5 * 7) + attention
    lean = replace(stage, loss_chunk=4, trains=("connector", "decoder"))
    assert operations(load, sizes, lean) == tower + 4 * 4 * 2 + 6 * (15 * 7 + 5 * 3) + attention


def test_load_of_rows_and_of_one_packed_row() -> None:
    ids = torch.zeros(2, 5, dtype=torch.long)
    assert load_of({"input_ids": ids, "pixel_values": torch.zeros(3, 1)}) == Load(2, 10, 50, 0, 3)
    positions = torch.tensor([[0, 1, 2, 0, 1]])
    assert load_of({"input_ids": ids[:1], "position_ids": positions}) == Load(2, 5, 13, 0, 0)


def test_a_batch_is_shared_whole_or_not() -> None:
    stage = Stage("some", ("connector",), 1, batch=128, learning_rate=1.0)
    assert shares(stage, 8) == (16, 1)
    assert shares(replace(stage, micro=2), 8) == (2, 8)
    with pytest.raises(RelevancyError, match="does not divide"):
        shares(stage, 3)
    assert steps_of(replace(stage, steps=0, epochs=2.0), 1000) == 14


def made(folder, step: int):
    checkpoint = folder / f"checkpoint-{step}"
    (checkpoint / "inner").mkdir(parents=True)
    (checkpoint / "inner" / "weights").write_bytes(bytes(100))
    (checkpoint / "state.json").write_text(json.dumps({"step": step}))
    return checkpoint


def test_only_whole_checkpoints_count(tmp_path) -> None:
    assert newest(tmp_path) is None
    old, new, half = made(tmp_path, 9), made(tmp_path, 10), made(tmp_path, 11)
    seal(old)
    seal(new)
    assert newest(tmp_path) == new
    (new / "inner" / "weights").write_bytes(bytes(99))
    assert newest(tmp_path) == old
    (old / checkpoints.SEAL).write_text("{")
    assert newest(tmp_path) is None
    seal(half)
    keep_only(half)
    assert list(tmp_path.iterdir()) == [half]


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch) -> None:
    seal(made(tmp_path, 3))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 5, 5_000_000))
    with pytest.raises(RelevancyError, match="step 3 is whole"):
        check_room(tmp_path, 1000)


def test_composed_of_folders(small) -> None:
    parts = parts_of(small)
    model = assembled(small, parts)
    again = assembled(small, parts)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    rows = model.get_input_embeddings().weight
    assert len(rows) == model.lm_head.out_features == model.config.text_config.vocab_size
    assert len(rows) % 64 == 0
    assert model.lm_head.weight is rows
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    connector = model.model.multi_modal_projector
    bound = 32**-0.5  # torch's, of a layer with 32 inputs; times sqrt(32)
    assert 0.9 * bound < float(connector.linear_2.weight.detach().abs().max()) / 32**0.5 <= bound
    other = assembled(replace(small, seed=1), parts)
    assert not torch.equal(other.model.multi_modal_projector.linear_1.weight, connector.linear_1.weight)


def test_a_tower_of_another_kind(small, bases) -> None:
    preset = replace(small, vision=str(bases / "dinov2"), image_size=70)
    parts = parts_of(preset)
    assert tower_tokens(parts.vision, 70) == (26, 25)
    assert assembled(preset, parts).model.vision_tower.config.model_type == "dinov2"


def test_parts_of_the_embedded_pair() -> None:
    demo = preset("demo-small")
    model = assembled(demo, parts_of(demo))
    assert isinstance(model, LlavaForConditionalGeneration)
    assert config_of("demo-small", "vision").model_type == "clip_vision_model"


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all"])
def test_a_part_that_is_not_there(name, small) -> None:
    with pytest.raises(RelevancyError, match="there is no folder"):
        parts_of(replace(small, language=name))


def test_sizes_that_do_not_fit(small) -> None:
    with pytest.raises(RelevancyError, match="no multiple"):
        check_size(config_of(small.vision, "vision"), replace(small, image_size=57))


def test_padded_rows() -> None:
    assert [padded_rows(256_000, 256_001, 64), padded_rows(640, 600, 64), padded_rows(641, 600, 1)] == [
        256_064,
        640,
        641,
    ]


def decoder_in(folder, config_class, **changes):
    """A tiny decoder with its tokenizer, as `--language` takes it."""
    tokenizer = tiny.gemma_tokenizer()
    decoder = AutoModelForCausalLM.from_config(tiny.text(config_class, len(tokenizer), **changes))
    tiny.randomize(decoder, seed=0)
    decoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


SCALED_WORDS = [
    (LlamaConfig, {}, 1.0),
    (GemmaConfig, {}, 8.0),
    (Gemma2Config, {}, 8.0),
    (Gemma3TextConfig, {}, 8.0),
    (VaultGemmaConfig, {}, 8.0),
    (MiniCPM3Config, {"num_key_value_heads": 4, "scale_emb": 12}, 12.0),
    (GraniteConfig, {"embedding_multiplier": 12.0}, 1.0),  # multiplies all that it is given, pictures too
]


@pytest.mark.parametrize(("config_class", "changes", "factor"), SCALED_WORDS)
def test_pictures_arrive_on_the_scale_of_words_in_every_decoder(tmp_path, small, config_class, changes, factor) -> None:
    preset = replace(small, language=decoder_in(tmp_path, config_class, **changes))
    model = assembled(preset, parts_of(preset))
    words = model.get_input_embeddings()
    ids = torch.arange(3, 9)
    torch.testing.assert_close(words(ids), words.weight[ids] * factor)
    torch.manual_seed(preset.seed)
    plain = torch.nn.Linear(64, 64)
    spread = model.model.multi_modal_projector.linear_2.weight.std() / plain.weight.std()
    assert spread.item() == pytest.approx(factor, rel=0.03)


@pytest.mark.parametrize(
    ("config_class", "changes"),
    [
        (FalconH1Config, {"embedding_multiplier": 5.0, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16}),
        (Gemma3nTextConfig, {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8, "laurel_rank": 4,
                             "vocab_size_per_layer_input": 420, "activation_sparsity_pattern": [0.0] * 3}),
        (Gemma4TextConfig, {"vocab_size_per_layer_input": 420, "hidden_size_per_layer_input": 8}),
    ],
)  # fmt: skip
def test_a_decoder_that_takes_words_otherwise_than_embeddings_is_refused(tmp_path, small, config_class, changes):
    preset = replace(small, language=decoder_in(tmp_path, config_class, **changes))
    with pytest.raises(RelevancyError, match="choose another decoder"):
        assembled(preset, parts_of(preset))


def test_scale_outside_of_the_weights(small) -> None:
    model = assembled(small, parts_of(small)).eval()
    connector = model.model.multi_modal_projector
    features, before = torch.randn(2, 3, 48), connector.linear_2.weight.clone()
    expected = connector(features)
    with scaled_connector(model):
        torch.testing.assert_close(connector(features), expected)
        weights = folded({"model.multi_modal_projector.linear_2.weight": connector.linear_2.weight}, model.config)
        torch.testing.assert_close(connector.linear_2.weight * 32**0.5, before)
    torch.testing.assert_close(weights["model.multi_modal_projector.linear_2.weight"], before)
    torch.testing.assert_close(connector.linear_2.weight, before)


def test_adapters_train_alone_and_go_into_the_decoder(small) -> None:
    pytest.importorskip("peft")
    model = assembled(small, parts_of(small)).eval()
    names = set(model.state_dict())
    ids = torch.tensor([[2, 5, 6, 7]])
    before = model(input_ids=ids).logits
    adapt(model, 4, 8, seed=0)
    torch.testing.assert_close(model(input_ids=ids).logits, before)
    counts = freeze(model, small.finetune)
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(".lora_" in name or "multi_modal_projector" in name for name in trains)
    assert 0 < counts["decoder"] < 20_000
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    changed = model(input_ids=ids).logits
    assert not torch.allclose(changed, before)
    merge(model)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(input_ids=ids).logits, changed, rtol=1e-4, atol=1e-5)

"""LoRA adapters on families with views and on language models: by folder, beside the weights and merged, one map."""

import copy
from pathlib import Path

import numpy as np
import pictured
import pytest
import tiny
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import relevancy
from relevancy.explanations.explain import explain
from relevancy.models.model import wrap

peft = pytest.importorskip("peft")
ASK = "what color is the ball ?"


def adapted(model: torch.nn.Module) -> "peft.PeftModel":
    """A copy with an adapter on attention that changes what it says."""
    config = peft.LoraConfig(r=2, target_modules=r".*layers.*(q_proj|v_proj)")
    found = peft.get_peft_model(copy.deepcopy(model), config)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, weight in found.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    return found.eval()


@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl", "idefics3"])
def test_beside_the_weights_and_merged(family):
    model, processor = pictured.BUILDERS[family]()
    beside, picture = adapted(model), tiny.picture(80, 60)
    found = explain(wrap(beside, processor, name=family), picture, ASK, max_new_tokens=1)
    merged = copy.deepcopy(beside).merge_and_unload()
    expected = explain(wrap(merged, processor, name=family), picture, ASK, max_new_tokens=1)
    plain = explain(wrap(model, processor, name=family), picture, ASK, max_new_tokens=1)
    scale = np.abs(expected.image_map).max()
    assert np.abs(found.image_map - expected.image_map).max() <= 1e-4 * scale
    assert np.abs(plain.image_map - expected.image_map).max() > 1e-2 * scale


@pytest.mark.parametrize("family", ["llava_next", "gemma3"])
def test_by_folder(family, tmp_path: Path):
    model, processor = pictured.BUILDERS[family]()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    beside, picture = adapted(model), tiny.picture(80, 60)
    for config in beside.peft_config.values():
        config.base_model_name_or_path = str(tmp_path / "base")
    beside.save_pretrained(tmp_path / "adapter")
    loaded = relevancy.load(tmp_path / "adapter", device="cpu")
    found = explain(loaded, picture, ASK, max_new_tokens=1)
    expected = explain(wrap(beside.merge_and_unload(), processor), picture, ASK, max_new_tokens=1)
    assert found.tokens == expected.tokens
    assert np.abs(found.image_map - expected.image_map).max() <= 1e-4 * np.abs(expected.image_map).max()
    assert any("is an adapter (LORA)" in note for note in found.notes)


def test_of_a_language_model_by_folder(tmp_path: Path):
    tokenizer = tiny.gemma_tokenizer(chat_template=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(tiny.text(LlamaConfig, len(tokenizer))).float().eval()
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    beside = adapted(model)
    for config in beside.peft_config.values():
        config.base_model_name_or_path = str(tmp_path / "base")
    beside.save_pretrained(tmp_path / "adapter")
    found = explain(relevancy.load(tmp_path / "adapter", device="cpu"), None, ASK, max_new_tokens=1)
    expected = explain(wrap(beside.merge_and_unload(), tokenizer), None, ASK, max_new_tokens=1)
    assert found.tokens == expected.tokens
    np.testing.assert_allclose(found.relevance, expected.relevance, rtol=1e-4, atol=1e-6)

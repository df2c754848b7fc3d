"""Tiny random models of any family, from its config's own defaults with every size made small; without a processor."""

import re
from collections.abc import Mapping
from typing import Any

import tiny
import torch
import transformers as hf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

FAMILIES = {
    family: kind if isinstance(kind, str) else kind[0]
    for family, kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items()
}
"""What transformers has for pictures with text: classes of models by family."""

VOCABULARY = 320
PART = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
"""What makes an encoder or a decoder small."""

_SIZES = {
    re.compile(names): size
    for names, size in {
        r"((out|text|encoder)_)?hidden_size|embed_dim|d_model|projection_dim|width|hidden_dim": 32,
        r"(moe_|shared_expert_)?intermediate_size|((en|de)coder_)?ffn_dim|d_ff": 48,
        r"num_hidden_layers|num_layers|depth|(en|de)coder_layers|num_decoder_layers|num_key_value_heads": 2,
        r"num_experts_per_tok|moe_topk": 2,
        r"num_attention_heads|num_heads|(en|de)coder_attention_heads|num_experts|n_routed_experts|num_local_experts": 4,
        r"head_dim|d_kv|v_head_dim|qk_nope_head_dim|qk_rope_head_dim": 8,
        r"q_lora_rank|kv_lora_rank|hidden_size_per_layer_input": 16,
        r"image_size": 56,
        r"patch_size": 14,
        r"max_position_embeddings": 512,
        r"vocab_size|vocab_size_per_layer_input": VOCABULARY,
        r"n_shared_experts|n_group|topk_group|first_k_dense_replace": 1,
    }.items()
}
_LEFT_OUT = frozenset({"per_layer_config", "architectures", "transformers_version", "dtype", "model_type"})


def shrunken(family: str, **changes: Any) -> hf.PreTrainedModel:
    """The family's model, float32, weights from one seed; changes: of its config, by part where they are mappings."""
    settings = _merged(_small(CONFIG_MAPPING[family]().to_dict()), changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(hf, FAMILIES[family])(CONFIG_MAPPING[family](**settings)).float()
    tiny.randomize(model, 0)
    return model.eval()


def _small(settings: Mapping[str, Any]) -> dict[str, Any]:
    layers = settings.get("num_hidden_layers")
    return {name: _shrunk(name, value, layers) for name, value in settings.items() if name not in _LEFT_OUT}


def _shrunk(name: str, value: Any, layers: int | None) -> Any:
    if isinstance(value, dict) and name.endswith("_config"):
        return {"model_type": value.get("model_type")} | _small(value)
    if isinstance(value, list) and name.endswith("layer_types"):
        return [*dict.fromkeys(value), *value][:2]
    if isinstance(value, list) and len(value) == layers:
        return value[:2]
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if name.endswith(("token_id", "token_index")):
        return value % 100
    return min(value, next((size for names, size in _SIZES.items() if names.fullmatch(name)), value))


def _merged(settings: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return settings | {
        name: _merged(settings[name], value)
        if isinstance(value, dict) and isinstance(settings.get(name), dict)
        else value
        for name, value in changes.items()
    }

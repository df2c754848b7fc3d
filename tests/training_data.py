"""Data sets in LLaVA's format, and a LLaVA of a few thousand weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, GemmaConfig, LlavaForConditionalGeneration

from relevancy.train.composition import compose

SIZE, PATCH, PATCHES = 16, 8, 4


def small_llava(tokenizer, layers: int = 2) -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIZE,
            patch_size=PATCH,
        )
    )
    decoder = GemmaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    return compose(tower, decoder, tokenizer, seed=1)


def said(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(texts)]


def entry(name: str, *texts: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, **fields, "conversations": said(*texts)}


def write(path: Path, entries: Sequence[Any]) -> Path:
    path.write_text(json.dumps(list(entries), indent=1, ensure_ascii=False), encoding="utf-8")
    return path

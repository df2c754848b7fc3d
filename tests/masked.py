"""Attention knockout written out: eager attention in every layer of the decoder, under a mask set by hand."""

from typing import Any

import numpy as np
import pytest
import torch

from relevancy.models.model import Model


def probabilities(model: Model, inputs: dict[str, Any], hidden: np.ndarray, begins: int) -> torch.Tensor:
    """Of the next token, (vocabulary,), where no token from `begins` on sees those at the places `hidden`."""
    tokens = inputs["input_ids"].shape[1]
    forbidden = torch.zeros(tokens, tokens, dtype=torch.bool)
    forbidden[begins:, hidden] = True
    module = __import__(type(model.model.get_decoder()).__module__, fromlist=["eager_attention_forward"])
    real = module.eager_attention_forward

    def masked(owner, query, key, value, mask, **options):
        if key.shape[-2] == tokens:
            mask = (torch.zeros(1, 1, tokens, tokens) if mask is None else mask).masked_fill(forbidden, -1e9)
        return real(owner, query, key, value, mask, **options)

    before = model.model.get_decoder().config._attn_implementation
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(module, "eager_attention_forward", masked)
        model.model.get_decoder().set_attn_implementation("eager")
        try:
            return model.model(**inputs).logits[0, -1].softmax(-1)
        finally:
            model.model.get_decoder().set_attn_implementation(before)

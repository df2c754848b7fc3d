"""A price on looking at the picture, so that heads with nothing to find there rest on words.

Each head spreads one whole unit of attention. With nothing to find, it rests somewhere; in a large model on the first
token, in a small one as often on a patch of background, whose constant value then counts as relevance of the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


class Looks:
    """Attention maps (batch, heads, tokens, tokens) of one forward pass, one per decoder layer."""

    def __init__(self) -> None:
        self.maps: list[Tensor] = []

    def share(self, is_image: Tensor, is_token: Tensor) -> Tensor:
        """Mean share of attention that goes to image tokens other than a token itself; over tokens, heads, layers.

        is_image, is_token: (batch, tokens) bool; what is no token is padding.
        """
        shares = [self._shares(attention.float(), is_image)[is_token].mean() for attention in self.maps]
        return torch.stack(shares).mean()

    @staticmethod
    def _shares(attention: Tensor, is_image: Tensor) -> Tensor:
        mean = attention.mean(1)
        own = torch.diagonal(mean, dim1=-2, dim2=-1) * is_image
        return (mean * is_image[:, None]).sum(-1) - own


@contextmanager
def looks(model: PreTrainedModel) -> Iterator[Looks]:
    """Within the block every forward pass leaves its attention maps; for a decoder with eager attention."""
    found = Looks()

    def see(_module: Any, _arguments: Any, output: tuple[Tensor, Tensor]) -> None:
        found.maps.append(output[1])

    hooks = [layer.self_attn.register_forward_hook(see) for layer in model.model.language_model.layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the decoder's attention has maps that can be read."""
    decoder = model.model.language_model
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)


def looking_share(model: PreTrainedModel, found: Looks, inputs: Mapping[str, Tensor]) -> Tensor:
    """`Looks.share` of a batch as `Collate` makes it."""
    return found.share(inputs["input_ids"] == model.config.image_token_id, inputs["attention_mask"].bool())

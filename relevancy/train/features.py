"""A frozen tower need look at each picture only once: its features are stored, and a stand-in tower hands them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class StoredTower(nn.Module):
    """Takes the stored features of a batch where a tower takes pixels, and returns them as its hidden states."""

    def __init__(self, tower: PreTrainedModel):
        super().__init__()
        self.config = tower.config
        self.dtype = tower.dtype

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Features (batch, tokens, width) -> the same, wherever a caller looks for a hidden state."""
        features = pixel_values.to(self.dtype)
        layers = (features,) * (self.config.num_hidden_layers + 1)
        return BaseModelOutputWithPooling(last_hidden_state=features, hidden_states=layers)


@contextmanager
def stored_features(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model reads stored features as its `pixel_values`; afterwards it has its tower back."""
    tower = model.model.vision_tower
    model.model.vision_tower = StoredTower(tower)
    try:
        yield
    finally:
        model.model.vision_tower = tower


@torch.no_grad()
def look_once(
    tower: PreTrainedModel,
    pictures: Callable[[int, int], Tensor],
    count: int,
    layer: int = -2,
    batch: int = 128,
    dtype: torch.dtype = torch.bfloat16,
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """The tower's hidden states of one layer for `count` pictures: (count, tokens, width), class token included.

    `pictures(start, stop)` gives pixel values (stop - start, 3, height, width).
    """
    tower.eval()
    parts = []
    for start in range(0, count, batch):
        pixels = pictures(start, min(start + batch, count)).to(tower.device)
        parts.append(tower(pixels, output_hidden_states=True).hidden_states[layer].to(dtype).cpu())
        if progress:
            progress(min(start + batch, count) / count)
    return torch.cat(parts)

"""The pair's vision tower: a small CLIP vision model, taught what each patch shows; and a DINOv2 model of its size.

It stands in for CLIP's pretraining on millions of captioned pictures. The labels supervise the layer LLaVA reads, so
that a patch's feature says what stands at that patch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import AutoModel, CLIPVisionConfig, Dinov2Config, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ModelOutput
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from relevancy.demo.pool import LABELS, Pool
from relevancy.train.features import look_once

FEATURE_LAYER = -2
SIZE, PATCH = 80, 8  # pixels of the picture the tower sees, and of a patch
SIDE = SIZE // PATCH


def tower_config() -> CLIPVisionConfig:
    """The shared tower: ten by ten patches."""
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=128,
    )


def dinov2_config() -> Dinov2Config:
    """A tower of the other kind, as wide and as deep on the same patches."""
    clip = tower_config()
    return Dinov2Config(
        hidden_size=clip.hidden_size,
        mlp_ratio=clip.intermediate_size // clip.hidden_size,
        num_hidden_layers=clip.num_hidden_layers,
        num_attention_heads=clip.num_attention_heads,
        image_size=SIZE,
        patch_size=PATCH,
    )


def normalized(pixels: np.ndarray) -> Tensor:
    """(pictures, height, width, 3) uint8 -> (pictures, 3, height, width) float32, as CLIP's image processor does."""
    mean = torch.tensor(OPENAI_CLIP_MEAN).view(3, 1, 1)
    std = torch.tensor(OPENAI_CLIP_STD).view(3, 1, 1)
    return (torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255 - mean) / std


def features_of(tower: PreTrainedModel, pixels: np.ndarray, progress: Callable[[float], None] | None = None) -> Tensor:
    """What a tower sees in (pictures, height, width, 3) uint8: (pictures, tokens, width), class token included."""
    return look_once(
        tower, lambda start, stop: normalized(pixels[start:stop]), len(pixels), FEATURE_LAYER, progress=progress
    )


class PatchTeacher(nn.Module):
    """A tower with one linear head per label, on top of the layer that LLaVA reads; a patch also says where it is."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.tower = AutoModel.from_config(config)
        classes = LABELS | {"row": SIDE, "column": SIDE}
        self.heads = nn.ModuleDict({name: nn.Linear(config.hidden_size, count) for name, count in classes.items()})

    def forward(self, pixel_values: Tensor, **labels: Tensor) -> ModelOutput:
        """Pictures (batch, 3, size, size), each label (batch, patches) int64 -> summed loss and hits per label."""
        hidden = self.tower(pixel_values, output_hidden_states=True).hidden_states[FEATURE_LAYER][:, 1:]
        place = torch.arange(SIDE**2, device=hidden.device).expand(len(hidden), -1)
        labels |= {"row": place // SIDE, "column": place % SIDE}
        losses, hits = [], {}
        for name, head in self.heads.items():
            scores = head(hidden).flatten(0, 1).float()
            losses.append(cross_entropy(scores, labels[name].flatten()))
            hits[name] = (scores.argmax(-1) == labels[name].flatten()).float().mean().detach()
        return ModelOutput(loss=torch.stack(losses).sum(), hits=hits)


class PatchData(Dataset):
    """Pictures of a pool with the labels of their patches, and after them the same in a mirror."""

    def __init__(self, pool: Pool):
        self.pool = pool

    def __len__(self) -> int:
        return 2 * len(self.pool)

    def __getitem__(self, position: int) -> dict[str, Any]:
        in_mirror, index = divmod(position, len(self.pool))
        step = -1 if in_mirror else 1
        labels = {name: values[index].reshape(-1, SIDE) for name, values in self.pool.labels.items()}
        turned = {name: values[:, ::step].reshape(-1) for name, values in labels.items()}
        return {"pixels": self.pool.pixels[index][:, ::step]} | turned


def collate_patches(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Stack examples of PatchData into what PatchTeacher takes."""
    batch = {name: torch.from_numpy(np.stack([one[name] for one in examples])).long() for name in LABELS}
    return batch | {"pixel_values": normalized(np.stack([one["pixels"] for one in examples]))}

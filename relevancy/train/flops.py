"""How many floating-point operations a training step takes, by formula, and what share of a device's peak that is.

Per token, a matrix of n weights takes 2n operations forward, 2n for the gradient of its input and, where it trains, 2n
for its own. Attention over t tokens of width w takes 4tw per token and layer forward (2tw where it is causal), and
twice that backward. So, for each sequence and picture:

  tower      2 n_tower per patch and 4 t w per layer, forward alone while it is frozen
  connector  (2 + 2) n per image token, or 2 n while it is frozen
  decoder    (2 + 2) n per token, + 2 n while it trains; its head at supervised positions only if the loss is in chunks;
             where adapters train in its place, 6 n of theirs

What gradient checkpointing computes anew does not count: MFU is the share of the peak that went into what must be done.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig

from relevancy.train.stages import ADAPTER, PARTS, Stage, part_of

# Dense bfloat16, operations per second, from the vendors' data sheets; a device's name contains the key.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "GAUDI3": 1835e12,
    "GAUDI2": 432e12,
    "V100": 125e12,
}


@dataclass(frozen=True)
class Load:
    """What a step works on, summed over its sequences."""

    sequences: int = 0
    tokens: int = 0  # padding included: the device computes it
    squares: int = 0  # sum over sequences of their length, squared
    supervised: int = 0
    pictures: int = 0

    def __add__(self, other: Load) -> Load:
        return Load(
            self.sequences + other.sequences,
            self.tokens + other.tokens,
            self.squares + other.squares,
            self.supervised + other.supervised,
            self.pictures + other.pictures,
        )


@dataclass(frozen=True)
class Sizes:
    """What of a model decides its operations."""

    matrices: dict[str, int]  # weights of each part that multiply; embeddings are looked up
    head: int  # of the decoder's matrices, those of the output
    layers: int
    width: int  # of all heads of the decoder together
    tower_layers: int
    tower_width: int
    tower_tokens: int  # class token included
    image_tokens: int
    adapters: int = 0  # weights of the matrices that train in place of the decoder's


def sizes_of(model: nn.Module, config: PreTrainedConfig, tower_tokens: int, image_tokens: int) -> Sizes:
    """The sizes of a LLaVA; its weights may be on the meta device."""
    text, vision = config.get_text_config(), config.vision_config
    matrices, adapters = dict.fromkeys(PARTS, 0), 0
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")  # an adapted matrix shows its inner one's too
        if weight is None or weight.ndim < 2 or isinstance(module, nn.Embedding):
            continue
        if ADAPTER in name:
            adapters += weight.numel()
        else:
            matrices[part_of(f"{name}.")] += weight.numel()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Sizes(
        matrices=matrices,
        head=text.vocab_size * text.hidden_size,
        layers=text.num_hidden_layers,
        width=text.num_attention_heads * head,
        tower_layers=vision.num_hidden_layers,
        tower_width=vision.hidden_size,
        tower_tokens=tower_tokens,
        image_tokens=image_tokens,
        adapters=adapters,
    )


def operations(load: Load, sizes: Sizes, stage: Stage) -> float:
    """Floating-point operations of one optimizer step on this load."""
    return _tower(load, sizes, stage) + _connector(load, sizes, stage) + _decoder(load, sizes, stage)


def _tower(load: Load, sizes: Sizes, stage: Stage) -> float:
    tokens = sizes.tower_tokens
    forward = 2 * sizes.matrices["tower"] * tokens + 4 * sizes.tower_layers * sizes.tower_width * tokens**2
    return load.pictures * forward * (3 if "tower" in stage.trains else 1)


def _connector(load: Load, sizes: Sizes, stage: Stage) -> float:
    each = 2 * (1 + ("tower" in stage.trains) + ("connector" in stage.trains))
    return each * sizes.matrices["connector"] * load.pictures * sizes.image_tokens


def _decoder(load: Load, sizes: Sizes, stage: Stage) -> float:
    each = 2 * (2 + ("decoder" in stage.trains and not sizes.adapters))
    judged = load.supervised if stage.loss_chunk else load.tokens
    weights = (
        each * ((sizes.matrices["decoder"] - sizes.head) * load.tokens + sizes.head * judged)
        + 6 * sizes.adapters * load.tokens
    )
    return weights + 3 * 2 * sizes.layers * sizes.width * load.squares


def peak_of(device: torch.device) -> float | None:
    """Operations per second that the device's maker promises in bfloat16; None for a device that is not known here."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAKS.items() if key in name), None)

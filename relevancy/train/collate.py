"""Examples -> one right-padded batch. Pictures are stacked only for the examples that have one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from relevancy.train.template import IGNORED


@dataclass(frozen=True)
class Collate:
    """Call it with examples `{"input_ids", "labels"[, "pixel_values"]}`; gives what the model's forward takes."""

    pad_token_id: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad ids, labels and mask to the longest example: each (batch, tokens) int64."""
        ids = [torch.as_tensor(example["input_ids"]) for example in examples]
        labels = [torch.as_tensor(example["labels"]) for example in examples]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
        }
        pictures = [example["pixel_values"] for example in examples if example.get("pixel_values") is not None]
        return batch | {"pixel_values": torch.stack(pictures)} if pictures else batch

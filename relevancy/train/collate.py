"""Examples -> one batch, padded on the right or packed into one row. Pictures: those there are, in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from relevancy.train.packing import packed
from relevancy.train.template import IGNORED


@dataclass(frozen=True)
class Collate:
    """Call it with examples `{"input_ids", "labels"[, "pixel_values"]}`; gives what the model's forward takes.

    packed: all examples in one row, see `packing`.
    """

    pad_token_id: int
    packed: bool = False

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Ids, labels and mask padded to the longest example, each (batch, tokens) int64, or `packing.packed`.

        An example's pixel values (pictures, ...) are put behind those of the examples before it; without any picture
        the batch has none.
        """
        ids = [torch.as_tensor(example["input_ids"]) for example in examples]
        labels = [torch.as_tensor(example["labels"]) for example in examples]
        batch = packed(ids, labels) if self.packed else self._padded(ids, labels)
        pictures = [example["pixel_values"] for example in examples if example.get("pixel_values") is not None]
        return batch | {"pixel_values": torch.cat(pictures)} if pictures else batch

    def _padded(self, ids: Sequence[Tensor], labels: Sequence[Tensor]) -> dict[str, Tensor]:
        return {
            "input_ids": pad_sequence(list(ids), batch_first=True, padding_value=self.pad_token_id),
            "labels": pad_sequence(list(labels), batch_first=True, padding_value=IGNORED),
            "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
        }

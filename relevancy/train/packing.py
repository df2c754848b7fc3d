"""Several examples in one row without padding, each with positions from 0, so that none sees another.

transformers reads restarting positions as the borders of sequences, but only without an attention mask and without a
cache of keys and values, which models make by default: with one, every example would see those before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from relevancy.train.template import IGNORED


def packed(ids: Sequence[Tensor], labels: Sequence[Tensor]) -> dict[str, Any]:
    """`input_ids`, `labels` and `position_ids`, each (1, tokens of all examples), and `use_cache`, which is False.

    An example's first token has no label: what stands before it belongs to another.
    """
    headless = [torch.cat([torch.full_like(one[:1], IGNORED), one[1:]]) for one in labels]
    return {
        "input_ids": torch.cat(list(ids))[None],
        "labels": torch.cat(headless)[None],
        "position_ids": torch.cat([torch.arange(len(one)) for one in ids])[None],
        "use_cache": False,
    }

"""Attention knockout: what a model would say if, from the question on, nothing could see some of the image tokens.

The picture's tokens come before the question's, and attention is causal: what they hold does not depend on what comes
later. So with their keys and values at hand only the tokens after the picture run again, many variants as one batch.
Geva et al., EMNLP 2023.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from relevancy.core import attention, patching
from relevancy.models.generation import Prefill
from relevancy.models.model import Model
from relevancy.models.prepared import Prepared

_TOGETHER = 64  # variants in one forward pass


@dataclass(frozen=True, eq=False)
class Variant:
    """One example of a batch, read once more.

    row: which example. length: how many of its own tokens are read, padding left out; the next one is asked for.
    hidden: (image tokens,) bool, what cannot be seen from the first token after the picture on; of several pictures,
    after the first of them of which something is hidden. count: how many positions are asked, `length` the last.
    """

    row: int
    length: int
    hidden: Tensor
    count: int = 1


def logits_of(model: Model, prefill: Prefill, variants: Sequence[Variant]) -> list[Tensor]:
    """Logits of each variant's positions, (count, vocabulary) float32, from the prefill's own keys and values.

    For prefills of which `generation.shares_prefix` is true, read as far as the variants' lengths; they stay as is.
    Variants that differ in their length alone are one run: no token of the longest sees what comes after a shorter one.
    """
    beginnings = {row: _Beginning.of(model, prefill, row) for row in {variant.row for variant in variants}}
    runs: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for number, variant in enumerate(variants):
        runs[variant.row, variant.hidden.numpy(force=True).tobytes()].append(number)
    groups: dict[tuple[int, int, int], list[list[int]]] = defaultdict(list)
    for numbers in runs.values():
        lengths = [variants[number].length for number in numbers]
        keep = max(lengths) - min(variants[number].length - variants[number].count for number in numbers)
        groups[beginnings[variants[numbers[0]].row].tokens, max(lengths), keep].append(numbers)
    found: dict[int, Tensor] = {}
    with _knockable(model):
        for (_, length, keep), alike in groups.items():
            for start in range(0, len(alike), _TOGETHER):
                part = alike[start : start + _TOGETHER]
                longest = [replace(variants[numbers[0]], length=length) for numbers in part]
                for numbers, logits in zip(part, _run(model, prefill, longest, beginnings, keep), strict=True):
                    for number in numbers:
                        end = keep + variants[number].length - length
                        found[number] = logits[end - variants[number].count : end]
    return [found[number] for number in range(len(variants))]


def logits_in_full(model: Model, prepared: Prepared, variants: Sequence[Variant]) -> list[Tensor]:
    """The same by whole forward passes over the batch's inputs, where what comes before the question is not shared."""
    found = []
    with _knockable(model):
        for variant in variants:
            own = prepared.only(variant.row, variant.length)
            places = own.image_places(0)
            keys = torch.zeros(own.ids.shape, dtype=torch.bool, device=model.device)
            keys[0, places] = variant.hidden.to(model.device)
            with _knocked_out(keys, _after(own, variant.hidden)):
                output = model.model(**own.inputs, logits_to_keep=variant.count, use_cache=False)
                found.append(output.logits[0].float())
    return found


def _after(prepared: Prepared, hidden: Tensor) -> int:
    """The first place after the first picture that something is hidden of, of a single example."""
    (layouts,) = prepared.layouts or ((),)
    places = prepared.image_places(0)
    ends = torch.tensor([layout.count for layout in layouts] or [len(places)]).cumsum(0)
    first = int((ends <= int(hidden.nonzero()[0])).sum()) if hidden.any() else 0
    return int(places[ends[first] - 1]) + 1


@dataclass(frozen=True, eq=False)
class _Beginning:
    """One example's tokens up to its last image token, and those after it."""

    tokens: int
    places: Tensor  # (image tokens,)
    padding: int
    rest: Tensor

    @classmethod
    def of(cls, model: Model, prefill: Prefill, row: int) -> _Beginning:
        kept = prefill.mask[row].bool()
        ids = prefill.ids[row][kept]
        places = (ids == model.image_token_id).nonzero()[:, 0]
        tokens = int(places[-1]) + 1
        return cls(tokens, places, len(kept) - len(ids), ids[tokens:])


def _run(
    model: Model, prefill: Prefill, variants: Sequence[Variant], beginnings: Mapping[int, _Beginning], keep: int
) -> Tensor:
    """Logits of the last positions, (variants, keep, vocabulary): variants of one length, and so their beginnings."""
    device = prefill.ids.device
    own = [beginnings[variant.row] for variant in variants]
    tokens, length = own[0].tokens, variants[0].length
    ids = torch.stack([each.rest[: length - tokens] for each in own])
    keys = torch.zeros(len(variants), tokens, dtype=torch.bool, device=device)
    for line, each, variant in zip(keys, own, variants, strict=True):
        line[each.places] = variant.hidden.to(device)
    parts = [(variant.row, each.padding, tokens) for variant, each in zip(variants, own, strict=True)]
    cache: Any = DynamicCache()
    cache.layers = [_KnownLayer.of(layer, parts) for layer in prefill.cache.layers]
    mask = torch.ones(len(variants), length, dtype=prefill.mask.dtype, device=device)
    known: dict[str, Tensor] = {}
    if prefill.positions is not None:  # after the picture they go on one by one
        last = torch.cat([prefill.positions[..., variant.row : variant.row + 1, :] for variant in variants], -2)
        end = torch.tensor([each.tokens + len(each.rest) - 1 for each in own], device=device)[:, None]
        known["position_ids"] = last + torch.arange(tokens, length, device=device) - end
    with _knocked_out(keys, tokens):
        output = model.model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=keep, **known
        )
    return output.logits.float()


class _KnownLayer(DynamicLayer):
    """Keys and values that are there; what comes later is seen beside them, and not kept."""

    @classmethod
    def of(cls, layer: Any, parts: Sequence[tuple[int, int, int]]) -> _KnownLayer:
        """Of a layer's rows: (row, tokens of padding before it, tokens after that) for each line of a batch."""
        known = cls()
        if layer.is_initialized:
            known.lazy_initialization(layer.keys, layer.values)
            known.keys, known.values = _lines(layer.keys.detach(), parts), _lines(layer.values.detach(), parts)
        return known

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Both together, (batch, heads, tokens, dim)."""
        assert self.keys is not None
        assert self.values is not None
        return torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)


def _lines(whole: Tensor, parts: Sequence[tuple[int, int, int]]) -> Tensor:
    """Parts of rows as one batch; of one part alone nothing is copied."""
    lines = {part: whole[part[0], :, part[1] : part[1] + part[2]] for part in parts}
    one = lines[parts[0]]
    return one.expand(len(parts), *one.shape) if len(lines) == 1 else torch.stack([lines[part] for part in parts])


@contextmanager
def _knockable(model: Model) -> Iterator[None]:
    attention.register()
    decoder = model.model.get_decoder()
    with (
        torch.no_grad(),
        patching.eval_mode(model.model),
        patching.attention_implementation(attention.NAME, decoder),
        patching.unread_rows_skipped(model.model, decoder),
    ):
        yield


@contextmanager
def _knocked_out(keys: Tensor, first: int) -> Iterator[None]:
    token = attention.knockout.set(attention.Knockout(keys, first))
    try:
        yield
    finally:
        attention.knockout.reset(token)

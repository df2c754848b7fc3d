"""Attention knockout: what a model would say if, from the question on, nothing could see some of the image tokens.

The picture's tokens come before the question's, and attention is causal: what they hold does not depend on what comes
later. So with their keys and values at hand only the tokens after the picture run again, many variants as one batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from relevancy.core import attention, patching
from relevancy.models.generation import Prompt as Prefill
from relevancy.models.model import Model

_TOGETHER = 64  # variants in one forward pass


@dataclass(frozen=True, eq=False)
class Variant:
    """One example of a batch as it is read once more.

    row: which example. said: ids of its answer's tokens before the one that is read. hidden: (image tokens,) bool, what
    cannot be seen from the first token after the picture on.
    """

    row: int
    said: tuple[int, ...]
    hidden: Tensor


def shares_prefix(model: Model, prefill: Prefill, longest: int) -> bool:
    """Whether keys and values of a prompt's beginning are those that its later tokens need, up to so many tokens.

    Not where the picture's tokens read the question's (a prompt without a causal mask), where an attention window is
    shorter than the sequence, or where a layer keeps a state that is no list of keys.
    """
    return model.model.config.model_type != "paligemma" and all(
        type(layer) is DynamicLayer
        or (type(layer) is DynamicSlidingWindowLayer and longest < layer.sliding_window)
        or not layer.is_initialized
        for layer in prefill.cache.layers
    )


def logits_of(model: Model, prefill: Prefill, variants: Sequence[Variant]) -> Tensor:
    """Logits of each variant's next token, (variants, vocabulary) float32, from the prefill's own keys and values.

    For prefills of which `shares_prefix` is true. The prefill stays as it is.
    """
    found: dict[int, Tensor] = {}
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    beginnings = {variant.row: _Beginning.of(model, prefill, variant.row) for variant in variants}
    for number, variant in enumerate(variants):
        beginning = beginnings[variant.row]
        groups[beginning.tokens, len(beginning.rest) + len(variant.said)].append(number)
    with _knockable(model):
        for (tokens, _), numbers in groups.items():
            for start in range(0, len(numbers), _TOGETHER):
                part = numbers[start : start + _TOGETHER]
                logits = _run(model, prefill, [variants[number] for number in part], beginnings, tokens)
                found |= dict(zip(part, logits, strict=True))
    return torch.stack([found[number] for number in range(len(variants))])


def logits_in_full(model: Model, picture: Image.Image, question: str, variants: Sequence[Variant]) -> Tensor:
    """The same by whole forward passes, for models that cannot share what comes before the question.

    The variants are all of one picture and question; their `row` is not read.
    """
    found = []
    with _knockable(model):
        for variant in variants:
            inputs: dict[str, Any] = dict(model.prepare([picture], [question], [variant.said]))
            places = (inputs["input_ids"][0] == model.image_token_id).nonzero()[:, 0]
            keys = torch.zeros(inputs["input_ids"].shape, dtype=torch.bool, device=model.device)
            keys[0, places] = variant.hidden.to(model.device)
            with _knocked_out(keys, int(places[-1]) + 1):
                found.append(model.model(**inputs, logits_to_keep=1, use_cache=False).logits[0, -1].float())
    return torch.stack(found)


@dataclass(frozen=True, eq=False)
class _Beginning:
    """One example's tokens up to its last image token, and the rest of its prompt."""

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
    model: Model, prefill: Prefill, variants: Sequence[Variant], beginnings: dict[int, _Beginning], tokens: int
) -> Tensor:
    """Variants whose beginnings and rests are of one length each, as one batch."""
    device = prefill.ids.device
    own = [beginnings[variant.row] for variant in variants]
    ids = torch.stack(
        [
            torch.cat([each.rest, each.rest.new_tensor(variant.said)])
            for each, variant in zip(own, variants, strict=True)
        ]
    )
    keys = torch.zeros(len(variants), tokens, dtype=torch.bool, device=device)
    for line, each, variant in zip(keys, own, variants, strict=True):
        line[each.places] = variant.hidden.to(device)
    cache = DynamicCache()
    for layer in prefill.cache.layers:
        cache.layers.append(
            _Known.of(layer, [(v.row, each.padding, tokens) for v, each in zip(variants, own, strict=True)])
        )
    mask = torch.ones(len(variants), tokens + ids.shape[1], dtype=prefill.mask.dtype, device=device)
    with _knocked_out(keys, tokens):
        output = model.model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
    return output.logits[:, -1].float()


class _Known(DynamicLayer):
    """Keys and values that are there; what comes later is seen beside them, and not kept."""

    @classmethod
    def of(cls, layer: Any, parts: Sequence[tuple[int, int, int]]) -> _Known:
        """Of a layer's rows: (row, tokens of padding before it, tokens after that) for each line of a batch."""
        known = cls()
        if layer.is_initialized:
            known.lazy_initialization(layer.keys, layer.values)
            known.keys, known.values = (
                _lines([whole[row, :, start : start + count] for row, start, count in parts])
                for whole in (layer.keys.detach(), layer.values.detach())
            )
        return known

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Both together, (batch, heads, tokens, dim)."""
        return torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)


def _lines(parts: Sequence[Tensor]) -> Tensor:
    """The parts as one batch; of one part alone nothing is copied."""
    same = all(part.data_ptr() == parts[0].data_ptr() for part in parts)
    return parts[0].expand(len(parts), *parts[0].shape) if same else torch.stack(list(parts))


@contextmanager
def _knockable(model: Model) -> Iterator[None]:
    attention.register()
    decoder = model.model.get_decoder()
    with (
        torch.no_grad(),
        patching.evaluating(model.model),
        patching.attention_named(attention.NAME, decoder),
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

"""Attention knockout: what a model would say if, from the question on, nothing could see some of the image tokens.

The picture's tokens come before the question's, and attention is causal: what they hold does not depend on what comes
later. So with their keys and values at hand only the tokens after the picture run again, many variants as one batch.
Geva et al., EMNLP 2023.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from relevancy.core import attention, patching
from relevancy.models.generation import Prefill
from relevancy.models.model import Model
from relevancy.models.prepared import Prepared

_TOGETHER = 64  # runs in one forward pass
_SPREAD = 8  # tokens by which they may differ in length: more would be read for nothing
_LOGITS = 64 << 20  # numbers that they may give


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
    Variants that differ in their length alone are one run, and runs of about one length are one forward pass: no token
    sees what comes after it.
    """
    beginnings = {row: _Beginning.of(model, prefill, row) for row in {variant.row for variant in variants}}
    alike: dict[tuple[int, bytes], dict[int, Variant]] = defaultdict(dict)
    for number, variant in enumerate(variants):
        alike[variant.row, variant.hidden.numpy(force=True).tobytes()][number] = variant
    runs = [_Run(beginnings[row], np.frombuffer(hidden, bool), asked) for (row, hidden), asked in alike.items()]
    found: dict[int, Tensor] = {}
    with _knockable(model):
        for part in _packed(runs, prefill.logits.shape[-1]):
            for run, logits in zip(part, _read(model, prefill, part), strict=True):
                for number, variant in run.asked.items():
                    end = len(logits) + variant.length - part[0].longest
                    found[number] = logits[end - variant.count : end]
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
                found.append(output.logits[0, -variant.count :].float())  # some models give all of them
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

    row: int
    tokens: int
    places: np.ndarray  # (image tokens,)
    padding: int
    rest: Tensor

    @classmethod
    def of(cls, model: Model, prefill: Prefill, row: int) -> _Beginning:
        kept = prefill.mask[row].bool()
        ids = prefill.ids[row][kept]
        places = np.flatnonzero((ids == model.image_token_id).numpy(force=True))
        tokens = int(places[-1]) + 1
        return cls(row, tokens, places, len(kept) - len(ids), ids[tokens:])

    def on_from(self, length: int) -> Tensor:
        """The tokens after it up to a length; where there are no more, the last one again, which none before sees."""
        places = torch.arange(length - self.tokens, device=self.rest.device)
        return self.rest[places.clamp(max=len(self.rest) - 1)]


@dataclass(frozen=True, eq=False)
class _Run:
    """Variants that differ only in which positions are asked for, by their numbers. hidden: (image tokens,) bool."""

    beginning: _Beginning
    hidden: np.ndarray
    asked: Mapping[int, Variant]

    @property
    def longest(self) -> int:
        return max(variant.length for variant in self.asked.values())

    @property
    def before(self) -> int:
        """How many tokens stand before the first position that is asked for."""
        return min(variant.length - variant.count for variant in self.asked.values())


def _packed(runs: Iterable[_Run], vocabulary: int) -> Iterator[list[_Run]]:
    """Runs to be read together, the longest first: their beginnings have one length, and they have about one."""
    part: list[_Run] = []
    for run in sorted(runs, key=lambda run: (run.beginning.tokens, -run.longest)):
        if part:
            first = part[0]
            keep = _kept([*part, run])
            if not (
                run.beginning.tokens == first.beginning.tokens
                and first.longest - run.longest <= _SPREAD
                and keep <= max(_kept([first]), _SPREAD + 1)
                and (len(part) + 1) * keep * vocabulary <= _LOGITS
                and len(part) < _TOGETHER
            ):
                yield part
                part = []
        part.append(run)
    yield part


def _kept(part: Sequence[_Run]) -> int:
    """Of how many last positions logits are asked for, the longest run first."""
    return part[0].longest - min(run.before for run in part)


def _read(model: Model, prefill: Prefill, part: Sequence[_Run]) -> Tensor:
    """Logits of the last positions, (runs, kept, vocabulary)."""
    device = prefill.ids.device
    own = [run.beginning for run in part]
    tokens, length = own[0].tokens, part[0].longest
    ids = torch.stack([each.on_from(length) for each in own])
    keys = np.zeros((len(part), tokens), bool)
    for line, run in zip(keys, part, strict=True):
        line[run.beginning.places] = run.hidden
    cache: Any = DynamicCache()
    lines = [(each.row, slice(each.padding, each.padding + tokens)) for each in own]
    cache.layers = [_KnownLayer.of(layer, lines) for layer in prefill.cache.layers]
    mask = torch.ones(len(part), length, dtype=prefill.mask.dtype, device=device)
    known: dict[str, Tensor] = {}
    if prefill.positions is not None:  # after the picture they go on one by one
        last = torch.cat([prefill.positions[..., each.row : each.row + 1, :] for each in own], -2)
        end = torch.tensor([each.tokens + len(each.rest) - 1 for each in own], device=device)[:, None]
        known["position_ids"] = last + torch.arange(tokens, length, device=device) - end
    with _knocked_out(torch.from_numpy(keys).to(device), tokens):
        output = model.model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=_kept(part),
            **known,
        )
    return output.logits.float()


class _KnownLayer(DynamicLayer):
    """Keys and values that are there; what comes later is seen beside them, and not kept.

    whole: keys and values of all rows, (rows, heads, tokens, dim). lines: the row, and its tokens, of each line.
    """

    whole: tuple[Tensor, Tensor]
    lines: Sequence[tuple[int, slice]]

    @classmethod
    def of(cls, layer: Any, lines: Sequence[tuple[int, slice]]) -> _KnownLayer:
        known = cls()
        if layer.is_initialized:
            known.lazy_initialization(layer.keys, layer.values)
            known.whole, known.lines = (layer.keys.detach(), layer.values.detach()), lines
            known.keys, known.values = (one[:1, :, lines[0][1]] for one in known.whole)  # for their length
        return known

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Both together, (batch, heads, tokens, dim); one copy, and of this layer alone."""
        keys, values = self.whole
        return self._before(keys, key_states), self._before(values, value_states)

    def _before(self, whole: Tensor, new: Tensor) -> Tensor:
        batch, heads, count, dim = new.shape
        known = self.lines[0][1].stop - self.lines[0][1].start
        both = new.new_empty(batch, heads, known + count, dim)
        start = 0
        for (row, tokens), alike in groupby(self.lines, key=lambda line: line):
            stop = start + len(list(alike))
            both[start:stop, :, :known] = whole[row, :, tokens]
            start = stop
        both[:, :, known:] = new
        return both


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

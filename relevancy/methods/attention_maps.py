"""Methods that read attention as it passes: raw attention, and attention rollout.

No gradient is asked for. Probabilities are computed anew from each call's queries and keys, in float32 whatever the
model's type, tile by tile; between layers only what the method makes of them is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from relevancy.core import attention, patching
from relevancy.core.stacks import Stack
from relevancy.core.tape import chosen_layers
from relevancy.methods.base import Attribution, Attributor, MethodSettings, TargetBatch
from relevancy.models.model import Model
from relevancy.models.prepared import Prepared

# What is known before a layer, its query, key and call -> the state after it.
Step = Callable[["_Watched", Tensor, Tensor, attention.Call], Tensor]


@contextmanager
def mean(model: Model, setting: MethodSettings) -> Iterator[Attributor]:
    """Raw attention: mean_l mean_h A_lh[t], over the chosen layers.

    Costs one forward pass for all targets. It does not depend on which token is explained, only on the position.
    """
    with _watching(model, setting, _summed) as reader:
        yield reader


@contextmanager
def last(model: Model, setting: MethodSettings) -> Iterator[Attributor]:
    """Raw attention of the last chosen layer alone: mean_h A_Lh[t]. Costs one forward pass for all targets."""
    layers = chosen_layers(setting.layers, model.model.get_decoder())
    only = MethodSettings(setting.scope, (max(layers),), setting.rows, setting.cols)
    with _watching(model, only, _summed) as reader:
        yield reader


@contextmanager
def rollout(model: Model, setting: MethodSettings) -> Iterator[Attributor]:
    """Attention rollout: R <- (mean_h A_h + I)/2 R from R = I over the chosen layers, row t of R.

    Abnar and Zuidema, ACL 2020. Costs one forward pass for all targets, and one (batch, tokens, tokens) matrix. Rows
    sum to 1, the part of it that never left the position included.
    """
    with _watching(model, setting, _rolled) as reader:
        yield reader


@contextmanager
def _watching(model: Model, setting: MethodSettings, step: Step) -> Iterator[Attributor]:
    decoder = Stack.decoder(model.model)
    layers = chosen_layers(setting.layers, decoder.model)
    attention.register()
    with (
        patching.eval_mode(model.model),
        patching.attention_implementation(attention.NAME, decoder.model),
        decoder.guarded(),
    ):
        yield _Watched(model, decoder, layers, step)


class _Watched:
    """What a method makes of the attention of one forward pass: the rows of its last positions."""

    def __init__(self, model: Model, decoder: Stack, layers: frozenset[int], step: Step) -> None:
        self.model, self.decoder, self.layers, self.step = model, decoder, layers, step
        self.keep = 1
        self.state: Tensor | None = None  # (batch, positions, tokens), the sequences' last positions

    def forward(self, prepared: Prepared, keep: int, *, use_cache: bool) -> Any:
        self.keep, self.state = keep, None
        self.decoder.begin()
        token = attention.watcher.set(self.see)
        try:
            with torch.no_grad():
                return self.model.model(**prepared.inputs, logits_to_keep=keep, use_cache=use_cache)
        finally:
            attention.watcher.reset(token)

    def see(self, query: Tensor, key: Tensor, call: attention.Call) -> None:
        if self.decoder.owns(call.module) and self.decoder.hear(call.module) in self.layers:
            self.state = self.step(self, query, key, call)

    def read(self, round_: TargetBatch) -> Attribution:
        self.decoder.require_every_layer()
        assert self.state is not None
        return Attribution(round_.averaged(self.state))


def _summed(watched: _Watched, query: Tensor, key: Tensor, call: attention.Call) -> Tensor:
    """The mean over heads of the last positions' rows, added up over the layers and divided by their number."""
    batch, _, tokens, _ = query.shape
    first = tokens - watched.keep
    state = watched.state
    if state is None:
        state = torch.zeros(batch, watched.keep, tokens, device=query.device)
    for tile, probabilities in attention.maps(query, key, call, first):
        rows = slice(tile.rows.start - first, tile.rows.stop - first)
        state[:, rows, tile.keys] += (probabilities.mean(1) / len(watched.layers)).to(state)
    return state


def _rolled(watched: _Watched, query: Tensor, key: Tensor, call: attention.Call) -> Tensor:
    """(mean_h A_h + I)/2 times the state; every row is needed, since the next layer reads them all."""
    batch, _, tokens, _ = query.shape
    before = watched.state
    if before is None:
        before = torch.eye(tokens, device=query.device).expand(batch, tokens, tokens)
    state = torch.empty(batch, tokens, tokens, device=query.device)
    before = before.to(query.device)
    for tile, probabilities in attention.maps(query, key, call):
        mixed = probabilities.mean(1).to(before) @ before[:, tile.keys]
        state[:, tile.rows] = (mixed + before[:, tile.rows]) / 2
    return state

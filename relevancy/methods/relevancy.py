"""Methods that read attention times its gradient from a tape: relevancy, and attention x gradient."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from relevancy.core.recomputation import ShortOfMemoryError
from relevancy.core.tape import Tape, chosen_layers, record
from relevancy.methods.base import Attribution, Attributor, MethodSettings, TargetBatch
from relevancy.models.generation import branched
from relevancy.models.model import Model
from relevancy.models.prefixes import KnownPrefix, PrefixCache
from relevancy.models.prepared import Prepared


@contextmanager
def relevancy(model: Model, setting: MethodSettings) -> Iterator[Attributor]:
    """Relevancy: row t of R, without the position's own unit e_t.

    Abar = mean_h max(0, A_h * dy/dA_h), R <- R + Abar R. Chefer, Gur and Wolf, ICCV 2021, eqs. 5 and 6.
    Costs one forward pass, and for each target one backward pass of the activations alone.
    """
    with record(model.model, setting.scope, layers=setting.layers, heads=setting.heads) as tape:
        yield _Recorded(model, tape, 1, setting, "clamp")


@contextmanager
def magnitude(model: Model, setting: MethodSettings) -> Iterator[Attributor]:
    """Relevancy with sizes in place of eq. 5's clamp: row t of R, without the position's own unit e_t.

    Abar = mean_h |A_h * dy/dA_h| with rows summing to 1, R <- R + Abar R. Costs what relevancy costs.
    """
    with record(model.model, setting.scope, layers=setting.layers, rule="magnitude", heads=setting.heads) as tape:
        yield _Recorded(model, tape, 1, setting, "magnitude")


@contextmanager
def attention_x_gradient(model: Model, setting: MethodSettings) -> Iterator[Attributor]:
    """Attention x gradient: mean_l mean_h max(0, A_lh * dy/dA_lh), the explained position's row.

    Barkan et al., CIKM 2021 (Grad-SAM), who average all rows of an encoder; here one position is explained, and its row
    is read. Costs one forward pass, and for each target one backward pass.
    """
    layers = len(chosen_layers(setting.layers, model.model.get_decoder()))
    with record(model.model, setting.scope, layers=setting.layers, carried=False, heads=setting.heads) as tape:
        yield _Recorded(model, tape, layers, setting)


class _Recorded:
    """Rows of a tape, each divided by `parts`; a picture that is known from before is not read again."""

    def __init__(self, model: Model, tape: Tape, parts: int, setting: MethodSettings, kind: Hashable = None) -> None:
        self.model, self.first, self.parts, self.prefixes = model, tape, parts, setting.prefixes
        self.kind = kind, setting.scope, setting.layers, setting.heads
        self.tape = tape
        self.logits: Tensor | None = None

    def forward(self, prepared: Prepared, keep: int, *, use_cache: bool) -> Any:
        self.logits = None  # the graph of an earlier pass goes before the next one grows
        output = None if self.prefixes is None else self.resumed(self.prefixes, prepared, keep)
        if output is None:
            self.tape = self.first
            output = self.model.model(**prepared.inputs, logits_to_keep=keep, use_cache=use_cache)
        self.logits = output.logits
        return output

    def resumed(self, prefixes: PrefixCache, prepared: Prepared, keep: int) -> Any:
        """The same output for one example, of which only what comes after the picture runs if the picture is known.

        None where what comes before does not fit in memory with its graph.
        """
        tokens = int(prepared.image_places(0)[-1]) + 1
        beginning = prepared.only(0, tokens)
        known = prefixes.found(self.kind, beginning)
        if known is None:
            prefixes.make_room()
            try:
                known = self.begun(beginning, tokens)
            except ShortOfMemoryError:
                prefixes.clear()
                return None
            prefixes.keep(known)
        self.tape = known.tape
        try:
            with self.tape.recording(), self.tape.rest():
                return self.model.model(
                    **prepared.rest(tokens), past_key_values=branched(known.cache), use_cache=True, logits_to_keep=keep
                )
        except ShortOfMemoryError:
            prefixes.clear()
            return None

    def begun(self, beginning: Prepared, tokens: int) -> KnownPrefix:
        """What comes before a question, read now."""
        assert self.first.kept is not None
        tape = self.first.another()
        with self.first.kept.counted(self.model.model) as kept, tape.recording(), tape.beginning(tokens):
            read = self.model.model(**beginning.inputs, logits_to_keep=1, use_cache=True)
        return KnownPrefix(self.kind, beginning, tape, read.past_key_values, kept())

    def read(self, round_: TargetBatch) -> Attribution:
        assert self.logits is not None
        positions = torch.tensor(round_.emitting, device=self.logits.device)
        scalars = round_.scalars(self.logits)
        rows = self.tape.relevance(scalars, positions, retain_graph=not round_.last)
        units = torch.zeros_like(rows.language).scatter_(1, positions % rows.language.shape[1], 1)
        language = rows.language - units  # e_t, the positions' own
        notes = [self.notes()] * len(language)
        heads = None if rows.heads is None else {layer: own / self.parts for layer, own in rows.heads.items()}
        return Attribution(language / self.parts, rows.image, notes, rows.cut, heads)

    def notes(self) -> tuple[str, ...]:
        """How it was computed, where that is not as ever."""
        how = self.first.recomputation
        if how is None or not how.needed:
            return ()
        needed, free = (f"{size / 2**30:.1f} GiB" for size in (how.expected, how.free))
        why = f"since keeping their activations takes about {needed} and {free} is free"
        return (f"layers ran again for the gradients, {why}: the same map, in more time",)

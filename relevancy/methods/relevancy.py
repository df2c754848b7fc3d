"""Methods that read attention times its gradient from a tape: relevancy, and attention x gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from relevancy.core.tape import Tape, chosen_layers, record
from relevancy.methods.base import Attribution, Attributor, MethodSettings, TargetBatch
from relevancy.models.model import Model
from relevancy.models.prepared import Prepared


@contextmanager
def relevancy(model: Model, setting: MethodSettings) -> Iterator[Attributor]:
    """Relevancy: row t of R, without the position's own unit e_t.

    Abar = mean_h max(0, A_h * dy/dA_h), R <- R + Abar R. Chefer, Gur and Wolf, ICCV 2021, eqs. 5 and 6.
    Costs one forward pass, and for each target one backward pass of the activations alone.
    """
    with record(model.model, setting.scope, layers=setting.layers) as tape:
        yield _Recorded(model, tape, 1)


@contextmanager
def magnitude(model: Model, setting: MethodSettings) -> Iterator[Attributor]:
    """Relevancy with sizes in place of eq. 5's clamp: row t of R, without the position's own unit e_t.

    Abar = mean_h |A_h * dy/dA_h| with rows summing to 1, R <- R + Abar R. Costs what relevancy costs.
    """
    with record(model.model, setting.scope, layers=setting.layers, rule="magnitude") as tape:
        yield _Recorded(model, tape, 1)


@contextmanager
def attention_x_gradient(model: Model, setting: MethodSettings) -> Iterator[Attributor]:
    """Attention x gradient: mean_l mean_h max(0, A_lh * dy/dA_lh), the explained position's row.

    Barkan et al., CIKM 2021 (Grad-SAM), who average all rows of an encoder; here one position is explained, and its row
    is read. Costs one forward pass, and for each target one backward pass.
    """
    layers = len(chosen_layers(setting.layers, model.model.get_decoder()))
    with record(model.model, setting.scope, layers=setting.layers, carried=False) as tape:
        yield _Recorded(model, tape, layers)


class _Recorded:
    """Rows of a tape, each divided by `parts`."""

    def __init__(self, model: Model, tape: Tape, parts: int) -> None:
        self.model, self.tape, self.parts = model, tape, parts
        self.logits: Tensor | None = None

    def forward(self, prepared: Prepared, keep: int, *, use_cache: bool) -> Any:
        output = self.model.model(**prepared.inputs, logits_to_keep=keep, use_cache=use_cache)
        self.logits = output.logits
        return output

    def read(self, round_: TargetBatch) -> Attribution:
        assert self.logits is not None
        positions = torch.tensor(round_.places, device=self.logits.device)
        scalars = round_.scalars(self.logits)
        rows = self.tape.relevance(scalars, positions, retain_graph=not round_.last)
        language = rows.language.clone()
        language[torch.arange(len(language)), list(round_.places)] -= 1  # e_t, the position's own unit
        return Attribution(language / self.parts, rows.vision, cut=rows.cut)

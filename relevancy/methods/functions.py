"""Methods from outside: a function that gives the maps of a batch."""

from __future__ import annotations

__all__ = ["MapRequest"]

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature

from relevancy.core import patching
from relevancy.errors import RelevancyError
from relevancy.methods.base import Attribution, Attributor, MethodSettings, TargetBatch, on_image_tokens
from relevancy.methods.registry import Method
from relevancy.models.model import Model
from relevancy.models.prepared import Prepared


@dataclass(frozen=True, eq=False)
class MapRequest:
    """What a method from outside is asked: the maps of a batch, of one target in each answer.

    model: its parameters are frozen, and it is in eval mode; gradients are on. inputs: what `model.model` takes for the
    batch, padded on the left, each answer as far as its target needs it; a copy, whose entries may be replaced.
    targets: which ids, and where. rows, cols: of the patches on each picture.
    """

    model: Model
    inputs: BatchFeature
    targets: TargetBatch
    rows: int
    cols: int

    def scalars(self, logits: Tensor) -> Tensor:
        """The numbers to explain, (batch,), from the logits (batch, tokens, vocabulary) of `inputs`."""
        return self.targets.scalars(logits)


@contextmanager
def calling(model: Model, setting: MethodSettings, method: Method) -> Iterator[Attributor]:
    """The function of a method, asked for each round of targets; the answer costs one forward pass more."""
    with patching.frozen_parameters(model.model), patching.eval_mode(model.model):
        yield _FunctionCall(model, setting, method)


class _FunctionCall:
    def __init__(self, model: Model, setting: MethodSettings, method: Method) -> None:
        self.model, self.setting, self.method = model, setting, method
        self.prepared: Prepared | None = None

    def forward(self, prepared: Prepared, keep: int, *, use_cache: bool) -> Any:
        self.prepared = prepared
        with torch.no_grad():
            return self.model.model(**prepared.inputs, logits_to_keep=keep, use_cache=use_cache)

    def read(self, round_: TargetBatch) -> Attribution:
        assert self.method.function is not None
        assert self.prepared is not None
        ids, rows, cols = self.prepared.ids, self.setting.rows, self.setting.cols
        request = MapRequest(self.model, BatchFeature(dict(self.prepared.inputs)), round_, rows, cols)
        with torch.enable_grad():
            found = self.method.function(request)
        expected = tuple(ids.shape) if self.method.words else (len(ids), rows, cols)
        try:
            values = torch.as_tensor(found).detach().float().to(ids.device)
        except (TypeError, ValueError, RuntimeError) as error:
            told = type(found).__name__
            raise RelevancyError(f"Method {self.method.name} must return numbers, not {told}.") from error
        if tuple(values.shape) != expected:
            raise RelevancyError(
                f"Method {self.method.name} returned the shape {tuple(values.shape)} where {expected} was due: "
                f"(batch, {'tokens' if self.method.words else 'rows, cols'})."
            )
        if self.method.words:
            return Attribution(values)
        return Attribution(on_image_tokens(ids, self.model.image_token_id, values.flatten(1)))

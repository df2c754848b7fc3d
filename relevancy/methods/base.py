"""What every method is given and gives back: one forward pass over a batch, then rows for a round of its targets."""

from __future__ import annotations

__all__ = ["TargetBatch"]

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from relevancy.core.tape import Scope
from relevancy.core.targets import Choice
from relevancy.errors import RelevancyError
from relevancy.methods.registry import Method
from relevancy.models.model import Model
from relevancy.models.prefixes import PrefixCache
from relevancy.models.prepared import Prepared


@dataclass(frozen=True)
class MethodSettings:
    """How a method is asked: scope and layers as in `explain`; rows x cols patches lie over each picture.

    heads: whether what each head adds is wanted, too.
    prefixes: of pictures that were read before; given where examples come one by one, those about one picture after one
    another, and what comes before the question may be read once for all of them.
    """

    scope: Scope
    layers: tuple[int, ...] | None
    rows: int
    cols: int
    prefixes: PrefixCache | None = None
    heads: bool = False

    @property
    def patches(self) -> int:
        """How many there are on a picture."""
        return self.rows * self.cols

    def blocks(self, pixels: Tensor) -> Tensor:
        """Pixels (n, height, width) by patch, (n, rows, side, cols, side), without what is beyond the last patch."""
        side = pixels.shape[1] // self.rows
        own = pixels[:, : self.rows * side, : self.cols * side]
        return own.unflatten(2, (self.cols, side)).unflatten(1, (self.rows, side))


@dataclass(frozen=True)
class TargetBatch:
    """One target for each example of a batch.

    places: where in the sequences the targets' logits are, counted from the end: -1 is the last position; of a span,
    its last. wanted: which examples' rows will be read; the others may stay zero. last: whether this is the last round
    over the same forward pass.
    """

    choices: Sequence[Choice]
    places: Sequence[int]
    wanted: Sequence[bool]
    last: bool = True

    @property
    def emitting(self) -> list[list[int]]:
        """All places of each target; shorter spans repeat their last one."""
        longest = max(choice.length for choice in self.choices)
        return [
            [min(place - choice.length + 1 + number, place) for number in range(longest)]
            for choice, place in zip(self.choices, self.places, strict=True)
        ]

    def here(self, logits: Tensor) -> list[Tensor]:
        """Each target's own logits, (vocabulary,), of a span (length, vocabulary), of (batch, kept, vocabulary)."""
        ends = [logits.shape[1] + place + 1 for place in self.places]
        return [
            own[end - choice.length : end] if choice.span else own[end - 1]
            for own, choice, end in zip(logits, self.choices, ends, strict=True)
        ]

    def averaged(self, rows: Tensor) -> Tensor:
        """What (batch, kept, n) holds at each target's place, (batch, n); of a span, the mean over its places."""
        ends = [rows.shape[1] + place + 1 for place in self.places]
        return torch.stack(
            [own[end - choice.length : end].mean(0) for own, choice, end in zip(rows, self.choices, ends, strict=True)]
        )

    def scalars(self, logits: Tensor) -> Tensor:
        """The numbers that are explained, (batch,)."""
        return torch.stack(
            [choice.scalar(scores) for choice, scores in zip(self.choices, self.here(logits), strict=True)]
        )


@dataclass(frozen=True)
class Attribution:
    """What a method found for one round of targets.

    rows: (batch, tokens) float, over the padded sequences; what comes after a target's position is not read.
    image: (batch, tokens), what the map shows on the image tokens; None where it shows the rows' own. notes: of each
    example, what to be careful about. cut: (batch,), see `Explanation.cut`. heads: by layer, what each head adds to
    `rows`, (batch, heads, tokens), where that was wanted.
    """

    rows: Tensor
    image: Tensor | None = None
    notes: Sequence[tuple[str, ...]] | None = None
    cut: Tensor | None = None
    heads: Mapping[int, Tensor] | None = None


class Attributor(Protocol):
    """A method at work on a borrowed model."""

    def forward(self, prepared: Prepared, keep: int, *, use_cache: bool) -> Any:
        """The model's output for a batch, with the logits of the last `keep` positions."""

    def read(self, round_: TargetBatch) -> Attribution:
        """The rows of one target of each example of the latest forward pass."""


def opened(method: Method, model: Model, setting: MethodSettings) -> AbstractContextManager[Attributor]:
    """The method, ready to run; the model is given back as it was once the block is left. Raises RelevancyError."""
    module, name = method.home.split(":")
    open_on: Callable[..., AbstractContextManager[Attributor]] = getattr(import_module(module), name)
    return open_on(model, setting) if method.function is None else open_on(model, setting, method)


def on_image_tokens(ids: Tensor, image_token_id: int, values: Tensor) -> Tensor:
    """Rows (batch, tokens) with each example's values (batch, patches) on its last image tokens, zero elsewhere."""
    rows = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)
    for row, own, found in zip(rows, ids, values, strict=True):
        places = (own == image_token_id).nonzero().squeeze(1)
        if len(found) > len(places):
            raise RelevancyError(
                f"{len(found)} patches of the tower make {len(places)} image tokens here: this method needs one token "
                "for each patch. Use method relevancy."
            )
        row[places[len(places) - len(found) :]] = found.to(row)
    return rows

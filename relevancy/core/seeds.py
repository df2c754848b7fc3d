"""Where image tokens come from: the tower's tokens that reach each of them, measured by gradients.

Between the tower's last attention and the decoder nothing attends: tokens are selected, merged, reordered, padded,
interpolated, each family in a way of its own. Which tower token is part of which image token is what gradients say;
no family needs a rule.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from relevancy.core.reach import Reach, owners
from relevancy.errors import RelevancyError

_KEPT = 64  # seeds of a model, one for each form of its inputs
_GROUPS = 512  # passes at most: more image tokens that share tower tokens are asked about in groups
_GROUPED = 1 / 8  # of the image tokens are in a group
_FEW = 7  # image tokens that may share a tower token, for groups to tell them apart


@dataclass(frozen=True)
class Seed:
    """Pairs of a tower token and an image token that it is part of.

    shape: (images, tower tokens) of the row that goes through the tower. tower, image: (pairs,), indices among all
    tower tokens and all image tokens of the forward pass. count: of image tokens.
    """

    shape: tuple[int, int]
    tower: Tensor
    image: Tensor
    count: int

    def placed(self, values: Tensor) -> Tensor:
        """Numbers of image tokens (count,) on the tower's tokens, `shape`: each gives all of its own the whole number.

        So it is for a token that was merged of several patches: what reads the token reads each of them.
        """
        flat = values.new_zeros(self.shape[0] * self.shape[1])
        flat.index_add_(0, self.tower.to(values.device), values[self.image.to(values.device)])
        return flat.view(self.shape)

    def gathered(self, row: Tensor) -> Tensor:
        """Numbers of the tower's tokens, `shape`, summed by image token, (count,); what two of them share is halved."""
        tower, image = self.tower.to(row.device), self.image.to(row.device)
        times = torch.bincount(tower, minlength=row.numel())
        parts = row.flatten()[tower] / times[tower]
        return row.new_zeros(self.count).index_add_(0, image, parts)


class Seeds:
    """What was measured before, of each living model, by the form of its inputs."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[nn.Module, dict[str, Seed]] = weakref.WeakKeyDictionary()

    def of(self, model: nn.Module, layers: Sequence[Tensor], embeddings: Tensor, inputs: Mapping[str, Any]) -> Seed:
        """The seed of a forward pass that has come to its decoder.

        layers: what attention made in each layer of the tower, (images, tokens, width) or (tokens, width).
        embeddings: the image tokens as the decoder reads them, (count, width). inputs: the model's. Raises
        RelevancyError.
        """
        known = self._known.setdefault(model, {})
        key = form_of(inputs, len(embeddings), [tuple(layer.shape) for layer in layers])
        if key not in known:
            if len(known) >= _KEPT:
                known.pop(next(iter(known)))
            known[key] = measured(layers, embeddings, type(model).__name__)
        return known[key]


def measured(layers: Sequence[Tensor], embeddings: Tensor, name: str) -> Seed:
    """The seed of one forward pass, by 2 log2(image tokens) gradients from its embeddings to the tower's last layer.

    With as many bits as numbers have, image tokens are told apart by number; tower tokens that are part of several are
    found group by group. Arguments as for `Seeds.of`. Raises RelevancyError where each image token reads all of a
    picture.
    """
    layer = _last_used(layers, embeddings, name)
    probe = _Probe(layer, embeddings)
    (owner,), several = owners(len(embeddings), lambda chosen: [probe.reached(chosen)])
    if several:
        tower, image = _shared(probe)
        _refuse_resampling(probe, owner >= 0, tower, image, name)
    else:
        tower = (owner >= 0).nonzero()[:, 0]
        image = owner[tower]
    return Seed(probe.shape, tower, image, len(embeddings))


class _Probe:
    """Asks which tower tokens reach some image tokens."""

    def __init__(self, layer: Tensor, embeddings: Tensor) -> None:
        self.layer, self.embeddings = layer, embeddings
        self._reach = Reach(embeddings, [layer])

    @property
    def shape(self) -> tuple[int, int]:
        """Images, tokens of each."""
        *images, tokens, _ = self.layer.shape
        return (images[0] if images else 1), tokens

    def reached(self, chosen: Tensor) -> Tensor:
        """Which tower tokens, bool (images * tokens,), are part of any of the chosen image tokens, bool (count,)."""
        (found,) = self._reach.gradients(chosen)
        return (found.abs().amax(-1) > 0).flatten().cpu()  # what is not a number is no path


def _last_used(layers: Sequence[Tensor], embeddings: Tensor, name: str) -> Tensor:
    """The last layer of the tower that the decoder hears of; those after it are called in vain."""
    if embeddings.requires_grad and len(embeddings):
        every = torch.ones(len(embeddings), dtype=torch.bool)
        for layer in reversed(layers):
            if _Probe(layer, embeddings).reached(every).any():
                return layer
    raise RelevancyError(f'No gradient goes from {name}\'s image tokens into its vision tower. Use scope="language".')


def _shared(probe: _Probe) -> tuple[Tensor, Tensor]:
    """Pairs where tower tokens are part of several image tokens: one by one, or by group testing where those are many.

    A pair is none where a group that does not reach the tower token has the image token in it. Groups are drawn, an
    eighth of the tokens each; a wrong pair survives one with probability 1 - 1/8 (7/8)^d, d the tower token's owners,
    and all of them with 1e-11 at most for up to `_FEW` owners. Where there are more, image tokens are asked one by one.
    """
    count = len(probe.embeddings)
    alone = torch.eye(count, dtype=torch.bool)
    if count <= _GROUPS:
        return _decoded(probe, alone)
    drawn = torch.rand(_GROUPS, count, generator=torch.Generator().manual_seed(1)) < _GROUPED
    tower, image = _decoded(probe, drawn)
    return (tower, image) if torch.bincount(tower).max() <= _FEW else _decoded(probe, alone)


def _decoded(probe: _Probe, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs from which tower tokens each group (groups, image tokens) of image tokens is made of."""
    silent = torch.stack([~probe.reached(group) for group in groups])
    excluded = silent.float().T @ groups.float()  # (tower tokens, image tokens)
    tower, image = ((excluded == 0) & ~silent.all(0)[:, None]).nonzero(as_tuple=True)
    return tower, image


def _refuse_resampling(probe: _Probe, reached: Tensor, tower: Tensor, image: Tensor, name: str) -> None:
    """Raise RelevancyError where every image token is made of all that is read of a picture."""
    images, tokens = probe.shape
    made = torch.zeros(len(probe.embeddings), images, dtype=torch.long)
    made.index_put_((image, tower // tokens), torch.ones_like(image), accumulate=True)
    whole = (made == 0) | (made == reached.view(images, tokens).sum(1))
    if len(probe.embeddings) > 1 and whole.all():
        raise RelevancyError(
            f'scope="full" is not exact for {name}: each of its image tokens is made of the whole picture, so its '
            'relevance has no place of its own in the tower. Use scope="language".'
        )


def form_of(inputs: Mapping[str, Any], *more: Any) -> str:
    """What decides where image tokens come from: shapes of what is seen, and whole numbers that say how it was cut.

    The words do not, nor do the colors. more: what else counts.
    """
    words = inputs["input_ids"].shape
    parts: list[Any] = [*more]
    for name, value in sorted(inputs.items()):
        if isinstance(value, Tensor) and value.is_floating_point():
            parts.append((name, tuple(value.shape)))
        elif isinstance(value, Tensor) and value.shape[-2:] != words:
            parts.append((name, tuple(value.shape), value.cpu().numpy().tobytes()))
        elif isinstance(value, (list, int, str)):
            parts.append((name, value))
    return hashlib.sha256(repr(parts).encode()).hexdigest()

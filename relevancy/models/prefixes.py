"""What comes before the question, read once: of the last pictures, as many as a budget of memory holds."""

from __future__ import annotations

__all__ = ["PrefixCache", "share_of"]

import hashlib
import json
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from relevancy.models.prepared import Prepared, ProcessedPicture

LISTENING = "transformers.utils.output_capturing"
"""Where transformers defines the hooks by which a model collects its outputs, added at its first forward pass."""

_SAMPLES = 8  # of each weight
_SHARE = 4  # a quarter of the memory that is free


@dataclass(frozen=True, eq=False)
class KnownPrefix:
    """A picture and what stands before it, as a model has read them.

    kind: how it was read. prepared: what was read, of one example. tape: what was recorded of it. cache: the decoder's
    keys and values, with their graph. bytes: that are kept for it.
    """

    kind: Hashable
    prepared: Prepared
    tape: Any
    cache: Any
    bytes: int


class PrefixCache:
    """The last prefixes and the features of their pictures, the oldest given up first.

    budget: bytes of all together; the newest is kept as long as a call needs it, whatever its size.
    """

    def __init__(self, budget: int = 0) -> None:
        self.budget = budget
        self._known: list[KnownPrefix] = []
        self._features: OrderedDict[str, ProcessedPicture] = OrderedDict()
        self._state: Any = None

    @property
    def bytes(self) -> int:
        """That are kept now."""
        return sum(one.bytes for one in self._known) + sum(map(_bytes_of, self._features.values()))

    def found(self, kind: Hashable, prepared: Prepared) -> KnownPrefix | None:
        """What was read of the very same before, in the same way."""
        for one in self._known:
            if one.kind == kind and one.prepared.equals(prepared):
                self._known.remove(one)
                self._known.append(one)
                return one
        return None

    def make_room(self) -> None:
        """Before another one is read: without a budget nothing stays beside it."""
        if not self.budget:
            self._known.clear()

    def keep(self, known: KnownPrefix) -> None:
        """The newest; older ones go until all fit the budget."""
        self._known.append(known)
        while len(self._known) > 1 and self.bytes > self.budget:
            del self._known[0]

    def settle(self) -> None:
        """After a call: what does not fit the budget goes, the newest too."""
        while self._known and self.bytes > self.budget:
            del self._known[0]
        while self._features and self.bytes > self.budget:
            self._features.popitem(last=False)

    def clear(self) -> None:
        """Nothing is known any more."""
        self._known.clear()
        self._features.clear()

    def seen(self, picture: Image.Image) -> tuple[str, ProcessedPicture | None]:
        """A picture's digest, and its features if they are known."""
        digest = hashlib.blake2b(f"{picture.mode} {picture.size} ".encode(), digest_size=16)
        digest.update(picture.tobytes())
        name = digest.hexdigest()
        if name in self._features:
            self._features.move_to_end(name)
        return name, self._features.get(name)

    def remember(self, digest: str, seen: ProcessedPicture) -> None:
        """The features of a picture."""
        if self.budget:
            self._features[digest] = seen

    def check(self, model: nn.Module) -> None:
        """Forget everything if the model is not what it was: weights, settings, or what hooks into it."""
        state = _state(model)
        if state != self._state:
            self.clear()
            self._state = state


def share_of(free: int) -> int:
    """The budget where so many bytes are free."""
    return free // _SHARE


def _bytes_of(picture: ProcessedPicture) -> int:
    held = (picture.pixels, picture.features)
    return sum(tensor.nbytes for tensor in held if tensor is not None)


def _state(model: nn.Module) -> Any:
    """What changes with weights (place, torch's count of changes, samples), settings, adapters, and hooks."""
    weights = [*model.parameters(), *model.buffers()]
    places = tuple((weight.data_ptr(), weight._version) for weight in weights)
    hooks = tuple(
        (id(module), id(hook))
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if hook.__module__ != LISTENING
    )
    adapters = tuple(
        (str(own["_active_adapter"]), own.get("_disable_adapters"), str(own.get("scaling")))
        for own in map(vars, model.modules())
        if "_active_adapter" in own
    )
    settings = json.dumps(model.config.to_dict(), sort_keys=True, default=str)  # type: ignore[union-attr, operator]
    return places, _samples(weights), hooks, adapters, settings


def _samples(weights: list[Tensor]) -> tuple[float, ...]:
    """A few numbers of each weight, for changes through `.data` that torch does not count; fetched all at once."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for weight in weights:
        if weight.numel() and not weight.is_meta:
            flat = weight.detach().reshape(-1)
            by_device.setdefault(weight.device, []).append(flat[:: max(1, len(flat) // _SAMPLES)].double().sum())
    return tuple(number for sums in by_device.values() for number in torch.stack(sums).tolist())

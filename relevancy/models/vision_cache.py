"""Vision towers run no more than they must: those that are the same once, and none beyond what is read of it."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from relevancy.models.model import Model

_KNOWN_CODE = ("torch", "transformers")
# Entries of a config that say where it came from, not what is computed.
_ORIGIN = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
_CACHE = "_tower_digest"
_PLAIN = (type(None), bool, int, float, str)


def identity(model: Model) -> str | None:
    """A digest of all that the tower's features depend on besides the picture: kind, settings, weights and device.

    None where that cannot be told: a tower with code of its own (quantized, adapted), or weights not in memory. The
    weights are read once per model; the digest stays with it until a weight is changed in place or replaced.
    """
    tower = model.model.get_encoder(modality="image")
    weights = tower.state_dict()
    if tower is model.model or not _readable(tower, weights):
        return None
    state = tuple(map(_state, weights.values()))
    cached: dict[str, Any] = vars(model)
    if cached.get(_CACHE, (None,))[0] != state:
        cached[_CACHE] = (state, digest_of(weights))
    config = {key: value for key, value in tower.config.to_dict().items() if key not in _ORIGIN}
    settings = json.dumps(config, sort_keys=True, default=str)
    return f"{type(tower).__qualname__} {tower.config._attn_implementation} {settings} {cached[_CACHE][1]}"


def _readable(tower: PreTrainedModel, weights: dict[str, Any]) -> bool:
    """Whether nothing but known code computes the features, and every weight is a tensor in memory."""
    known = all(type(module).__module__.partition(".")[0] in _KNOWN_CODE for module in tower.modules())
    return known and all(
        isinstance(weight, Tensor) and not weight.is_meta and not weight.is_inference() for weight in weights.values()
    )


def _state(weight: Tensor) -> tuple[int, int, float]:
    """What changes with a weight: its place, torch's count of changes, and for changes through `.data` a sample."""
    sample = float(weight.detach().reshape(-1)[weight.numel() // 2]) if weight.numel() else 0.0
    return weight.data_ptr(), weight._version, sample


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """A digest of all weights, bit by bit, and of where they lie."""
    digest = hashlib.blake2b(digest_size=32)
    for name, weight in weights.items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)} {weight.device} ".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class VisionCache:
    """What towers made of pictures, for the next model with the same tower and the same picture."""

    def __init__(self) -> None:
        self._known: list[tuple[str, dict[str, Any], Tensor, Any]] = []

    @contextmanager
    def shared(self, model: Model) -> Iterator[None]:
        """Inside, the model's tower runs only for what no tower like it has seen; its features are the same bits.

        No gradient flows through features that are shared: not for scope "full". For whoever holds the model's lock.
        """
        like = identity(model)
        if like is None:
            yield
            return
        tower = model.model.get_encoder(modality="image")
        run, own = tower.forward, vars(tower).get("forward")

        def forward(*args: Any, **kwargs: Any) -> Any:
            pixels = args[0] if len(args) == 1 else None
            if not isinstance(pixels, Tensor) or not all(map(_plain, kwargs.values())):
                return run(*args, **kwargs)
            for known, settings, seen, features in self._known:
                if (known, settings) == (like, kwargs) and _same(seen, pixels):
                    return copy.copy(features)
            features = run(pixels, **kwargs)
            if not features[0].requires_grad:
                self._known.append((like, kwargs, pixels, copy.copy(features)))
            return features

        tower.forward = forward
        try:
            yield
        finally:
            if own is None:
                del tower.forward
            else:
                tower.forward = own


def _plain(value: Any) -> bool:
    return all(map(_plain, value)) if isinstance(value, list | tuple) else isinstance(value, _PLAIN)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)


@contextmanager
def unused_tower_layers_skipped(model: Model) -> Iterator[None]:
    """LLaVA reads its tower before the last layer (`vision_feature_layer` -2): what comes after is not computed.

    The features stay the same bits. For whoever holds the model's lock, or uses it alone.
    """
    config = model.model.config
    chosen: Any = getattr(config, "vision_feature_layer", None)
    tower = model.model.get_encoder(modality="image")
    depth = getattr(tower.config, "num_hidden_layers", 0)
    stacks = [part for part in tower.modules() if isinstance(part, nn.ModuleList) and len(part) == depth]
    known = config.model_type == "llava" and isinstance(chosen, int) and -depth <= chosen < -1 and len(stacks) == 1
    unused = list(stacks[0])[chosen + 1 :] if known else []
    with ExitStack() as stack:
        for layer in unused:
            if "forward" not in vars(layer):
                layer.forward = _passed_on
                stack.callback(delattr, layer, "forward")
        yield


def _passed_on(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden

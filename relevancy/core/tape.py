"""`record(model)`: borrow a model, take the relevance row while gradients flow, give the model back unchanged."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import isqrt
from operator import index
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from relevancy.core import attention, patching
from relevancy.errors import RelevancyError

Scope = Literal["language", "full"]
SCOPES: tuple[Scope, ...] = ("language", "full")

# Families whose connector merges square blocks of patches into one image token, block rows first.
_MERGING_BLOCKS = frozenset({"gemma3", "idefics3", "smolvlm", "internvl"})


@dataclass(frozen=True)
class Rows:
    """Relevance rows of one target scalar per example, float32.

    language: (batch, tokens), the explained position's own unit e_t included.
    vision: (images, tower tokens) with scope "full", else None.
    """

    language: Tensor
    vision: Tensor | None


class Tape:
    """Records the attention calls of forward passes and turns target logits into relevance rows."""

    def __init__(
        self, decoder: PreTrainedModel, tower: PreTrainedModel | None, layers: frozenset[int], *, carried: bool = True
    ) -> None:
        self._decoder, self._layers = decoder, layers
        self._position: int | Tensor = -1
        self._language = _Row(self._one_hot) if carried else _StandingRow(self._one_hot)
        self._vision = _Row(self._on_tower) if tower is not None else None
        self._decoder_modules = {id(module) for module in decoder.modules()}
        self._heard: set[int] = set()
        self._roots: list[Tensor] = []
        self._images: _Images | None = None

    # What attention asks while the model runs.

    def row_for(self, module: nn.Module) -> attention.Row | None:
        """The row which this layer's attention advances, or None for a decoder layer that was not chosen."""
        if id(module) not in self._decoder_modules:
            return self._vision
        layer = module.layer_idx
        self._heard.add(int(layer))  # type: ignore[arg-type]
        return self._language if layer in self._layers else None

    def root(self, device: torch.device) -> Tensor:
        """A new leaf under the first attention of a forward pass: backward stops there, not at the embeddings."""
        self._roots.append(torch.zeros((), device=device, requires_grad=True))
        return self._roots[-1]

    def see(self, images: _Images | None) -> None:
        """Note where this forward pass has its image tokens; forget the graphs of earlier ones."""
        self._images = images
        self._roots.clear()
        self._heard.clear()

    # What the user asks afterwards.

    def relevance(self, target: Tensor, position: int | Tensor = -1, *, retain_graph: bool = False) -> Rows:
        """The relevance rows of target scalars of the latest forward pass.

        target: (batch,), one scalar per example, for instance the logit of its next token.
        position: the sequence position(s) whose logits emit the target, one for all or (batch,).
        retain_graph: keep the graph, for another target over the same forward pass.
        Source: Chefer, Gur and Wolf, ICCV 2021, eqs. 5 and 6, row t of R.
        """
        require_every_layer(self._decoder, self._heard)
        if self._vision is not None and self._images is None:
            raise RelevancyError('scope="full" needs a picture: pass input_ids and pixel_values by name.')
        self._position = position
        for row in (self._language, self._vision):
            if row is not None:
                row.reset()
        torch.autograd.grad(target.sum(), self._roots, retain_graph=retain_graph)
        if self._language.value is None:
            raise RelevancyError("The target does not depend on any chosen layer of this model's last forward pass.")
        vision = self._vision.value if self._vision is not None else None
        return Rows(self._language.value.float(), None if vision is None else vision.float())

    def _one_hot(self, like: Tensor) -> Tensor:
        batch, _, tokens, _ = like.shape
        row = torch.zeros(batch, tokens, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
        position = torch.as_tensor(self._position, device=like.device).expand(batch) % tokens
        return row.scatter_(1, position[:, None], 1)

    def _on_tower(self, like: Tensor) -> Tensor:
        assert self._images is not None
        assert self._language.value is not None
        return self._images.place(self._language.value, like)


@contextmanager
def record(
    model: PreTrainedModel, scope: Scope = "language", *, layers: Iterable[int] | None = None, carried: bool = True
) -> Iterator[Tape]:
    """Borrow a Hugging Face model: inside, forward passes run with gradients and can be asked for relevance.

    scope: "language" stops at the decoder's input; "full" goes on through connector and vision tower.
    layers: indices of the decoder layers that take part, all by default; negative ones count from the last.
    carried: the row goes on from layer to layer (eq. 6); otherwise it is e_t plus the sum over layers of e_t Abar.
    Weights are frozen, the model is in evaluation mode, and everything is as before once the block is left.
    Raises RelevancyError for a model whose attention cannot be followed exactly.
    """
    patching.require_gradients()
    decoder = model.get_decoder()
    tower = _tower(model) if scope == "full" else None
    tape = Tape(decoder, tower, chosen_layers(layers, decoder), carried=carried)

    def begin(_: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            tape.see(_Images.of(model, tower, kwargs) if tower is not None else None)

    attention.register()
    with ExitStack() as stack:
        stack.enter_context(patching.frozen(model))
        stack.enter_context(patching.evaluating(model))
        for part in (decoder, tower):
            if part is not None:
                stack.enter_context(patching.attention_named(attention.NAME, part))
        stack.enter_context(patching.activations_recomputed(decoder))
        stack.enter_context(patching.unread_rows_skipped(model, decoder))
        stack.enter_context(patching.output_rows_picked(model))
        stack.enter_context(patching.linears_fast_backward(decoder))
        stack.callback(model.register_forward_pre_hook(begin, with_kwargs=True).remove)
        stack.enter_context(torch.enable_grad())
        token = attention.recorder.set(tape)
        stack.callback(attention.recorder.reset, token)
        yield tape


class _Row:
    """A relevance row that starts from `seed` at the first layer which backward visits."""

    def __init__(self, seed: Callable[[Tensor], Tensor]) -> None:
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        self.value: Tensor | None = None
        self.fresh = True

    def read(self, like: Tensor) -> Tensor:
        self.value = self._seed(like) if self.value is None else self.value.to(like.device)
        return self.value

    def add(self, update: Tensor) -> None:
        assert self.value is not None
        self.value = self.value + update
        self.fresh = False


class _StandingRow(_Row):
    """A row of which every layer reads the seed, whatever layers above have added."""

    def read(self, like: Tensor) -> Tensor:
        super().read(like)
        return self._seed(like)


@dataclass(frozen=True)
class _Images:
    """Where the pictures of one forward pass stand, in the sequence and in the tower."""

    mask: Tensor  # (batch, tokens) bool: image tokens
    rows: int  # patches per picture, down and across
    cols: int
    family: str

    @classmethod
    def of(cls, model: PreTrainedModel, tower: PreTrainedModel, inputs: dict[str, Any]) -> _Images | None:
        ids, pixels = inputs.get("input_ids"), inputs.get("pixel_values")
        if ids is None or pixels is None:
            return None
        patch = _patch_size(tower)
        height, width = pixels.shape[-2:]
        return cls(ids == model.config.image_token_id, height // patch, width // patch, model.config.model_type)

    def place(self, row: Tensor, like: Tensor) -> Tensor:
        """The image tokens' relevance on the tower's patch tokens, (images, tower tokens); others start at zero.

        An image token that was merged of several patches gives each of them its own value.
        """
        images, _, tokens, _ = like.shape
        values = row.to(like.device)[self.mask.to(like.device)]
        patches, kept = self.rows * self.cols, values.numel() // images
        special, merged = tokens - patches, isqrt(patches // max(1, kept))
        whole = kept * images == values.numel() and special >= 0
        placed = row.new_zeros(images, tokens)
        if whole and patches <= kept <= tokens:
            placed[:, special:] = values.view(images, kept)[:, kept - patches :]
        elif whole and self.family in _MERGING_BLOCKS and kept * merged**2 == patches:
            blocks = values.view(images, self.rows // merged, self.cols // merged)
            placed[:, special:] = blocks.repeat_interleave(merged, 1).repeat_interleave(merged, 2).flatten(1)
        else:
            raise RelevancyError(
                f'scope="full" is not exact for {self.family}: how its {values.numel()} image tokens come from '
                f'{images} x {tokens} tower tokens is not known here. Use scope="language".'
            )
        return placed


def _tower(model: PreTrainedModel) -> PreTrainedModel:
    tower = model.get_encoder(modality="image")
    if tower is model or _patch_size(tower) is None:
        raise RelevancyError(f'{type(model).__name__} has no vision tower to follow. Use scope="language".')
    return tower


def _patch_size(tower: PreTrainedModel) -> Any:
    size = getattr(tower.config, "patch_size", None)
    return size[0] if isinstance(size, (list, tuple)) else size


def chosen_layers(layers: Iterable[int] | None, decoder: PreTrainedModel) -> frozenset[int]:
    """Indices of the decoder layers that take part, from 0. Raises RelevancyError for one that there is not."""
    count = _depth(decoder)
    if layers is None:
        return frozenset(range(count))
    asked = whole_numbers(layers)
    wrong = [layer for layer in asked if not -count <= layer < count]
    if wrong or not asked:
        raise RelevancyError(f"layers must name some of 0 to {count - 1} (or -{count} to -1), not {wrong}.")
    return frozenset(layer % count for layer in asked)


def whole_numbers(layers: Iterable[int]) -> tuple[int, ...]:
    """Layers as plain ints. Raises RelevancyError where they are not a list of whole numbers."""
    try:
        found = [layers] if isinstance(layers, str) else list(layers)
        if any(isinstance(layer, bool) for layer in found):
            raise TypeError
        return tuple(map(index, found))
    except TypeError as error:
        raise RelevancyError(f"layers must be a list of whole numbers such as [6, 7, -1], not {layers!r}.") from error


def require_every_layer(decoder: PreTrainedModel, heard: Collection[int]) -> None:
    """Raise RelevancyError unless the attention of every layer was heard in the last forward pass."""
    if not heard:
        raise RelevancyError("Nothing was recorded: run the model inside `with record(model) as tape` first.")
    if len(heard) < _depth(decoder):
        raise RelevancyError(
            f"Only {len(heard)} of {_depth(decoder)} layers of {type(decoder).__name__} went through "
            "transformers' attention interface; the map would not be the one the equations define."
        )


def _depth(decoder: PreTrainedModel) -> int:
    return decoder.config.get_text_config().num_hidden_layers

"""`record(model)`: borrow a model, take the relevance row while gradients flow, give the model back unchanged."""

from __future__ import annotations

__all__ = ["Rows", "Scope", "Tape", "record"]

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import index
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from relevancy.core import attention, patching
from relevancy.core.recomputation import Recomputation
from relevancy.core.seeds import Seed, Seeds
from relevancy.core.stacks import Stack, depth_of, is_attention
from relevancy.errors import RelevancyError

Scope = Literal["language", "full"]
SCOPES: tuple[Scope, ...] = ("language", "full")
Rule = Literal["clamp", "magnitude"]

_seeds = Seeds()
_NO_PATH = "The target does not depend on any chosen layer of this model's last forward pass."


@dataclass(frozen=True)
class Rows:
    """Relevance rows of one target scalar per example, float32.

    language: (batch, tokens), the explained position's own unit e_t included.
    vision: (images, tower tokens) with scope "full", else None. A tower that reads all pictures as one sequence has
        one row.
    image: (batch, tokens) with scope "full": `vision` gathered on the image tokens that its tower tokens are part of,
        zero elsewhere; else None.
    cut: (batch,), the share of the decoder row's flow that the clamp of eq. 5 removed, see `record`; None with rule
        "magnitude", which removes nothing.
    heads: by layer, what each of its heads adds to `language`, (batch, heads, tokens); with e_t they sum to it. None
        where it was not asked for.
    """

    language: Tensor
    vision: Tensor | None
    image: Tensor | None = None
    cut: Tensor | None = None
    heads: Mapping[int, Tensor] | None = None


class Tape:
    """Records the attention calls of forward passes and turns target logits into relevance rows."""

    def __init__(
        self,
        decoder: Stack,
        tower: Stack | None,
        layers: frozenset[int],
        *,
        carried: bool = True,
        rule: Rule = "clamp",
        heads: bool = False,
    ) -> None:
        self._decoder, self._tower, self._layers = decoder, tower, layers
        self._carried, self._rule = carried, rule
        self._position: int | Tensor = -1
        self._language = (_CarriedRow if carried else _StandingRow)(self._one_hot, rule, by_head=heads)
        self._heads: dict[int, Tensor] | None = {} if heads else None
        self._vision = _CarriedRow(self._on_tower, rule) if tower is not None else None
        self._roots: dict[torch.device, Tensor] = {}
        self._images: _Images | None = None
        self._split: _SplitRow | None = None
        self.kept: patching.KeptBytes | None = None
        self.recomputation: Recomputation | None = None
        self.rehearsing = self.repeating = False
        self._part: Literal["whole", "beginning", "rest"] = "whole"

    @property
    def in_parts(self) -> bool:
        """Whether a forward pass is a beginning, or goes on from one."""
        return self._part != "whole"

    @property
    def known(self) -> int:
        """How many tokens the beginning has that this forward pass goes on from."""
        return self._split.tokens if self._split is not None and self._part == "rest" else 0

    def another(self) -> Tape:
        """A tape of the same kind for the same model, which remembers a beginning of its own."""
        heads = self._heads is not None
        return Tape(self._decoder, self._tower, self._layers, carried=self._carried, rule=self._rule, heads=heads)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Inside, forward passes are recorded here: for a tape that is `another`, within `record` of the same model."""
        token = attention.recorder.set(self)
        try:
            yield
        finally:
            attention.recorder.reset(token)

    def records(self, model: PreTrainedModel) -> bool:
        """Whether it is this model's attention that is recorded."""
        return self._decoder.model is model.get_decoder()

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Inside, a layer runs without a graph that `repetition` makes later, once for each target."""
        self.rehearsing = True
        try:
            yield
        finally:
            self.rehearsing = False

    @contextmanager
    def repetition(self) -> Iterator[None]:
        """Inside, backward runs a layer once more, on whatever thread."""
        self.repeating = True
        try:
            with self.recording():
                yield
        finally:
            self.repeating = False

    @contextmanager
    def beginning(self, tokens: int) -> Iterator[None]:
        """Inside, a forward pass reads the first `tokens` of sequences that go on, each in a pass inside `rest`.

        Its graph is kept: relevance of what comes after goes down through it, so that it runs forward only once.
        """
        self._part, self._split = "beginning", _SplitRow(self._language, tokens)
        try:
            yield
        finally:
            self._part = "whole"

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Inside, a forward pass reads what comes after the beginning, whose keys and values are in its cache.

        `relevance` is then of the beginning and the rest together, as if both had been read at once.
        """
        self._part = "rest"
        try:
            yield
        finally:
            self._part = "whole"

    # What attention asks while the model runs.

    def row_for(self, module: nn.Module, query: Tensor) -> attention.RelevanceRow | None:
        """The row which this layer's attention advances, or None for one that takes no part."""
        if self._decoder.owns(module):
            layer = self._decoder.layer_of(module) if self.repeating else self._decoder.hear(module)
            if layer not in self._layers or self.rehearsing:
                return None
            row: attention.RelevanceRow = self._language
            if self._split is not None:
                row = (_RestLayer if self._part == "rest" else _BeginningLayer)(self._split, layer)
            return row if self._heads is None else _LayerByHead(row, layer, self._heads)
        if self._tower is None or not self._tower.owns(module):
            return None
        assert self._vision is not None
        _, part = self._tower.hear_part(module, query.shape[0] * query.shape[2])
        return self._vision if part is None else _PartOfTower(self._vision, part)

    def root(self, device: torch.device) -> Tensor:
        """The leaf under all attention that takes part: backward goes as far down as that, not to the embeddings."""
        if device not in self._roots:
            self._roots[device] = torch.zeros((), device=device, requires_grad=True)
        return self._roots[device]

    def begin(self) -> None:
        """A forward pass begins: forget the graphs of those that it does not go on from."""
        if self._part != "rest":
            self._images = None
            self._roots.clear()
        if self._part == "whole":
            self._split = None
        self._decoder.begin()
        if self._tower is not None and self._part != "rest":
            self._tower.begin()

    def see(self, images: Callable[[], _Images | None]) -> None:
        """The decoder is about to read: note where the pictures of this forward pass stand."""
        if self._tower is not None and self._part != "rest":
            self._images = images()

    # What the user asks afterwards.

    def relevance(self, target: Tensor, position: int | Tensor = -1, *, retain_graph: bool = False) -> Rows:
        """The relevance rows of target scalars of the latest forward pass, and of the beginning that it goes on from.

        target: (batch,), one scalar per example, for instance the logit of its next token.
        position: the sequence position(s) whose logits emit the target, one for all or (batch,); (batch, positions) for
            one that several emit together: the row is then the sum of theirs, a position named twice counting once.
        retain_graph: keep the graph, for another target over the same forward pass.
        Source: Chefer, Gur and Wolf, ICCV 2021, eqs. 5 and 6, row t of R.
        """
        self._decoder.require_every_layer()
        if self._vision is not None and self._images is None:
            raise RelevancyError('scope="full" needs a picture: pass input_ids and pixel_values by name.')
        if self._tower is not None:
            self._tower.require_every_layer()
        if not target.requires_grad:
            raise RelevancyError(_NO_PATH)
        self._position = position
        for row in (self._language, self._vision, self._split):
            if row is not None:
                row.reset()
        if self._heads is not None:
            self._heads.clear()
        kept = retain_graph or self._split is not None
        torch.autograd.grad(target.sum(), list(self._roots.values()), retain_graph=kept, allow_unused=True)
        if self._language.value is None:
            raise RelevancyError(_NO_PATH)
        whole = self._language.value
        if self._split is not None:
            whole = torch.cat([self._split.beginning(), whole], 1)
        language, cut = whole.float(), self._language.cut()
        heads = None
        if self._heads is not None:
            heads = {layer: self._heads.pop(layer).float() for layer in sorted(self._heads)}
        if self._vision is None:
            return Rows(language, None, cut=cut, heads=heads)
        if self._vision.value is None:
            raise RelevancyError("The target does not depend on the vision tower in this model's last forward pass.")
        assert self._images is not None
        vision = self._vision.value.float()
        image = self._images.gathered(vision)
        return Rows(language, vision, nn.functional.pad(image, (0, language.shape[1] - image.shape[1])), cut, heads)

    def _one_hot(self, like: Tensor) -> Tensor:
        batch, _, tokens, _ = like.shape
        row = torch.zeros(batch, tokens, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
        if isinstance(self._position, int):  # a number is not copied to the device, for which it would have to wait
            row[:, self._position % tokens] = 1
            return row
        position = self._position.to(like.device)
        position = position.expand(batch, -1) if position.ndim == 2 else position.expand(batch)[:, None]
        return row.scatter_(1, position % tokens, 1)

    def _on_tower(self, like: Tensor) -> Tensor:
        assert self._images is not None
        assert self._language.value is not None
        row = self._language.value if self._split is None else self._split.beginning()
        return self._images.placed(row.to(like.device))


@contextmanager
def record(
    model: PreTrainedModel,
    scope: Scope = "language",
    *,
    layers: Iterable[int] | None = None,
    carried: bool = True,
    rule: Rule = "clamp",
    heads: bool = False,
) -> Iterator[Tape]:
    """Borrow a Hugging Face model: inside, forward passes run with gradients and can be asked for relevance.

    scope: "language" stops at the decoder's input; "full" goes on through connector and vision tower.
    layers: indices of the decoder layers that take part, all by default; negative ones count from the last.
    carried: the row goes on from layer to layer (eq. 6); otherwise it is e_t plus the sum over layers of e_t Abar.
    rule: "clamp" is eq. 5; "magnitude" takes sizes in its place, Abar = mean_h |A_h * dy/dA_h| with rows summing to 1.
    heads: also keep what each head of each layer adds to the decoder's row, `Rows.heads`.
    Weights are frozen, the model is in evaluation mode, and everything is as before once the block is left. Where
    what all layers keep for backward would not fit in the memory that is free, they keep their inputs and run again.
    Raises RelevancyError for a model whose attention cannot be followed exactly.
    """
    patching.require_gradients(model)
    decoder = Stack.decoder(model)
    tower = _tower(model) if scope == "full" else None
    tape = Tape(decoder, tower, chosen_layers(layers, decoder.model), carried=carried, rule=rule, heads=heads)

    given: dict[str, Any] = {}  # what the model was asked, between its beginning and its decoder's

    def recording() -> Tape | None:
        now = attention.recorder.get()
        return now if torch.is_grad_enabled() and isinstance(now, Tape) and now.records(model) else None

    def begin(_: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        if now := recording():
            recomputation.begin(in_parts=now.in_parts)
            given.update(kwargs)
            now.begin()

    def decode(_: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        if now := recording():
            now.see(lambda: _Images.of(model, kwargs.get("inputs_embeds"), given, taken()))
            given.clear()

    attention.register()
    with ExitStack() as stack:
        stack.enter_context(patching.alone(model))
        stack.enter_context(patching.frozen_parameters(model))
        stack.enter_context(patching.eval_mode(model))
        for part in (decoder, tower):
            if part is not None:
                stack.enter_context(patching.attention_implementation(attention.NAME, part.model))
                stack.enter_context(part.guarded())
        tape.kept = stack.enter_context(patching.activations_recomputed(decoder.model))
        tape.recomputation = recomputation = Recomputation(decoder.model, tape.kept)
        stack.enter_context(recomputation.watching())
        stack.enter_context(patching.unread_rows_skipped(model, decoder.model))
        stack.enter_context(patching.output_rows_picked(model))
        stack.enter_context(patching.linears_fast_backward(decoder.model))
        stack.callback(given.clear)
        stack.callback(model.register_forward_pre_hook(begin, with_kwargs=True).remove)
        if tower is not None:
            taken = stack.enter_context(tower.listened())
            stack.enter_context(_alone_between(model, decoder, tower, recording))
            stack.callback(decoder.model.register_forward_pre_hook(decode, with_kwargs=True).remove)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(tape.recording())
        yield tape


class _CarriedRow:
    """A relevance row that starts from `seed` at the first layer which backward visits."""

    def __init__(self, seed: Callable[[Tensor], Tensor], rule: Rule, *, by_head: bool = False) -> None:
        self._seed, self._rule, self.by_head = seed, rule, by_head
        self.reset()

    def reset(self) -> None:
        self.value: Tensor | None = None
        self.fresh = True
        self._kept: Tensor | float = 0.0  # (batch,), over all layers: the row's flow that eq. 5 lets through
        self._removed: Tensor | float = 0.0

    def read(self, like: Tensor) -> Tensor:
        self.value = self._seed(like) if self.value is None else self.value.to(like.device)
        return self.value

    def advance(self, row: Tensor, flow: Tensor, total: Tensor) -> Tensor:
        if self._rule == "magnitude":
            return attention.magnitudes(row, flow, by_head=self.by_head)
        update = attention.clamped(row, flow, by_head=self.by_head)
        kept = update.flatten(1).sum(-1)
        self._kept = self._kept + kept
        self._removed = self._removed + kept - (row[:, None] * total).sum((1, 2)) / flow.shape[1]
        return update

    def add(self, update: Tensor) -> None:
        assert self.value is not None
        self.value = self.value + update
        self.fresh = False

    def cut(self) -> Tensor | None:
        """The share of the row's flow that the clamp removed, (batch,), 0 where nothing flowed; None without clamp."""
        if not isinstance(self._kept, Tensor) or not isinstance(self._removed, Tensor):
            return None
        whole = self._kept + self._removed
        return torch.where(whole > 0, self._removed / whole, 0).clamp(0, 1)


class _StandingRow(_CarriedRow):
    """A row of which every layer reads the seed, whatever layers above have added."""

    def read(self, like: Tensor) -> Tensor:
        super().read(like)
        return self._seed(like)


class _SplitRow:
    """The part of a row over a beginning that was recorded once, while `rest` is its part over what comes after.

    Nothing of the beginning reads what comes after, so the rest's row closes in itself, and gives to the beginning in
    layer l what it reads there, u_l = r_rest Abar[rest, beginning]. Backward may be further down in the rest than in
    the beginning: u_l waits until the beginning has passed layer l. Then both are one row, r <- r + r Abar.
    """

    def __init__(self, rest: _CarriedRow, tokens: int) -> None:
        self.rest, self.tokens = rest, tokens
        self.reset()

    def reset(self) -> None:
        self.value: Tensor | None = None
        self.given: dict[int, Tensor] = {}

    def beginning(self, above: int = -1) -> Tensor:
        """The beginning's row, (batch, its tokens), with what it was given by layers above this one."""
        assert self.rest.value is not None
        if self.value is None:
            self.value = self.rest.value.new_zeros(len(self.rest.value), self.tokens)
        for layer in [layer for layer in self.given if layer > above]:
            self.value = self.value + self.given.pop(layer).to(self.value)
        return self.value


@dataclass(frozen=True)
class _RestLayer:
    """A layer of what comes after a recorded beginning."""

    split: _SplitRow
    layer: int

    by_head = False

    @property
    def fresh(self) -> bool:
        return self.split.rest.fresh

    def read(self, like: Tensor) -> Tensor:
        return self.split.rest.read(like)

    def advance(self, row: Tensor, flow: Tensor, total: Tensor) -> Tensor:
        return self.split.rest.advance(row, flow, total)

    def add(self, update: Tensor) -> None:
        self.split.given[self.layer] = update[:, : self.split.tokens]
        self.split.rest.add(update[:, self.split.tokens :])


@dataclass(frozen=True)
class _BeginningLayer(_RestLayer):
    """A layer of the beginning itself."""

    @property
    def fresh(self) -> bool:
        return False

    def read(self, like: Tensor) -> Tensor:
        self.split.value = self.split.beginning(self.layer).to(like.device)
        return self.split.value

    def add(self, update: Tensor) -> None:
        assert self.split.value is not None
        self.split.value = self.split.value + update


@dataclass(frozen=True)
class _LayerByHead:
    """A layer of a row by head: what each head adds is kept, (batch, heads, tokens), and the row gets their sum."""

    row: attention.RelevanceRow
    layer: int
    kept: dict[int, Tensor]

    by_head = True

    @property
    def fresh(self) -> bool:
        return self.row.fresh

    def read(self, like: Tensor) -> Tensor:
        return self.row.read(like)

    def advance(self, row: Tensor, flow: Tensor, total: Tensor) -> Tensor:
        return self.row.advance(row, flow, total)

    def add(self, update: Tensor) -> None:
        own = update
        if self.layer in self.kept:  # of what comes after; this is the beginning's own
            after = self.kept[self.layer]
            own = after + nn.functional.pad(update, (0, after.shape[-1] - update.shape[-1]))
        self.kept[self.layer] = own
        self.row.add(update.sum(1))


@dataclass(frozen=True)
class _PartOfTower:
    """Some positions of a tower's row, which is one sequence: a window or a picture that attends within itself."""

    row: _CarriedRow
    part: slice

    by_head = False

    @property
    def fresh(self) -> bool:
        return self.row.fresh

    def read(self, like: Tensor) -> Tensor:
        return self.row.read(like)[:, self.part]

    def advance(self, row: Tensor, flow: Tensor, total: Tensor) -> Tensor:
        return self.row.advance(row, flow, total)

    def add(self, update: Tensor) -> None:
        assert self.row.value is not None
        whole = torch.zeros_like(self.row.value)
        whole[:, self.part] = update
        self.row.add(whole)


@dataclass(frozen=True)
class _Images:
    """Where the pictures of one forward pass stand, in the sequence and in the tower."""

    mask: Tensor  # (batch, tokens) bool: image tokens
    seed: Seed

    @classmethod
    def of(
        cls, model: PreTrainedModel, embeddings: Tensor | None, inputs: dict[str, Any], layers: list[Tensor]
    ) -> _Images | None:
        ids = inputs.get("input_ids")
        if ids is None or embeddings is None or not layers:
            return None
        mask = ids == _image_token_id(model)
        return cls(mask, _seeds.of(model, layers, embeddings[mask.to(embeddings.device)], inputs))

    def placed(self, row: Tensor) -> Tensor:
        """The image tokens' relevance on the tower tokens that they come from, (images, tower tokens).

        Class and register tokens are among them where the connector reads them; all others start at zero. An image
        token that was merged of several patches gives each of them its own value.
        """
        return self.seed.placed(row[self.mask.to(row.device)])

    def gathered(self, row: Tensor) -> Tensor:
        """The tower's relevance on the image tokens, (batch, tokens)."""
        gathered = torch.zeros(self.mask.shape, dtype=row.dtype, device=row.device)
        gathered[self.mask.to(row.device)] = self.seed.gathered(row)
        return gathered


def image_token_in(config: PreTrainedConfig) -> int | None:
    """The id that stands at every image token's place; None where the config names none."""
    named = (getattr(config, entry, None) for entry in ("image_token_id", "image_token_index"))
    return next((found for found in named if isinstance(found, int)), None)


def _image_token_id(model: PreTrainedModel) -> int:
    if (found := image_token_in(model.config)) is not None:
        return found
    raise RelevancyError(
        f"The config of {type(model).__name__} names no image token, so that its pictures have no place in the "
        'sequence. Use scope="language".'
    )


def _tower(model: PreTrainedModel) -> Stack:
    tower = model.get_encoder(modality="image")
    if tower is model or not isinstance(tower, PreTrainedModel):
        raise RelevancyError(f'{type(model).__name__} has no vision tower to follow. Use scope="language".')
    _image_token_id(model)
    return Stack.tower(tower)


@contextmanager
def _alone_between(
    model: PreTrainedModel, decoder: Stack, tower: Stack, recording: Callable[[], Tape | None]
) -> Iterator[None]:
    """Inside, attention that runs beside tower and decoder raises RelevancyError: the rows would leave it out."""

    def refuse(module: nn.Module, _: Any) -> None:
        if recording():
            raise RelevancyError(
                f'scope="full" is not exact for {model.config.model_type}: {type(module).__name__} attends outside '
                f'{type(tower.model).__name__}, and would be left out. Use scope="language".'
            )

    with ExitStack() as hooks:
        for module in model.modules():
            if is_attention(module) and not decoder.owns(module) and not tower.owns(module):
                hooks.callback(module.register_forward_pre_hook(refuse).remove)
        yield


def chosen_layers(layers: Iterable[int] | None, decoder: PreTrainedModel) -> frozenset[int]:
    """Indices of the decoder layers that take part, from 0. Raises RelevancyError for one that there is not."""
    count = depth_of(decoder)
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

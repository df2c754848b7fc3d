"""The one attention function: its forward is SDPA, its backward also advances the relevance row.

Chefer, Gur and Wolf (ICCV 2021) propagate relevance through a layer with head probabilities A_h and target y as

    eq. 5   Abar = mean_h max(0, A_h * dy/dA_h)
    eq. 6   R <- R + Abar R

Only row t of R is read, and that row obeys r <- r + r Abar from the last layer to the first: the order in which
backward visits the layers. Since dy/dA_h = G_h V_h^T with G = dy/d(A V), a tile of the flow, A_h * dy/dA_h, follows
from the same tile of probabilities that gives the gradients of query, key and value. Nothing of size tokens x tokens is
stored. What a row makes of the flow is its own affair: eq. 5 (`clamped`), or sizes in place of the clamp
(`magnitudes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from relevancy.errors import RelevancyError

NAME = "relevancy"

# What one float32 tile of probabilities may take: it should stay in a CPU's cache, and fill an accelerator.
_CPU_TILE_BYTES = 2 << 20
_ACCELERATOR_TILE_BYTES = 256 << 20

# Arguments that transformers passes along although attention does not depend on them (any more): they went into the
# mask or the positions, ask for an output, or speak of packed sequences to implementations other than SDPA.
_INERT = frozenset(
    {
        "cache_position",
        "cu_seq_lens_k",
        "cu_seq_lens_q",
        "image_sizes",
        "logits_to_keep",
        "max_length_k",
        "max_length_q",
        "mm_token_type_ids",
        "num_items_in_batch",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "sliding_window",
        "token_type_ids",
        "use_cache",
    }
)


class RelevanceRow(Protocol):
    """The relevance row of one stack of layers, as the backward pass of its attention sees it."""

    @property
    def fresh(self) -> bool:
        """Whether no layer has advanced the row yet."""

    @property
    def by_head(self) -> bool:
        """Whether it wants what each head adds, (batch, heads, keys), instead of their sum, (batch, keys)."""

    def read(self, like: Tensor) -> Tensor:
        """The row before this layer, (batch, new tokens); `like` has the layer's (batch, heads, new tokens, dim)."""

    def advance(self, row: Tensor, flow: Tensor, total: Tensor) -> Tensor:
        """r Abar for one tile of query rows, (batch, keys) or (batch, heads, keys), from r (batch, rows).

        flow is A * dy/dA, (batch, heads, rows, keys), and may be overwritten; total its sum over keys, (batch, heads,
        rows).
        """

    def add(self, update: Tensor) -> None:
        """Add this layer's r Abar, (batch, known and new tokens), or by head."""


class Recorder(Protocol):
    """Decides, call by call, what a running model's attention does."""

    def row_for(self, module: nn.Module, query: Tensor) -> RelevanceRow | None:
        """The row this layer advances, or None when it only passes gradients on; query as in `attend`."""

    def root(self, device: torch.device) -> Tensor:
        """A scalar from which a graph can grow."""

    @property
    def known(self) -> int:
        """How many tokens before the new ones were recorded in a pass of their own."""

    @property
    def rehearsing(self) -> bool:
        """Whether a layer runs without a graph now, and will run again when backward comes to it: no row is wanted."""


recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)

# Is shown each call as it comes: query, key, and how scores become probabilities (see `maps`).
watcher: ContextVar[Callable[[Tensor, Tensor, Call], None] | None] = ContextVar("watcher", default=None)


@dataclass(frozen=True)
class Knockout:
    """Keys that positions from `first` on cannot see, in every layer: keys (batch, tokens) bool, padded with False.

    Geva et al., EMNLP 2023 (attention knockout).
    """

    keys: Tensor
    first: int
    _known: dict[tuple[Any, ...], tuple[Tensor | None, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def applied(self, mask: Tensor | None, query: Tensor, key: Tensor, *, causal: bool) -> Tensor:
        """The attention mask of a call without what is knocked out, (batch, 1 or heads, queries, keys)."""
        asked = id(mask), query.shape[2], key.shape[2], query.device, causal
        if asked not in self._known:  # layers are given the same mask; it is held, so that its id stays its own
            self._known[asked] = mask, self._without(mask, query, key, causal=causal)
        return self._known[asked][1]

    def _without(self, mask: Tensor | None, query: Tensor, key: Tensor, *, causal: bool) -> Tensor:
        queries, keys = query.shape[2], key.shape[2]
        places = torch.arange(keys - queries, keys, device=query.device)
        hidden = nn.functional.pad(self.keys.to(query.device), (0, keys - self.keys.shape[1]))[:, None, None]
        hidden = hidden & (places >= self.first)[:, None]
        if mask is None:
            mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device)
            mask = mask.tril(keys - queries) if causal else mask
        return mask & ~hidden if mask.dtype == torch.bool else mask.masked_fill(hidden, float("-inf"))


knockout: ContextVar[Knockout | None] = ContextVar("knockout", default=None)


def register() -> None:
    """Make `NAME` known to transformers, with the masks SDPA takes; without them padding would be ignored silently."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    softcap: float | None = None,
    cap_as_factor: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention for transformers' interface that records relevance when backward runs.

    Query is (batch, heads, tokens, dim); key and value may have fewer heads. Returns (batch, tokens, heads, dim).
    cap_as_factor: backward takes a soft cap for a factor of each score that does not depend on it (see `lrp`).
    Raises RelevancyError for a mask or an option whose effect on the probabilities is not known here.
    """
    _refuse_unknown(module, attention_mask, dropout, kwargs)
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    missing = knockout.get()
    if missing is not None:
        attention_mask = missing.applied(attention_mask, query, key, causal=causal)
    call = Call(
        module=module,
        mask=attention_mask,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=softcap,
        cap_as_factor=cap_as_factor,
        causal=causal and attention_mask is None and query.shape[2] > 1,
        groups=query.shape[1] // key.shape[1],
    )
    watch = watcher.get()
    if watch is not None:
        watch(query, key, call)
    tape = recorder.get()
    if tape is None or not (torch.is_grad_enabled() or tape.rehearsing):
        return _forward(query, key, value, call).transpose(1, 2).contiguous(), None

    row = tape.row_for(module, query)
    rooted = query.requires_grad or key.requires_grad or value.requires_grad
    if row is None and not rooted:  # below the first layer of interest no graph is needed
        return _forward(query, key, value, call).transpose(1, 2).contiguous(), None
    if key.shape[2] - query.shape[2] != tape.known:
        raise RelevancyError(
            f"{type(module).__name__} was called with {query.shape[2]} new and {key.shape[2]} known tokens: "
            "give the whole sequence in one forward pass, without a filled cache."
        )
    if getattr(module, "is_decoder", False) and attention_mask is None and not causal:
        raise RelevancyError(
            f"{type(module).__name__} hides later tokens by a mask alone, which SDPA leaves out; only one that says "
            "is_causal of itself is exact."
        )
    output = _Attention.apply(query, key, value, None if row is None else tape.root(query.device), call, row)
    return output.transpose(1, 2).contiguous(), None


def _refuse_unknown(module: nn.Module, mask: Any, dropout: float, options: dict[str, Any]) -> None:
    """Raise RelevancyError by name for whatever would change the probabilities in a way not computed here."""
    layer = type(module).__name__
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 4):
        raise RelevancyError(
            f"{layer} uses a mask of type {type(mask).__name__}; only 4-D bool or float masks are exact."
        )
    if dropout:
        raise RelevancyError(f"{layer} drops attention at random (p={dropout}); call model.eval() first.")
    if mask is not None and mask.requires_grad:
        raise RelevancyError(
            f"{layer} computes its mask from the tokens; the gradient through it is not followed here."
        )
    flags = (bool, str, type(None))
    strange = [name for name, value in options.items() if name not in _INERT and not isinstance(value, flags)]
    if strange:
        raise RelevancyError(f"{layer} passes {', '.join(strange)} to its attention, which this method does not know.")


@dataclass(frozen=True)
class Call:
    """How scores become probabilities in one attention call."""

    module: nn.Module
    mask: Tensor | None
    scale: float
    softcap: float | None
    causal: bool
    groups: int
    cap_as_factor: bool = False


class Tile(NamedTuple):
    """A block of query rows, and the keys it can see."""

    rows: slice
    keys: slice


class _Attention(torch.autograd.Function):
    """SDPA whose backward recomputes probabilities tile by tile and advances the relevance row on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        root: Tensor | None,  # noqa: ARG004  a leaf up to which backward goes, whatever else asks for gradients
        call: Call,
        row: RelevanceRow | None,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.call, ctx.row = call, row
        return _forward(query, key, value, call)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        sweep = _Sweep(query, key, value, grad, ctx.call, wanted=any(ctx.needs_input_grad[:3]))
        update = sweep.run(ctx.row)
        if ctx.row is not None:
            ctx.row.add(update)
        root = torch.zeros((), device=grad.device) if ctx.needs_input_grad[3] else None
        return (*sweep.gradients(), root, None, None)


class _Sweep:
    """One backward pass over the tiles of an attention call."""

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, grad: Tensor, call: Call, *, wanted: bool) -> None:
        self.query, self.grad, self.call, self.wanted = query, grad, call, wanted
        exact = torch.promote_types(query.dtype, torch.float32)
        self.key, self.keys, self.values = key, _Factor.of(key), _Factor.of(value)
        if wanted:
            self.grad_query = torch.zeros_like(query)
            self.grad_key = torch.zeros_like(key, dtype=exact)
            self.grad_value = torch.zeros_like(value, dtype=exact)

    def run(self, row: RelevanceRow | None) -> Tensor | None:
        """r Abar, (batch, tokens), or by head, when given a row; gradients accumulate on the way.

        Before a row's first layer, query rows that carry no gradient are passed over: there that is every position but
        the one whose logits are explained.
        """
        # Read once for all tiles: an accelerator would stop at each.
        spoken = self.grad.any((0, 1, 3)).tolist() if row is not None and row.fresh else None
        values = None if row is None else row.read(self.grad)
        update = None
        if row is not None and values is not None:
            heads = (self.query.shape[1],) if row.by_head else ()
            update = values.new_zeros(len(values), *heads, self.key.shape[2])
        for tile in _tiles(self.query, self.key.shape[2], self.call.causal):
            if spoken is not None and not any(spoken[tile.rows]):
                continue
            flow, total = self._visit(tile)
            if row is not None and values is not None and update is not None:
                update[..., tile.keys] += row.advance(values[:, tile.rows], flow, total)
        return update

    def _visit(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """A * dy/dA of one tile, (batch, heads, rows, keys), and its sum over keys, (batch, heads, rows)."""
        grad_rows = self.grad[:, :, tile.rows]
        batch, heads, rows, _ = grad_rows.shape
        folded = (batch, self.key.shape[1], self.call.groups * rows, -1)  # values may be narrower than queries
        query, grad = self.query[:, :, tile.rows].reshape(folded), grad_rows.reshape(folded)
        probs, slope = _probabilities(self.keys.times(query, tile.keys), tile, self.call)
        flow = self.values.times(grad, tile.keys).mul_(probs)
        total = flow.sum(-1, keepdim=True)
        if self.wanted:
            d_scores = torch.addcmul(flow, probs, total, value=-1)
            if slope is not None:
                d_scores *= slope
            d_scores = d_scores.to(query.dtype)
            self.grad_query[:, :, tile.rows] = (d_scores @ self.key[:, :, tile.keys]).view(batch, heads, rows, -1)
            self.grad_key[:, :, tile.keys] += d_scores.mT @ query
            self.grad_value[:, :, tile.keys] += probs.to(query.dtype).mT @ grad
        return flow.view(batch, heads, rows, -1), total.view(batch, heads, rows)

    def gradients(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """dy/d(query, key, value), or three times None where nothing below needs them."""
        if not self.wanted:
            return None, None, None
        scale, dtype = self.call.scale, self.query.dtype
        return self.grad_query.mul_(scale), self.grad_key.mul_(scale).to(dtype), self.grad_value.to(dtype)


class _Factor(NamedTuple):
    """Keys or values, (batch, kv heads, tokens, dim), as the second factor of products in float32 or finer."""

    source: Tensor
    exact: Tensor | None  # the same in that precision; None where the product itself can be taken in it

    @classmethod
    def of(cls, source: Tensor) -> _Factor:
        # A product of two numbers in half precision is exact in float32, in which a GPU's fast units also add them up.
        half = source.dtype in (torch.bfloat16, torch.float16)
        if half and source.is_cuda and torch.version.hip is None:
            return cls(source, None)
        return cls(source, source.to(torch.promote_types(source.dtype, torch.float32)))

    def times(self, rows: Tensor, tokens: slice) -> Tensor:
        """rows (batch, kv heads, rows, dim) with each of these tokens, (batch, kv heads, rows, tokens)."""
        if self.exact is not None:
            return rows.to(self.exact.dtype) @ self.exact[:, :, tokens].mT
        chosen = self.source[:, :, tokens].flatten(0, 1).mT
        product = torch.bmm(rows.flatten(0, 1), chosen, out_dtype=torch.float32)
        return product.unflatten(0, rows.shape[:2])


def clamped(row: Tensor, flow: Tensor, *, by_head: bool = False) -> Tensor:
    """r Abar for one tile of query rows, (batch, keys), by eq. 5: flow is clamped at zero, then heads are averaged.

    Row is (batch, rows), flow = A * dy/dA is (batch, heads, rows, keys) and is overwritten.
    by_head: each head's part of it, (batch, heads, keys).
    """
    return _mixed(row, flow.clamp_(min=0), by_head=by_head)


def magnitudes(row: Tensor, flow: Tensor, *, by_head: bool = False) -> Tensor:
    """r Abar for one tile of query rows, (batch, keys), with Abar = mean_h |A_h * dy/dA_h|, its rows summing to 1.

    The sign of A * dy/dA depends on where the origin of the values lies, which attention's output does not: adding one
    vector to all values of a head moves that output by a constant. Its size asks what the decision is about, whatever
    speaks for the token or against it. A query row without any flow passes nothing on. Arguments as in `clamped`.
    """
    sizes = flow.abs_()
    sums = sizes.sum((1, 3)) / flow.shape[1]
    return _mixed(torch.where(sums > 0, row / sums, 0), sizes, by_head=by_head)


def _mixed(row: Tensor, flow: Tensor, *, by_head: bool) -> Tensor:
    """The row times the mean over heads of a tile, as one product; or each head's part of that."""
    batch, heads, rows, keys = flow.shape
    if by_head:
        return (row[:, None, None] @ flow).squeeze(2) / heads
    weights = row[:, None].expand(batch, heads, rows).reshape(batch, 1, heads * rows)
    return (weights @ flow.view(batch, heads * rows, keys)).squeeze(1) / heads


def _probabilities(scores: Tensor, tile: Tile, call: Call) -> tuple[Tensor, Tensor | None]:
    """Softmax of raw query-key products (batch, kv heads, groups * rows, keys), and what the soft cap lets through."""
    slope = None
    scores *= call.scale
    if call.softcap is not None:
        before = scores / call.softcap
        scores = torch.tanh(before)
        slope = torch.where(before == 0, 1, scores / before) if call.cap_as_factor else 1 - scores.square()
        scores = scores * call.softcap
    grouped = scores.view(*scores.shape[:2], call.groups, -1, scores.shape[-1])
    lowest = torch.finfo(scores.dtype).min
    if call.mask is None:
        if call.causal:  # only the last square block of the tile reaches past its own rows
            block = grouped[..., tile.rows.start :]
            future = torch.ones(block.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            block.masked_fill_(future, lowest)
        return torch.softmax(scores, -1), slope
    mask = call.mask[..., tile.rows, tile.keys]
    mask = mask[:, :, None] if mask.shape[1] == 1 else mask.unflatten(1, (-1, call.groups))
    if mask.dtype == torch.bool:
        hidden = ~mask
    else:
        hidden, grouped = mask == float("-inf"), grouped + mask
    probs = torch.softmax(grouped.masked_fill_(hidden, lowest), -1)
    # A row that may see nothing (padding) would otherwise spread evenly over what it may not see.
    return probs.masked_fill_(hidden, 0).view_as(scores), slope


def maps(query: Tensor, key: Tensor, call: Call, first: int = 0) -> Iterator[tuple[Tile, Tensor]]:
    """A call's probabilities from query row `first` on, tile by tile, (batch, heads, rows, keys) in float32 or finer.

    Keys beyond the tile's own have probability zero.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    batch, heads, _, dim = query.shape
    for tile in _tiles(query, key.shape[2], call.causal, first):
        keys = key[:, :, tile.keys].to(exact)
        folded = query[:, :, tile.rows].reshape(batch, key.shape[1], -1, dim).to(exact)
        probs, _ = _probabilities(folded @ keys.mT, tile, call)
        yield tile, probs.view(batch, heads, -1, keys.shape[2])


def _tiles(query: Tensor, keys: int, causal: bool, first: int = 0) -> Iterator[Tile]:
    """Blocks of query rows, from `first` on, whose float32 probabilities fit the device's tile size."""
    batch, heads, length, _ = query.shape
    budget = _CPU_TILE_BYTES if query.device.type == "cpu" else _ACCELERATOR_TILE_BYTES
    rows = max(1, budget // (4 * batch * heads * keys))
    for start in range(first, length, rows):
        stop = min(start + rows, length)
        yield Tile(slice(start, stop), slice(0, stop if causal else keys))


def _forward(query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
    """Softmax(q k^T) v, (batch, heads, tokens, dim): transformers' own SDPA call, or tiles when scores are capped."""
    if call.softcap is None:
        output, _ = sdpa_attention_forward(
            call.module, query, key, value, call.mask, scaling=call.scale, is_causal=call.causal
        )
        return output.transpose(1, 2)
    exact = torch.promote_types(query.dtype, torch.float32)
    output = query.new_empty(*query.shape[:3], value.shape[-1])
    for tile, probs in maps(query, key, call):
        grouped = probs.view(*key.shape[:2], -1, probs.shape[-1])
        mixed = grouped @ value[:, :, tile.keys].to(exact)
        output[:, :, tile.rows] = mixed.view(*probs.shape[:-1], -1).to(query.dtype)
    return output

"""AttnLRP: a decoder whose gradient, times its input, is relevance by the published rules.

Achtibat et al., ICML 2024. Relevance R of an input x of a layer is x times a gradient that is changed where the layer
is not linear:

    normalisation     y = x * s(x): s is a factor that takes no part, R stays what it is (identity rule)
    activation        a = x * (a/x): the same
    product a * b     each of the two gets half (uniform rule): in gated feed-forwards, query x key, attention x value
    softmax           its own gradient (Deep Taylor decomposition at the point itself)

All else in the layers (matrices, rotary positions, sums) is linear, and its gradient is what the rules say. What is
left to the gradient and what is changed is decided by structure, and a layer that is not known is refused by name.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from relevancy.core import attention, patching
from relevancy.core.attention import RelevanceRow
from relevancy.core.stacks import Stack
from relevancy.errors import RelevancyError

NAME = "relevancy-attnlrp"

_HALF = 1 / 2
_INSIDE = "deepstack"  # with what the names begin under which image features enter later layers
# Parts by their names: of the decoder, of a layer, of its attention, and of its gated feed-forward.
_STACK = frozenset({"embed_tokens", "layers", "norm"})
_LAYER_NORMS = frozenset(
    {"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"}
)
_LAYER = _LAYER_NORMS | {"self_attn", "mlp"}
_HEAD_NORMS = frozenset({"q_norm", "k_norm"})
_ATTENTIONS = (frozenset({"q_proj", "k_proj", "v_proj", "o_proj"}), frozenset({"qkv_proj", "o_proj"}))  # apart, fused
_FEED_FORWARDS: Mapping[str, frozenset[str]] = {
    "act_fn": frozenset({"gate_proj", "up_proj", "down_proj", "act_fn"}),
    "activation_fn": frozenset({"gate_up_proj", "down_proj", "activation_fn"}),
}


@contextmanager
def rules(model: PreTrainedModel) -> Iterator[None]:
    """Inside, gradients through the decoder follow the rules; its outputs stay what they are.

    For whoever holds the model's lock, or uses it alone; only the calling thread's gradients are changed. Raises
    RelevancyError for a decoder with layers whose rules are not known here.
    """
    decoder = Stack.decoder(model)
    parts = _Parts(decoder.model)
    owner = threading.get_ident()

    def watched() -> bool:
        return torch.is_grad_enabled() and threading.get_ident() == owner

    def asked(source: Tensor) -> bool:
        return watched() and source.requires_grad

    def as_factor(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not asked(args[0]):
            return None
        source, found = args[0].detach(), output.detach()
        return _Factor.apply(args[0], found, torch.where(source == 0, 0, found / source))

    def halved(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return (_shared(args[0], _HALF), *args[1:]) if asked(args[0]) else None

    def begin(_: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        if watched():
            _require_one_entrance(decoder.model, kwargs)
            decoder.begin()

    def end(*_: Any) -> None:
        if watched():
            decoder.require_every_layer()

    attention.register()
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    with ExitStack() as stack:
        stack.enter_context(patching.attention_implementation(NAME, decoder.model))
        stack.enter_context(decoder.guarded())
        for module in (*parts.norms, *parts.activations):
            stack.callback(module.register_forward_hook(as_factor).remove)
        for module in parts.products:
            stack.callback(module.register_forward_pre_hook(halved).remove)
        stack.callback(decoder.model.register_forward_pre_hook(begin, with_kwargs=True).remove)
        stack.callback(decoder.model.register_forward_hook(end).remove)
        token = attention.recorder.set(_Hearing(decoder))
        stack.callback(attention.recorder.reset, token)
        yield


def _require_one_entrance(decoder: PreTrainedModel, given: Mapping[str, Any]) -> None:
    inside = [name for name, value in given.items() if name.startswith(_INSIDE) and value is not None]
    if inside:
        raise RelevancyError(
            f"{type(decoder).__name__} adds image features inside its layers ({inside[0]}), and method attnlrp follows "
            "what enters at the first one: use method relevancy."
        )


class _Factor(torch.autograd.Function):
    """An output that is its source times a factor (a tensor, or one number), which takes no part in the gradient."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, output: Tensor, factor: Tensor | float) -> Tensor:  # noqa: ARG004
        ctx.factor = factor
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.factor, None, None


def _shared(source: Tensor, part: float) -> Tensor:
    """The same tensor, which gets this part of its relevance."""
    return _Factor.apply(source, source.detach(), part)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention by the rules: half of the relevance goes to the values, of the scores' half to query and key a half."""
    query, key, value = _shared(query, _HALF**2), _shared(key, _HALF**2), _shared(value, _HALF)
    return attention.attend(module, query, key, value, attention_mask, cap_as_factor=True, **options)


class _Hearing:
    """Hears which layers attend; no row is carried."""

    known = 0
    rehearsing = False

    def __init__(self, decoder: Stack) -> None:
        self._decoder = decoder

    def row_for(self, module: nn.Module, query: Tensor) -> RelevanceRow | None:  # noqa: ARG002
        if self._decoder.owns(module):
            self._decoder.hear(module)
        return None

    def root(self, device: torch.device) -> Tensor:
        raise AssertionError(f"no row, and so no root on {device}")


class _Parts:
    """A decoder's norms, activations and products, found by structure. Raises RelevancyError for what is not known."""

    def __init__(self, decoder: PreTrainedModel) -> None:
        self._family = type(decoder).__name__
        self.norms: list[nn.Module] = []
        self.activations: list[nn.Module] = []
        self.products: list[nn.Module] = []
        parts = self._children(decoder, _STACK)
        self._norm(parts["norm"])
        for layer in parts["layers"].children():
            self._layer(layer)

    def _layer(self, layer: nn.Module) -> None:
        parts = self._children(layer, _LAYER, needed=frozenset({"self_attn", "mlp"}))
        for name in _LAYER_NORMS & parts.keys():
            self._norm(parts[name])
        fused = "qkv_proj" in dict(parts["self_attn"].named_children())
        inner = self._children(parts["self_attn"], _ATTENTIONS[fused] | _HEAD_NORMS, needed=_ATTENTIONS[fused])
        for name in _HEAD_NORMS & inner.keys():
            self._norm(inner[name])
        self._feed_forward(parts["mlp"])

    def _feed_forward(self, module: nn.Module) -> None:
        children = dict(module.named_children())
        for name, names in _FEED_FORWARDS.items():
            if name in children:
                self._children(module, names)
                self.activations.append(children[name])
                self.products.append(children["down_proj"])
                return
        raise self._unknown(module)

    def _norm(self, module: nn.Module) -> None:
        """One that divides by the root of the mean square, whatever it multiplies with: that is tried, not believed."""
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 1:
            raise self._unknown(module)
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(len(weight), generator=generator).add(0.5).to(weight)
        with torch.no_grad():
            found, gain = module(probe).float(), module(torch.ones_like(probe)).float()
        expected = probe.float() * probe.float().square().mean().rsqrt() * gain
        if not torch.allclose(found, expected, rtol=2e-2, atol=2e-2):
            raise self._unknown(module)
        self.norms.append(module)

    def _children(
        self, module: nn.Module, names: frozenset[str], needed: frozenset[str] | None = None
    ) -> dict[str, nn.Module]:
        """A module's parts by name; those that do nothing, or turn positions, are left out."""
        children = {
            name: child
            for name, child in module.named_children()
            if not isinstance(child, (nn.Dropout, nn.Identity)) and not name.startswith("rotary_emb")
        }
        own = [name for name, _ in module.named_parameters(recurse=False)]
        if own or not (names if needed is None else needed) <= children.keys() <= names:
            raise self._unknown(module)
        return children

    def _unknown(self, module: nn.Module) -> RelevancyError:
        return RelevancyError(
            f"Method attnlrp has no rule for {type(module).__name__} of {self._family}: it knows layers of attention "
            "and a gated feed-forward with root-mean-square norms, as those of Gemma, Llama, Mistral, Phi-3 and Qwen. "
            "Use method relevancy."
        )

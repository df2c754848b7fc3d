"""AttnLRP written out rule by rule, without a gradient: float64, one example, every matrix kept. Slow and plain.

Relevance of an output z = sum_i z_i goes to its parts as z_i / z * R. Achtibat et al., ICML 2024.
"""

import torch
from torch import Tensor, nn


class Attended:
    """One layer's attention: values of the forward pass, and the rules on the way back."""

    def __init__(self, module: nn.Module, x: Tensor, rotations: Tensor, window: int | None, cap: float | None) -> None:
        self.module, self.x, self.rotations, self.cap = module, x, rotations, cap
        self.dim, tokens = module.head_dim, len(x)
        parts = {name: linear(getattr(module, f"{name}_proj"), x) for name in "qkv"}
        self.raw = {name: each.view(tokens, -1, self.dim).transpose(0, 1) for name, each in parts.items()}
        self.normed = {
            name: normed(getattr(module, f"{name}_norm"), self.raw[name])
            if hasattr(module, f"{name}_norm")
            else self.raw[name]
            for name in "qk"
        }
        self.groups = len(self.raw["q"]) // len(self.raw["k"])
        self.q, self.k = (torch.einsum("tde,hte->htd", rotations, self.normed[name]) for name in "qk")
        self.keys, self.values = (each.repeat_interleave(self.groups, 0) for each in (self.k, self.raw["v"]))
        self.dots = self.q @ self.keys.mT * module.scaling
        self.scores = self.dots if cap is None else cap * torch.tanh(self.dots / cap)
        far = torch.arange(tokens)[:, None] - torch.arange(tokens)
        self.seen = (far >= 0) & (far < (window or tokens))
        self.shares = self.scores.masked_fill(~self.seen, float("-inf")).softmax(-1)
        self.mixed = self.shares @ self.values
        self.joined = self.mixed.transpose(0, 1).reshape(tokens, -1)
        self.output = linear(module.o_proj, self.joined)

    def back(self, relevance: Tensor) -> Tensor:
        """Relevance of the layer's input, (tokens, width), from that of its output."""
        tokens = len(self.x)
        on_mixed = through(self.module.o_proj, self.joined, self.output, relevance)
        part = on_mixed.view(tokens, -1, self.dim).transpose(0, 1) / self.mixed
        # attention x value: each gets half
        on_shares = self.shares * torch.einsum("htd,hsd->hts", part, self.values) / 2
        on_values = self.values * torch.einsum("hts,htd->hsd", self.shares, part) / 2
        # softmax: its own Taylor expansion; a soft cap leaves relevance as it is
        on_scores = self.scores * (on_shares - self.shares * on_shares.sum(-1, keepdim=True))
        # query x key: each gets half
        ratio = on_scores.masked_fill(~self.seen, 0) / self.dots * self.module.scaling / 2
        on_q = self.q * (ratio @ self.keys)
        on_keys = self.keys * (ratio.mT @ self.q)
        found = torch.zeros_like(self.x)
        on_k, on_v = (each.unflatten(0, (-1, self.groups)).sum(1) for each in (on_keys, on_values))
        for name, turned, own in (("q", self.q, on_q), ("k", self.k, on_k)):
            own = self.normed[name] * torch.einsum("tde,htd->hte", self.rotations, own / turned)
            found += self._to_input(name, own)  # a norm of a head leaves relevance as it is
        return found + self._to_input("v", on_v)

    def _to_input(self, name: str, relevance: Tensor) -> Tensor:
        flat, raw = (each.transpose(0, 1).reshape(len(self.x), -1) for each in (relevance, self.raw[name]))
        return through(getattr(self.module, f"{name}_proj"), self.x, raw, flat)


def linear(module: nn.Linear, x: Tensor) -> Tensor:
    return x @ module.weight.double().T + (0 if module.bias is None else module.bias.double())


def through(module: nn.Linear, x: Tensor, output: Tensor, relevance: Tensor) -> Tensor:
    return x * (relevance / output @ module.weight.double())


def normed(module: nn.Module, x: Tensor) -> Tensor:
    gain = module.weight.double() + ("Gemma" in type(module).__name__)
    eps = module.eps if hasattr(module, "eps") else module.variance_epsilon
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain


def turning(model: nn.Module, tokens: int) -> Tensor:
    """The matrices by which rotary positions turn a head's numbers, (tokens, dim, dim)."""
    dim = model.layers[0].self_attn.head_dim
    theta = model.config.rope_parameters["rope_theta"]
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] * theta ** (
        -torch.arange(0, dim, 2, dtype=torch.float64) / dim
    )
    found, half = torch.zeros(tokens, dim, dim, dtype=torch.float64), torch.arange(dim // 2)
    found[:, half, half] = found[:, half + dim // 2, half + dim // 2] = angles.cos()
    found[:, half, half + dim // 2], found[:, half + dim // 2, half] = -angles.sin(), angles.sin()
    return found


@torch.no_grad()
def relevance(model: nn.Module, embeddings: Tensor, row: Tensor) -> tuple[Tensor, float]:
    """Relevance of each embedding (tokens, width) for its last position's product with `row`, and that product."""
    x, config = embeddings.double(), model.config
    rotations, steps = turning(model, len(x)), []
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * len(model.layers)
    for layer, kind in zip(model.layers, kinds, strict=True):
        sandwiched = hasattr(layer, "pre_feedforward_layernorm")
        window = config.sliding_window if kind == "sliding_attention" else None
        cap = getattr(config, "attn_logit_softcapping", None)
        attended = Attended(layer.self_attn, normed(layer.input_layernorm, x), rotations, window, cap)
        added = normed(layer.post_attention_layernorm, attended.output) if sandwiched else attended.output
        middle = x + added
        before = layer.pre_feedforward_layernorm if sandwiched else layer.post_attention_layernorm
        read, mlp = normed(before, middle), layer.mlp
        gate, up = linear(mlp.gate_proj, read), linear(mlp.up_proj, read)
        product = mlp.act_fn(gate) * up
        written = linear(mlp.down_proj, product)
        more = normed(layer.post_feedforward_layernorm, written) if sandwiched else written
        steps.append((layer, x, attended, added, middle, read, gate, up, product, written, more))
        x = middle + more
    last = normed(model.norm, x)
    value = float(last[-1] @ row.double())
    found = torch.zeros_like(x)
    found[-1] = last[-1] * row.double()
    for layer, start, attended, added, middle, read, gate, up, product, written, more in reversed(steps):
        whole = middle + more
        on_more, on_middle = more * found / whole, middle * found / whole
        on_product = through(layer.mlp.down_proj, product, written, on_more)
        on_read = through(layer.mlp.gate_proj, read, gate, on_product / 2)
        on_middle = on_middle + on_read + through(layer.mlp.up_proj, read, up, on_product / 2)
        found = start * on_middle / middle + attended.back(added * on_middle / middle)
    return found.sum(-1), value

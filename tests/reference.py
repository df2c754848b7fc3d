"""Relevancy as the equations say it: eager attention, every matrix kept, whole N x N products. Slow and plain."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from relevancy.models.model import Model


@dataclass
class Reference:
    language: Tensor  # (batch, tokens)
    vision: Tensor | None  # (images, tower tokens)
    logits: Tensor  # (batch, vocabulary) of the last position
    cut: Tensor  # (batch,), the share of the decoder row's flow that is negative


def abar(probabilities: Tensor, rule: str = "clamp") -> Tensor:
    """Eq. 5 for one layer, (batch, tokens, tokens), or with sizes in place of its clamp and rows summing to 1."""
    flow = probabilities * probabilities.grad
    if rule == "clamp":
        return flow.clamp(min=0).mean(dim=1)
    sizes = flow.abs().mean(dim=1)
    sums = sizes.sum(-1, keepdim=True)
    return torch.where(sums > 0, sizes / sums, 0)


def propagate(layers: list[Tensor], rule: str = "clamp") -> Tensor:
    """Eq. 6 over all layers, (batch, tokens, tokens)."""
    batch, _, tokens, _ = layers[0].shape
    relevance = torch.eye(tokens, dtype=layers[0].dtype).expand(batch, tokens, tokens)
    for probabilities in layers:
        relevance = relevance + abar(probabilities, rule) @ relevance
    return relevance


def cut(layers: list[Tensor], position: int) -> Tensor:
    """What of the flow is negative, over all layers, each weighted with the row that comes down to it, (batch,)."""
    batch, _, tokens, _ = layers[0].shape
    row = torch.eye(tokens, dtype=layers[0].dtype)[position].expand(batch, tokens)
    negative = whole = torch.zeros(batch, dtype=row.dtype)
    for probabilities in reversed(layers):
        flow = probabilities * probabilities.grad
        negative = negative + torch.einsum("bi,bhij->b", row, flow.clamp(max=0).abs())
        whole = whole + torch.einsum("bi,bhij->b", row, flow.abs())
        row = row + torch.einsum("bi,bij->bj", row, abar(probabilities))
    return negative / whole


def reference(
    model: PreTrainedModel,
    inputs: dict,
    targets: Tensor | None = None,
    position: int = -1,
    full: bool = False,
    patches_of: Tensor | None = None,
    rule: str = "clamp",
    against: Tensor | None = None,
    span: Sequence[int] = (),
) -> Reference:
    """Relevance of `targets` (batch,) token ids at `position`, by default the most probable ones.

    against: ids of the tokens whose logits are taken off.
    span: ids of the tokens that are explained together in place of `targets`, the last of them at `position`.
    patches_of (image tokens, patches) says with 1 which patches a merged image token was made of.
    """
    kept: dict[str, list[Tensor]] = {"language": [], "vision": []}
    decoder, tower = model.get_decoder(), model.get_encoder(modality="image")
    handles = []

    def keep(name: str):
        def hook(_: nn.Module, __: tuple, output: object) -> None:
            if isinstance(output, tuple) and len(output) > 1 and isinstance(output[1], Tensor) and output[1].ndim == 4:
                output[1].retain_grad()
                kept[name].append(output[1])

        return hook

    for name, part in (("language", decoder), ("vision", tower))[: 1 if tower is model else 2]:
        handles += [
            module.register_forward_hook(keep(name))
            for module in part.modules()
            if type(module).__name__.endswith("Attention") and hasattr(module, "config")
        ]
    parts = [part for part in ("text_config", "vision_config") if hasattr(model.config, part)]
    before = {part: getattr(model.config, part)._attn_implementation for part in parts}
    before[""] = model.config._attn_implementation  # of the whole model, whose name "eager" would stay
    model.set_attn_implementation("eager")
    try:
        every = model(**inputs).logits
        logits = every[:, position]
    finally:
        for handle in handles:
            handle.remove()
        model.set_attn_implementation(before)
    if targets is None:
        targets = logits.argmax(-1)
    model.zero_grad()
    scalar = logits.gather(1, targets[:, None]).sum()
    if against is not None:
        scalar = scalar - logits.gather(1, against[:, None]).sum()
    places = [position - len(span) + 1 + number for number in range(len(span))] or [position]
    if span:
        scalar = sum(every[0, place].log_softmax(-1)[token] for place, token in zip(places, span, strict=True))
    scalar.backward()
    model.zero_grad()

    row = propagate(kept["language"], rule)[:, places].sum(1)
    vision = None
    if full:
        used = [layer for layer in kept["vision"] if layer.grad is not None]
        image_tokens = inputs["input_ids"] == model.config.image_token_id
        pictures, _, tokens, _ = used[0].shape
        placed = torch.zeros(pictures, tokens, dtype=row.dtype)
        values = row.detach()[image_tokens].view(pictures, -1)
        patches = values if patches_of is None else values @ patches_of
        placed[:, -patches.shape[1] :] = patches
        vision = torch.einsum("it,itk->ik", placed, propagate(used, rule))
    return Reference(row.detach(), vision, logits.detach(), cut(kept["language"], position).detach())


def relative(found: Tensor, expected: Tensor) -> float:
    """How far two tensors are apart, as a share of what is expected."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def passed_on(row: Tensor, position: int = -1) -> Tensor:
    """The row without e_t, whose 1 would hide an error in everything else."""
    unit = torch.zeros_like(row)
    unit[..., position] = 1
    return row - unit


def at_once(model: Model, question: str, pictures, ids) -> list[list[float]]:
    """Log-probabilities of an answer's tokens, from one whole forward pass without a cache."""
    inputs = model.prepare(pictures, [question] * len(pictures), [ids] * len(pictures))
    with torch.no_grad():
        logits = model.model(**inputs, logits_to_keep=len(ids) + 1).logits[:, :-1].log_softmax(-1)
    return [[float(row[place, token]) for place, token in enumerate(ids)] for row in logits]

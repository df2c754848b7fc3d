"""Relevancy as the equations say it: eager attention, every matrix kept, whole N x N products. Slow and plain."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from relevancy.models.model import Model

EXACT = 1e-6  # how far a row of a model in float64 may be from the equations': it is given in float32
ROUNDED = 1e-4  # and in float32, whose rounding is the processor's own: 4e-6 on one, 3e-5 on another for the same model


@dataclass
class Reference:
    language: Tensor  # (batch, tokens)
    vision: Tensor | None  # (images, tower tokens)
    logits: Tensor  # (batch, vocabulary) of the last position
    cut: Tensor  # (batch,), the share of the decoder row's flow that is negative
    seed: Tensor | None = None  # (images, tower tokens), what the image tokens put on the tower
    heads: list[Tensor] | None = None  # of each layer, what each head adds to the row, (batch, heads, tokens)


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


def by_head(layers: list[Tensor], position: int, rule: str = "clamp") -> list[Tensor]:
    """Of each layer, row t of R over the layers above times each head's part of Abar, (batch, heads, tokens)."""
    found = []
    for number, probabilities in enumerate(layers):
        batch, heads, tokens, _ = probabilities.shape
        above = torch.eye(tokens, dtype=probabilities.dtype).expand(batch, tokens, tokens)
        for other in layers[number + 1 :]:
            above = above + abar(other, rule) @ above
        flow = probabilities * probabilities.grad
        parts = flow.clamp(min=0) / heads
        if rule == "magnitude":
            sums = flow.abs().sum((1, 3))[:, None, :, None]
            parts = torch.where(sums > 0, flow.abs() / sums, 0)
        found.append(torch.stack([(above @ parts[:, head])[:, position] for head in range(heads)], 1).detach())
    return found


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
    lost = cut(kept["language"], position).detach()
    heads = by_head(kept["language"], position, rule)
    return Reference(row.detach(), vision, logits.detach(), lost, heads=heads)


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


@dataclass
class _Call:
    module: nn.Module
    probabilities: Tensor  # (batch, heads, tokens, tokens)
    output: Tensor  # (batch, tokens, heads, dim)


_calls: list[_Call] = []


def _written_out(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, softcap: float | None = None, is_causal: bool | None = None, **_: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention by its definition, every probability kept."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask
    assert attention_mask is not None or not is_causal
    probabilities = scores.softmax(-1)
    probabilities.retain_grad()
    output = (probabilities @ value).transpose(1, 2).contiguous()
    _calls.append(_Call(module, probabilities, output))
    return output, None


AttentionInterface.register("written_out", _written_out)
AttentionMaskInterface.register("written_out", eager_mask)


def doubled(model: PreTrainedModel, inputs: dict) -> tuple[PreTrainedModel, dict]:
    """A copy of a model in float64, with its inputs."""
    double = copy.deepcopy(model).double()
    double.set_experts_implementation("eager")  # the others multiply nothing wider than float32
    return double, {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def of_family(model: PreTrainedModel, inputs: dict, image_token_id: int) -> Reference:
    """Both rows of the most probable next tokens, in float64, for a model of any family.

    Tower tokens of an image token are those that its embedding depends on, by one gradient for each image token; where
    a tower attends in several calls (windows, pictures), its matrices are blocks on a diagonal.
    """
    double, given = doubled(model, inputs)
    own = {id(module) for module in double.get_decoder().modules()}
    read: list[Tensor] = []

    def keep(_: nn.Module, __: tuple, kwargs: dict) -> None:
        read.append(kwargs["inputs_embeds"])

    _calls.clear()
    double.set_attn_implementation("written_out")
    handle = double.get_decoder().register_forward_pre_hook(keep, with_kwargs=True)
    logits = double(**given).logits[:, -1]
    handle.remove()
    calls = list(_calls)
    layers: dict[int, list[_Call]] = {}
    for call in calls:
        layers.setdefault(id(call.module), []).append(call)
    decoder = [some for module, some in layers.items() if module in own]
    tower = [some for module, some in layers.items() if module not in own]

    embeddings = read[0][given["input_ids"] == image_token_id]
    used = [some for some in tower if _depends(embeddings.sum(), [call.output for call in some])]
    if not used or len({len(call.output) for some in used[-1:] for call in some}) > 1:  # no tower, or one run twice
        logits.max(-1).values.sum().backward()
        row = propagate([some[0].probabilities for some in decoder])[:, -1]
        return Reference(row.detach(), None, logits.detach(), torch.zeros(len(row)))
    last = [call.output for call in used[-1]]
    direction = torch.randn(embeddings.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    made = []
    for embedding in embeddings:
        found = torch.autograd.grad(embedding @ direction, last, retain_graph=True, allow_unused=True)
        parts = [
            torch.zeros(output.shape[:2]) if one is None else (one.abs().flatten(2).sum(-1) > 0).double()
            for one, output in zip(found, last, strict=True)
        ]
        made.append(torch.cat(parts, 1).flatten())
    patches_of = torch.stack(made).double()  # (image tokens, tower tokens)

    for call in calls:
        call.probabilities.grad = None  # of the passes before
    logits.max(-1).values.sum().backward()
    row = propagate([some[0].probabilities for some in decoder])[:, -1]
    if len({sum(call.probabilities.shape[0] * call.probabilities.shape[2] for call in some) for some in used}) > 1:
        return Reference(row.detach(), None, logits.detach(), torch.zeros(len(row)))  # it merges tokens on the way
    seed = (row.detach()[given["input_ids"] == image_token_id] @ patches_of).view(last[0].shape[0], -1)
    relevance = torch.eye(seed.shape[1], dtype=seed.dtype).expand(len(seed), -1, -1)
    for some in used:
        flows = [abar(call.probabilities) for call in some]
        whole = flows[0] if len(flows) == 1 else torch.block_diag(*[flow[0] for flow in flows])[None]
        relevance = relevance + whole @ relevance
    vision = torch.einsum("it,itk->ik", seed, relevance)
    return Reference(row.detach(), vision.detach(), logits.detach(), torch.zeros(len(row)), seed)


def _depends(scalar: Tensor, tensors: list[Tensor]) -> bool:
    found = torch.autograd.grad(scalar, tensors, retain_graph=True, allow_unused=True)
    return any(one is not None and bool(one.any()) for one in found)

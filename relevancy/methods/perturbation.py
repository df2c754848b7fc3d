"""Methods that run the model on changed pictures; the algorithms are captum's own.

captum is given a function from what the decoder reads of the picture (scope "language": image embeddings) or from the
processed pixels (scope "full") to the explained number. It is not given the model: `LLMAttribution` keeps a cache that
leaves the picture out from the second pass on, and its image attributions are then exactly zero.

Hidden is what the mean color of the tower's training data gives: pixels that are zero after the processor's
normalization, and the embeddings of such a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import ceil
from typing import Any

import torch
from torch import Tensor

from relevancy.core import patching
from relevancy.core.targets import Choice
from relevancy.methods.base import Attribution, Attributor, MethodSettings, TargetBatch, on_image_tokens
from relevancy.models.hooks import into_decoder, read_by_decoder
from relevancy.models.model import Model
from relevancy.models.prepared import Prepared

GROUPS = 8  # at most, per side of a picture: what hides together
WINDOWS = 12  # at most, per side: places of the window that slides
ORDERS = 8
SETS = 512
STEPS = 32
_TOGETHER = 16  # changed pictures in one forward pass
_SEED = 0

# A subject and its setting -> values of its patches (rows, cols), and notes.
Explainer = Callable[["Subject", MethodSettings], tuple[Tensor, tuple[str, ...]]]


@dataclass(frozen=True)
class Subject:
    """One example, its prompt up to the explained position, and the picture as it is changed.

    picture, hidden: (1, channels, height, width) of pixels or, with scope "language", (1, width of an embedding, rows,
    cols); hidden is what nothing is left of. prompt: the model's other inputs, of batch 1. embeddings: (1, tokens,
    width), what the decoder reads unchanged; None where pixels are changed.
    """

    model: Model
    choice: Choice
    prompt: dict[str, Tensor]
    picture: Tensor
    hidden: Tensor
    embeddings: Tensor | None

    def score(self, pictures: Tensor) -> Tensor:
        """The explained number for each of some changed pictures, (pictures,) float32."""
        count = len(pictures)
        prompt = {name: value.expand(count, *value.shape[1:]) for name, value in self.prompt.items()}
        run = partial(self.model.model, **prompt, logits_to_keep=self.choice.length, use_cache=False)
        if self.embeddings is None:
            logits = run(pixel_values=pictures).logits
        else:
            with into_decoder(self.model, lambda _: self.with_patches(pictures)):
                logits = run().logits
        own = logits.float() if self.choice.span else logits[:, -1].float()
        return torch.stack([self.choice.scalar(scores) for scores in own])

    def with_patches(self, pictures: Tensor) -> Tensor:
        """The decoder's embeddings with others for the patches."""
        assert self.embeddings is not None
        patches = pictures.flatten(2).mT
        whole = self.embeddings.repeat(len(pictures), 1, 1)
        whole[:, self.places[-patches.shape[1] :]] = patches.to(whole)
        return whole

    @cached_property
    def places(self) -> Tensor:
        """Where the image tokens stand."""
        return (self.prompt["input_ids"][0] == self.model.image_token_id).nonzero().squeeze(1)

    def groups(self, setting: MethodSettings) -> tuple[Tensor, Tensor]:
        """Which group each number of the picture is in, as the picture is shaped; patches in a patch's group."""
        step = ceil(max(setting.rows, setting.cols) / GROUPS)
        down, across = torch.arange(setting.rows) // step, torch.arange(setting.cols) // step
        groups = down[:, None] * (int(across[-1]) + 1) + across
        sizes = groups.flatten().bincount()[groups]
        mask = groups.to(self.picture.device)
        height, width = self.picture.shape[2:]
        side = height // setting.rows
        # What is beyond the last patch (a side that patches do not divide) goes with it; the tower never looks there.
        rows = (torch.arange(height) // side).clamp(max=setting.rows - 1)
        cols = (torch.arange(width) // side).clamp(max=setting.cols - 1)
        return mask[rows][:, cols].expand_as(self.picture).contiguous(), sizes

    def by_patch(self, values: Tensor, setting: MethodSettings, *, total: bool = False) -> Tensor:
        """Values (1, channels, height, width) as (rows, cols): of a patch's first number, or the sum of all."""
        blocks = setting.blocks(values[0])
        return blocks.sum((0, 2, 4)) if total else blocks[0, :, 0, :, 0]


class _Perturbed:
    """One example after the other, since captum's answers for one must not depend on those beside it."""

    def __init__(self, model: Model, setting: MethodSettings, explainer: Explainer) -> None:
        self.model, self.setting, self.explainer = model, setting, explainer
        self.prepared: Prepared | None = None
        self.embeddings: list[Tensor] = []
        self.grey: Tensor | None = None

    def forward(self, prepared: Prepared, keep: int, *, use_cache: bool) -> Any:
        self.prepared, self.grey = prepared, None
        with torch.no_grad(), read_by_decoder(self.model) as self.embeddings:
            return self.model.model(**prepared.inputs, logits_to_keep=keep, use_cache=use_cache)

    def read(self, round_: TargetBatch) -> Attribution:
        assert self.prepared is not None
        ids = self.prepared.ids
        maps = torch.zeros(len(ids), self.setting.patches, device=ids.device)
        notes: list[tuple[str, ...]] = [()] * len(ids)
        for index, wanted in enumerate(round_.wanted):
            if wanted:
                subject = self.subject(index, round_.choices[index], round_.places[index])
                values, notes[index] = self.explainer(subject, self.setting)
                maps[index] = values.detach().flatten().to(maps)
        return Attribution(on_image_tokens(ids, self.model.image_token_id, maps), notes=notes)

    def subject(self, index: int, choice: Choice, place: int) -> Subject:
        """One example by itself, without padding and what comes after its explained position."""
        assert self.prepared is not None
        kept = self.prepared.kept[index].nonzero()[:, 0]
        kept = kept[: len(kept) + 1 + place]
        prompt = dict(self.prepared.only(index, len(kept)).inputs)
        pixels = prompt.pop("pixel_values")
        if self.setting.scope == "full":
            return Subject(self.model, choice, prompt, pixels, torch.zeros_like(pixels), None)
        embeddings = self.embeddings[0][index : index + 1, kept]
        bare = Subject(self.model, choice, prompt, pixels, pixels, embeddings)
        return replace(bare, picture=self.patches(bare, embeddings), hidden=self.hidden_patches(bare))

    def patches(self, subject: Subject, embeddings: Tensor) -> Tensor:
        """What the decoder reads of the picture, (1, width of an embedding, rows, cols)."""
        own = embeddings[:, subject.places[-self.setting.patches :]]
        return own.mT.unflatten(2, (self.setting.rows, self.setting.cols)).contiguous()

    def hidden_patches(self, subject: Subject) -> Tensor:
        """The same of a picture of one color; it is the same whatever the question is."""
        if self.grey is None:
            blank = torch.zeros_like(subject.picture)
            with torch.no_grad(), read_by_decoder(self.model) as embeddings:
                self.model.model(**subject.prompt, pixel_values=blank, logits_to_keep=1, use_cache=False)
            self.grey = self.patches(subject, embeddings[0])
        return self.grey


@contextmanager
def _perturbing(explainer: Explainer, model: Model, setting: MethodSettings) -> Iterator[Attributor]:
    patching.require_gradients(model.model)
    devices = [model.device] if model.device.type == "cuda" else []
    with (
        patching.frozen_parameters(model.model),
        patching.eval_mode(model.model),
        torch.random.fork_rng(devices=devices),
    ):
        yield _Perturbed(model, setting, explainer)


def _integrated_gradients(subject: Subject, setting: MethodSettings) -> tuple[Tensor, tuple[str, ...]]:
    """Integrated gradients: sum_d (x - x0)_d * mean over 32 steps a of dy/dx_d at x0 + a (x - x0).

    Sundararajan, Taly and Yan, ICML 2017; captum's Gauss-Legendre steps. They should sum to y(x) - y(x0): the
    convergence delta is what is missing. Costs 32 forward and backward passes, and 4 forward passes beside.
    """
    from captum.attr import IntegratedGradients

    with torch.enable_grad():
        found, delta = IntegratedGradients(subject.score).attribute(
            subject.picture, subject.hidden, n_steps=STEPS, internal_batch_size=_TOGETHER, return_convergence_delta=True
        )
    note = (
        f"integrated gradients in {STEPS} steps: they sum to {float(found.sum()):.4g}, the convergence delta is "
        f"{float(delta):.2g}"
    )
    return subject.by_patch(found.float(), setting, total=True), (note,)


def _occlusion(subject: Subject, setting: MethodSettings) -> tuple[Tensor, tuple[str, ...]]:
    """Occlusion: the target's loss when a window of patches is hidden, mean over the windows that hold a patch.

    The window slides by half its side. Each loss is divided by the patches in the window. Zeiler and Fergus, ECCV 2014.
    Costs at most 11 x 11 forward passes, and 3 beside.
    """
    from captum.attr import Occlusion

    step = ceil(max(setting.rows, setting.cols) / WINDOWS)
    down, across = min(2 * step, setting.rows), min(2 * step, setting.cols)
    channels, height, _ = subject.picture.shape[1:]
    side = height // setting.rows
    found = Occlusion(subject.score).attribute(
        subject.picture,
        sliding_window_shapes=(channels, down * side, across * side),
        strides=(channels, step * side, step * side),
        baselines=subject.hidden,
        perturbations_per_eval=_TOGETHER,
    )
    return subject.by_patch(found, setting) / (down * across), ()


def _ablation(subject: Subject, setting: MethodSettings) -> tuple[Tensor, tuple[str, ...]]:
    """Feature ablation: the target's loss when a group of patches is hidden, divided by the patches in it.

    captum's FeatureAblation; groups of a grid of at most 8 x 8. Costs a forward pass for each, and 3 beside.
    """
    from captum.attr import FeatureAblation

    return _by_group(FeatureAblation(subject.score), subject, setting)


def _shapley(subject: Subject, setting: MethodSettings) -> tuple[Tensor, tuple[str, ...]]:
    """Shapley values of groups of patches, sampled: what a group adds, mean over 8 random orders of appearance.

    captum's ShapleyValueSampling; Castro, Gomez and Tejada, 2009. They sum to y(picture) - y(hidden picture). Costs 8
    forward passes for each group of a grid of at most 8 x 8, and 3 beside.
    """
    from captum.attr import ShapleyValueSampling

    return _by_group(ShapleyValueSampling(subject.score), subject, setting, n_samples=ORDERS)


def _kernel_shap(subject: Subject, setting: MethodSettings) -> tuple[Tensor, tuple[str, ...]]:
    """Kernel SHAP: the linear fit to 512 random sets of hidden groups, weighted by Shapley's kernel.

    Lundberg and Lee, NeurIPS 2017; captum's KernelShap on scikit-learn. Costs 512 forward passes, and 2 beside.
    """
    from captum.attr import KernelShap

    return _by_group(KernelShap(subject.score), subject, setting, n_samples=SETS)


def _lime(subject: Subject, setting: MethodSettings) -> tuple[Tensor, tuple[str, ...]]:
    """LIME: captum's Lime with its own defaults, a lasso (0.01) of 512 random sets weighted by cosine nearness.

    Ribeiro, Singh and Guestrin, KDD 2016; scikit-learn's Lasso. Costs 512 forward passes, and 2 beside.
    """
    from captum.attr import Lime

    return _by_group(Lime(subject.score), subject, setting, n_samples=SETS)


def _by_group(
    algorithm: Any, subject: Subject, setting: MethodSettings, **options: Any
) -> tuple[Tensor, tuple[str, ...]]:
    """One of captum's algorithms that give a value to each group, shared evenly by its patches."""
    mask, sizes = subject.groups(setting)
    torch.manual_seed(_SEED)
    with torch.no_grad():
        found = algorithm.attribute(
            subject.picture,
            baselines=subject.hidden,
            feature_mask=mask,
            perturbations_per_eval=_TOGETHER,
            **options,
        )
    return subject.by_patch(found, setting) / sizes.to(found), ()


integrated_gradients = partial(_perturbing, _integrated_gradients)
occlusion = partial(_perturbing, _occlusion)
ablation = partial(_perturbing, _ablation)
shapley = partial(_perturbing, _shapley)
kernel_shap = partial(_perturbing, _kernel_shap)
lime = partial(_perturbing, _lime)

"""Methods that take one gradient of the target: input x gradient, AttnLRP, and Grad-CAM on the tower's features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from relevancy.core import lrp, patching
from relevancy.methods.base import Attribution, Attributor, MethodSettings, TargetBatch, on_image_tokens
from relevancy.models.hooks import into_connector, into_decoder
from relevancy.models.model import Model
from relevancy.models.prepared import Prepared


@contextmanager
def input_gradient(model: Model, setting: MethodSettings) -> Iterator[Attributor]:
    """Input x gradient: sum_d x_d * dy/dx_d over the entries of each embedding that enters the decoder.

    With scope "full" the map is of the processed pixels, summed over each patch; words keep their embeddings' numbers.
    Shrikumar et al., 2016. Costs one forward pass, and for each target one backward pass.
    """
    with _borrowed(model):
        yield _InputGradient(model, setting)


@contextmanager
def attnlrp(model: Model, setting: MethodSettings) -> Iterator[Attributor]:
    """AttnLRP: sum_d x_d * g_dx over each embedding that enters the decoder, g the gradient by the rules of `core.lrp`.

    Achtibat et al., ICML 2024. Costs one forward pass, and for each target one backward pass.
    """
    with _borrowed(model), lrp.rules(model.model), patching.output_rows_picked(model.model):
        yield _InputGradient(model, setting)


@contextmanager
def gradcam(model: Model, setting: MethodSettings) -> Iterator[Attributor]:
    """Grad-CAM: max(0, sum_c w_c F_pc) with w_c = mean_p dy/dF_pc, where patches p of F are what the connector reads.

    These features are the output of the tower's last block that is used, its class token left out; of a connector that
    reads several blocks, all of them. Selvaraju et al., ICCV 2017. Costs one forward pass, and for each target one
    backward pass through decoder and connector.
    """
    with _borrowed(model):
        yield _GradCam(model, setting)


@contextmanager
def _borrowed(model: Model) -> Iterator[None]:
    patching.require_gradients(model.model)
    with patching.frozen_parameters(model.model), patching.eval_mode(model.model):
        yield


class _Leaf:
    """A tensor on its way, which becomes the root of the graph unless it is in one."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def take(self, tensor: Tensor) -> Tensor:
        self.value = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        return self.value


class _InputGradient:
    def __init__(self, model: Model, setting: MethodSettings) -> None:
        self.model, self.setting = model, setting
        self.embeddings, self.pixels = _Leaf(), _Leaf()
        self.logits: Tensor | None = None
        self.ids: Tensor | None = None

    def forward(self, prepared: Prepared, keep: int, *, use_cache: bool) -> Any:
        self.logits, self.ids = None, prepared.ids  # the graph of an earlier pass goes before the next one grows
        given: dict[str, Any] = dict(prepared.inputs)
        if self.setting.scope == "full":
            given["pixel_values"] = self.pixels.take(given["pixel_values"])
        with torch.enable_grad(), into_decoder(self.model, self.embeddings.take):
            output = self.model.model(**given, logits_to_keep=keep, use_cache=use_cache)
        self.logits = output.logits
        return output

    def read(self, round_: TargetBatch) -> Attribution:
        assert self.logits is not None
        sources = [leaf.value for leaf in (self.embeddings, self.pixels) if leaf.value is not None]
        with torch.enable_grad():
            target = round_.scalars(self.logits).sum()
        found = torch.autograd.grad(target, sources, retain_graph=not round_.last)
        rows, *pixels = (
            source.detach().float() * gradient.float() for source, gradient in zip(sources, found, strict=True)
        )
        if not pixels:
            return Attribution(rows.sum(-1))
        assert self.ids is not None
        patches = self.setting.blocks(pixels[0].sum(1)).sum((2, 4)).flatten(1)
        return Attribution(rows.sum(-1), on_image_tokens(self.ids, self.model.image_token_id, patches))


class _GradCam:
    def __init__(self, model: Model, setting: MethodSettings) -> None:
        self.model, self.setting = model, setting
        self.features = _Leaf()
        self.logits: Tensor | None = None
        self.ids: Tensor | None = None

    def forward(self, prepared: Prepared, keep: int, *, use_cache: bool) -> Any:
        self.logits = None
        with torch.enable_grad(), into_connector(self.model, self.features.take):
            output = self.model.model(**prepared.inputs, logits_to_keep=keep, use_cache=use_cache)
        self.logits, self.ids = output.logits, prepared.ids
        return output

    def read(self, round_: TargetBatch) -> Attribution:
        assert self.logits is not None
        assert self.features.value is not None
        assert self.ids is not None
        with torch.enable_grad():
            target = round_.scalars(self.logits).sum()
        (gradient,) = torch.autograd.grad(target, [self.features.value], retain_graph=not round_.last)
        patches = slice(self.features.value.shape[1] - self.setting.patches, None)
        features, slopes = self.features.value.detach()[:, patches].float(), gradient[:, patches].float()
        cam = (slopes.mean(1, keepdim=True) * features).sum(-1).clamp(min=0)
        return Attribution(on_image_tokens(self.ids, self.model.image_token_id, cam))

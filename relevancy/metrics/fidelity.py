"""Infidelity and max-sensitivity through captum (the extra `captum`)."""

from __future__ import annotations

__all__ = ["infidelity", "max_sensitivity"]

from typing import Any

import numpy as np
import torch
from torch import Tensor

from relevancy.errors import RelevancyError
from relevancy.images import Source, open_picture
from relevancy.metrics.explainers import Explainer
from relevancy.metrics.teacher_forcing import Replacement, TeacherForcing
from relevancy.models.model import Model

RADIUS = 0.02  # of the range of colors, captum's own default


def infidelity(
    sight: TeacherForcing,
    image_map: np.ndarray,
    *,
    samples: int = 64,
    share: float = 0.25,
    replacement: Replacement = "grey",
    seed: int = 0,
) -> float:
    """How far the map's sum over hidden patches lies from what hiding them takes off the token's probability, squared.

    Mean over `samples` random sets of a `share` of the patches; the map is scaled to fit best, so that maps of any unit
    compare. Lower is better. Source: Yeh et al., NeurIPS 2019, through captum.metrics.infidelity.
    """
    metrics = _captum()
    rng = np.random.default_rng(seed)
    count = max(1, round(share * int(sight.seen.sum())))
    visible = np.flatnonzero(sight.seen)
    whole = torch.ones(1, sight.patches)

    def hide(inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.zeros_like(inputs)
        for row in hidden:
            row[torch.from_numpy(rng.choice(visible, count, replace=False))] = 1
        return hidden, inputs - hidden

    def probability(shown: Tensor) -> Tensor:
        return torch.from_numpy(sight.hiding(shown.numpy() < 0.5, replacement).probability).float()

    attributions = torch.from_numpy(np.ascontiguousarray(image_map, np.float32)).reshape(1, -1)
    found = metrics.infidelity(
        probability,
        hide,
        whole,
        attributions,
        n_perturb_samples=samples,
        max_examples_per_batch=samples,
        normalize=True,
    )
    return float(found[0])


def max_sensitivity(
    explainer: Explainer,
    model: Model,
    image: Source,
    question: str,
    answer: str | None = None,
    *,
    radius: float = RADIUS,
    samples: int = 10,
) -> float:
    """The largest relative change of the map under uniform noise of at most `radius` on the picture's colors.

    Lower is better; draws from torch's own generator. Source: Yeh et al., NeurIPS 2019, through
    captum.metrics.sensitivity_max.
    """
    metrics = _captum()
    pixels = np.asarray(open_picture(image).image, np.float32) / 255

    def maps(inputs: tuple[Tensor]) -> tuple[Tensor]:
        colors = (inputs[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        answers = None if answer is None else [answer] * len(colors)
        results = explainer(model, list(colors), [question] * len(colors), answers)
        return (torch.from_numpy(np.stack([result.image_map for result in results])),)

    found = metrics.sensitivity_max(
        maps, torch.from_numpy(pixels)[None], perturb_radius=radius, n_perturb_samples=samples
    )
    return float(found[0])


def _captum() -> Any:
    try:
        import captum.metrics
    except ImportError as error:
        raise RelevancyError("This metric needs captum: pip install 'relevancy[captum]'.") from error
    return captum.metrics

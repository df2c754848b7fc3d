"""What is found out about a model before anyone relies on its maps: where its image tokens lie, and what agrees."""

from __future__ import annotations

__all__ = ["ModelSurvey", "Sighting", "survey"]

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from relevancy.core.tape import record
from relevancy.errors import RelevancyError
from relevancy.families.rules import RULES, Rule, layout_of
from relevancy.families.views import Layout
from relevancy.models.model import Model

SIZES = ((9, 7), (61, 200), (230, 57), (640, 480), (101, 99))
"""Tiny, tall, wide, large and odd pictures, (width, height)."""

AGREES = 0.5
"""Pixels between the middles of a token's place by rule and by measurement that are still the same place."""


@dataclass(frozen=True, eq=False)
class Sighting:
    """One size of a picture: where its image tokens lie as measured, or why that could not be measured.

    away: pixels between the measured middle of a token and that by the family's rule, of the worst token; None without
    a rule.
    """

    size: tuple[int, int]
    seconds: float
    layout: Layout | None = None
    refused: str | None = None
    away: float | None = None


@dataclass(frozen=True, eq=False)
class ModelSurvey:
    """What was found out about a model.

    rule: the family's own, by name; None where every layout is measured. same: rules of other families that lay tokens
    as was measured at every size. towers: shape of the row that scope "full" takes through the tower; None where it is
    refused, for the reason `full_refused`.
    """

    family: str
    processor: str
    sightings: tuple[Sighting, ...]
    rule: str | None
    same: tuple[str, ...]
    towers: tuple[int, ...] | None
    full_refused: str | None

    @property
    def row(self) -> str | None:
        """What to add to `relevancy.families.rules.RULES` for this family, where a rule agrees."""
        name = self.same[0] if self.same and self.rule is None else None
        return None if name is None else f'"{self.family}": ("{self.processor}", {name}),'


def survey(model: Model, sizes: Sequence[tuple[int, int]] = SIZES) -> ModelSurvey:
    """Measure where a model's image tokens lie in pictures of some sizes, and what else agrees with it.

    Raises RelevancyError for a model of words alone.
    """
    if not model.takes_pictures:
        raise RelevancyError(
            f"{model.name} takes no pictures, so there is nothing to measure: relevancy explain asks it"
        )
    config, processor = model.model.config, model.processor
    sightings = tuple(_sighted(model, *size) for size in sizes)
    own = RULES.get(config.model_type)
    rules = {rule.__name__: rule for _, rule in RULES.values() if own is None or rule is not own[1]}
    same = tuple(name for name, rule in rules.items() if _agrees(model, rule, sightings))
    towers, refused = _full(model)
    known = layout_of(config, processor, *sizes[0]) is not None
    return ModelSurvey(
        config.model_type,
        type(processor.image_processor).__name__.removesuffix("Pil").removesuffix("Fast"),
        sightings,
        own[1].__name__ if own is not None and known else "grid_for" if model.patchwise else None,
        same,
        towers,
        refused,
    )


def _sighted(model: Model, width: int, height: int) -> Sighting:
    begun = time.perf_counter()
    try:
        measured = model.measured_layout(width, height)
        seconds = time.perf_counter() - begun
        own = model.layout(width, height)
    except RelevancyError as error:
        return Sighting((width, height), time.perf_counter() - begun, refused=str(error))
    return Sighting((width, height), seconds, measured, away=None if own is measured else distance(own, measured))


def distance(one: Layout, other: Layout) -> float:
    """Pixels between the middles of a token's places in two layouts, of the worst token that has one in both.

    Infinite where they have not the same number of tokens, or have none in common.
    """
    if one.count != other.count:
        return float("inf")
    apart = abs(one.middles - other.middles).max(1)
    both = apart[one.placed & other.placed]
    return float(both.max()) if len(both) else float("inf")


def _agrees(model: Model, rule: Rule, sightings: Sequence[Sighting]) -> bool:
    measured = [sighting for sighting in sightings if sighting.layout is not None]
    try:
        return bool(measured) and all(
            (found := rule(model.model.config, model.processor, *sighting.size)) is not None
            and sighting.layout is not None
            and distance(found, sighting.layout) <= AGREES
            for sighting in measured
        )
    except Exception:  # a rule of another family asks for settings that this one has not, in whatever way it likes
        return False


def _full(model: Model) -> tuple[tuple[int, ...] | None, str | None]:
    try:
        inputs = model.prepare([Image.new("RGB", (64, 64), "gray")], ["?"])
        with record(model.model, "full") as tape:
            logits = model.model(**inputs, logits_to_keep=1).logits[:, -1].float()
            vision = tape.relevance(torch.logsumexp(logits, -1)).vision
    except Exception as error:  # whatever this model or its processor says against a plain grey picture
        return None, str(error)
    assert vision is not None
    return tuple(vision.shape), None

"""Is a map confirmed? Maps of any origin, judged by the same attention knockouts; and whether that verdict is right."""

from __future__ import annotations

__all__ = ["confirmation", "evidence_of"]

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from relevancy.core.targets import Choice
from relevancy.explanations.evidence import BLIND_TV, Evidence
from relevancy.explanations.knockouts import MapInQuestion, evidence_for
from relevancy.images import Picture
from relevancy.metrics.teacher_forcing import GivenAnswer
from relevancy.models.generation import Prefill
from relevancy.models.model import Model
from relevancy.models.prepared import Example
from relevancy.models.session import Session

_RIGHT = 0.5  # of a map's highest patches: so many on the truth


def evidence_of(
    model: Model, picture: Image.Image, question: str, said: GivenAnswer, maps: Sequence[np.ndarray]
) -> list[Evidence | None]:
    """The evidence for maps (rows, cols) of what is explained of one answer, whatever made them.

    One forward pass serves all maps, and so does the pass without the picture: `blind_tv` is the same for each.
    """
    stop = said.position + said.length
    choice = Choice.spanning(said.position, said.followed) if said.length > 1 else Choice(said.position, said.token)
    with Session(model) as session:
        prepared = session.prepare([Example((Picture(picture),), question)], [said.ids[: stop - 1]], features=True)
        with torch.no_grad():
            output = model.model(**prepared.inputs, logits_to_keep=said.length, use_cache=True)
        logits = output.logits[0] if choice.span else output.logits[0, -1]
        length, (layouts,) = prepared.ids.shape[1], prepared.layouts
        asked = [MapInQuestion(0, length, choice, logits, [one], layouts) for one in maps]
        return evidence_for(model, prepared, Prefill.of(prepared, output), asked)


def confirmation(evidence: Evidence | None, pointing: float = math.nan) -> dict[str, float]:
    """Whether a map is confirmed, 1 or 0, and where truth is known its part in the verdict's precision and recall.

    pointing: the share of the map's highest patches on the truth; with half of them there the map is right.
    precision: of a confirmed map, whether it is right. recall: of a right map of an answer that needs the picture
    (`BLIND_TV`), whether it is confirmed. NaN elsewhere, so that the means over maps are precision and recall.
    """
    if evidence is None:
        return dict.fromkeys(("confirmed", "precision", "recall"), math.nan)
    confirmed, right = float(evidence.verdict == "confirmed"), float(pointing >= _RIGHT)
    known = not math.isnan(pointing)
    return {
        "confirmed": confirmed,
        "precision": right if known and confirmed else math.nan,
        "recall": confirmed if known and right and evidence.blind_tv >= BLIND_TV else math.nan,
    }

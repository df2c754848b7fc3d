"""Is a map confirmed? Maps of any origin, judged by the same attention knockouts; and whether that verdict is right."""

from __future__ import annotations

__all__ = ["confirmation", "evidence_of"]

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from relevancy.core.targets import Choice
from relevancy.explanations.evidence import BLIND_TV, Evidence
from relevancy.explanations.knockouts import MapInQuestion, evidence_for
from relevancy.images import Picture
from relevancy.metrics.teacher_forcing import GivenAnswer
from relevancy.models.model import Model
from relevancy.models.prepared import Example
from relevancy.models.session import Session

_RIGHT = 0.5  # of a map's highest patches: so many on the truth


def evidence_of(
    model: Model, picture: Image.Image, question: str, said: GivenAnswer, maps: Sequence[np.ndarray]
) -> list[Evidence | None]:
    """The evidence for maps (rows, cols) of one answer's token, whatever made them; None for several tokens together.

    One forward pass serves all maps, and so does the pass without the picture: `blind_tv` is the same for each.
    """
    if said.length > 1:
        return [None] * len(maps)
    with Session(model) as session:
        prepared = session.prepare([Example((Picture(picture),), question)], [said.ids[: said.position]], features=True)
        prefill = session.prefill(prepared)
        choice, length = Choice(said.position, said.token), prepared.ids.shape[1]
        asked = [MapInQuestion(0, length, choice, prefill.logits[0], [one], prepared.layouts[0]) for one in maps]
        return evidence_for(model, prepared, prefill, asked)


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

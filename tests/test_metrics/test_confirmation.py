"""Maps judged by knockouts, whatever made them, and what that says of the verdict."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny

from relevancy import explain
from relevancy.explanations.evidence import Evidence
from relevancy.metrics.confirmation import confirmation, evidence_of
from relevancy.metrics.teacher_forcing import GivenAnswer
from relevancy.models.model import wrap

QUESTION = "Is the duck floating? (a) Yes (b) No"
CONFIRMED = Evidence(0.9, 0.2, 0.3, 0.3, 0.9, blind_tv=0.7, best_tv=0.6, peak_tv=0.6, elsewhere_tv=0.1)
UNCONFIRMED = replace(CONFIRMED, best_tv=0.1, peak_tv=0.2)
WORDS_ALONE = replace(CONFIRMED, blind_tv=0.09)


@pytest.mark.parametrize("name", ["gemma-clip", "paligemma", "gemma2-clip"])
@pytest.mark.parametrize("target", [0, 1])
def test_it_is_the_evidence_that_explain_gives(name, target):
    """Whether the prefix is shared or whole passes are read, in a batch with other maps."""
    model = wrap(*tiny.FAMILIES[name](), name="tiny")
    picture = tiny.picture()
    said = GivenAnswer.words(model, "Yes duck", target)
    own = explain(model, picture, QUESTION, answer="Yes duck", target=target)
    other = np.random.default_rng(0).random(own.image_map.shape).astype(np.float32)
    empty = np.zeros_like(other)
    first, second, third = evidence_of(model, picture, QUESTION, said, [own.image_map, other, empty])
    for field in ("probability", "blind", "best", "peak", "elsewhere", "blind_tv", "best_tv", "peak_tv"):
        assert getattr(first, field) == pytest.approx(getattr(own.evidence, field), abs=1e-5), field
    assert first.blind_tv == pytest.approx(second.blind_tv, abs=1e-6)
    assert first.blind_tv == pytest.approx(third.blind_tv, abs=1e-6)
    assert first.best != second.best
    assert math.isnan(third.best)


@pytest.mark.parametrize(
    ("evidence", "pointing", "expected"),
    [
        (CONFIRMED, 1.0, (1, 1, 1)),
        (CONFIRMED, 0.5, (1, 1, 1)),
        (CONFIRMED, 0.49, (1, 0, math.nan)),
        (UNCONFIRMED, 1.0, (0, math.nan, 0)),
        (UNCONFIRMED, 0.0, (0, math.nan, math.nan)),
        (WORDS_ALONE, 1.0, (0, math.nan, math.nan)),  # the answer does not need the picture
        (CONFIRMED, math.nan, (1, math.nan, math.nan)),
        (UNCONFIRMED, math.nan, (0, math.nan, math.nan)),
        (None, 1.0, (math.nan,) * 3),
    ],
)
def test_parts_in_precision_and_recall(evidence, pointing, expected):
    found = confirmation(evidence, pointing)
    assert tuple(found) == ("confirmed", "precision", "recall")
    assert tuple(found.values()) == pytest.approx(expected, nan_ok=True)

"""What a verdict is worth: hand-worked cases, and a slow reference that counts one by one."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relevancy.explanations.evidence import BLIND_TV, LEAD_TV, Evidence
from relevancy.metrics.evidence import NUMBERS, JudgedMap, areas_of_numbers, concentration, verdict_score

PARTS = ("blind", "best", "peak", "elsewhere")


def judged(picture, right, blind_tv, best_tv, peak_tv=0.0, elsewhere_tv=0.0, share=0.5, focus=0.5, after=(0.5,) * 4):
    evidence = Evidence(0.9, *after, blind_tv, best_tv, peak_tv, elsewhere_tv)
    return JudgedMap(picture, right, share, focus, evidence)


HAND = [
    judged("a", True, 0.9, 0.8, share=0.9),  # confirmed, right
    judged("a", True, 0.9, 0.5, 0.1, 0.2, share=0.6),  # lead 0.1: unconfirmed, though right
    judged("b", True, 0.05, 0.8, share=0.1),  # words alone: no part of recall
    judged("b", False, 0.5, 0.3, share=0.6),  # confirmed at the bound, wrong
    judged("c", False, 0.5, 0.1, share=0.3),  # unconfirmed
    judged("c", True, 0.1, 0.4, 0.4, share=0.8),  # needs the picture at the bound; confirmed, right
    judged("d", False, 0.0, 0.0, share=0.2),  # words alone
]


def test_shares_by_hand():
    found = verdict_score(HAND)
    assert found.right.value == pytest.approx(4 / 7)
    assert found.words_alone.value == pytest.approx(2 / 7)
    assert found.confirmed.value == pytest.approx(3 / 7)
    assert (found.precision.value, found.precision.rows) == (pytest.approx(2 / 3), 3)
    assert (found.recall.value, found.recall.rows) == (pytest.approx(2 / 3), 3)
    assert (found.false_alarms.value, found.false_alarms.rows) == (pytest.approx(1 / 3), 3)
    assert (found.right.pictures, found.precision.pictures) == (4, 3)


def test_areas_by_hand():
    found = areas_of_numbers(HAND)
    # right .9 .6 .1 .8 against wrong .6 .3 .2: 3 + 2.5 + 0 + 3 of 12
    assert found["image share"].value == pytest.approx(8.5 / 12)
    # right: leads .4, .1, .4, .4 against .15, .05, 0
    assert found["lead_tv"].value == pytest.approx((3 + 2 + 3 + 3) / 12)
    assert found["concentration"].value == 0.5  # all alike
    assert found["image share"].rows == 7


def test_nothing_to_count_has_no_value():
    none = verdict_score([judged("a", False, 0.0, 0.0)])
    assert none.precision.value is none.recall.value is None
    assert none.false_alarms.value == 0
    assert areas_of_numbers([judged("a", False, 0.0, 0.0)])["lead_tv"].value is None


def test_an_empty_map_is_never_confirmed_and_has_no_area():
    empty = judged("e", False, 0.9, math.nan, math.nan, math.nan, after=(0.1, math.nan, math.nan, math.nan))
    found = verdict_score([*HAND, empty])
    assert found.confirmed.value == pytest.approx(3 / 8)
    assert found.false_alarms.value == pytest.approx(1 / 4)
    areas = areas_of_numbers([*HAND, empty])
    assert areas["lead_tv"] == areas_of_numbers(HAND)["lead_tv"]
    assert areas["blind_tv"].rows == 8


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_against_counting_one_by_one(seed):
    rng = np.random.default_rng(seed)
    maps = []
    for _ in range(int(rng.integers(2, 30))):
        changed, after = rng.choice([0.0, 0.05, 0.1, 0.2, 0.4, 0.9], 4), tuple(rng.choice([0.0, 0.3, 0.9], 4))
        maps.append(judged(int(rng.integers(6)), bool(rng.integers(2)), *changed, *rng.random(2), after=after))
    counts = dict.fromkeys(("n", "right", "alone", "confirmed", "both", "needed", "told", "wrong", "alarms"), 0)
    for one in maps:
        own = one.evidence
        alone = own.blind_tv < BLIND_TV
        confirmed = not alone and (own.best_tv + own.peak_tv) / 2 - own.elsewhere_tv >= LEAD_TV
        confirmed = confirmed and own.peak_tv >= own.elsewhere_tv
        counts["n"] += 1
        counts["right"] += one.right
        counts["alone"] += alone
        counts["confirmed"] += confirmed
        counts["both"] += confirmed and one.right
        counts["needed"] += one.right and not alone
        counts["told"] += one.right and not alone and confirmed
        counts["wrong"] += not one.right
        counts["alarms"] += not one.right and confirmed
    found = verdict_score(maps)

    def share(some, of):
        return counts[some] / counts[of] if counts[of] else None

    assert found.right.value == pytest.approx(share("right", "n"))
    assert found.words_alone.value == pytest.approx(share("alone", "n"))
    assert found.confirmed.value == pytest.approx(share("confirmed", "n"))
    assert found.precision.value == pytest.approx(share("both", "confirmed"))
    assert found.recall.value == pytest.approx(share("told", "needed"))
    assert found.false_alarms.value == pytest.approx(share("alarms", "wrong"))
    values = {
        "image share": lambda one: one.share,
        "concentration": lambda one: one.concentration,
        "lead_tv": lambda one: (one.evidence.best_tv + one.evidence.peak_tv) / 2 - one.evidence.elsewhere_tv,
    }
    for part in PARTS:
        values[f"{part}_tv"] = lambda one, part=part: getattr(one.evidence, f"{part}_tv")
        values[f"{part} drop"] = lambda one, part=part: 0.9 - getattr(one.evidence, part)
    areas = areas_of_numbers(maps)
    assert set(areas) == set(values) == set(NUMBERS)
    for name, value in values.items():
        pairs = list(product([one for one in maps if one.right], [one for one in maps if not one.right]))
        wins = sum((value(a) > value(b)) + (value(a) == value(b)) / 2 for a, b in pairs)
        assert areas[name].value == pytest.approx(wins / len(pairs) if pairs else None)


def test_maps_of_one_picture_are_drawn_together():
    rng = np.random.default_rng(0)
    maps = [judged(number, bool(rng.integers(2)), 0.9, rng.random()) for number in range(60)]
    often = [one for one in maps for _ in range(9)]
    for one, other in (
        (verdict_score(maps).precision, verdict_score(often).precision),
        (areas_of_numbers(maps)["best_tv"], areas_of_numbers(often)["best_tv"]),
    ):
        assert one.value == pytest.approx(other.value)
        assert other.high - other.low == pytest.approx(one.high - one.low, rel=0.05)


def test_concentration_by_hand():
    assert concentration(np.eye(4)) == pytest.approx(2 / 4)  # the best 2 of 16 hold 2 of 4
    assert concentration(np.array([[3.0, -5.0, 1.0]])) == pytest.approx(3 / 4)  # at least one patch; positive mass
    assert math.isnan(concentration(np.zeros((3, 3))))
    assert concentration(np.ones((10, 10))) == pytest.approx(13 / 100)

"""Verdicts from numbers that are given by hand."""

import numpy as np
import pytest

from relevancy.checking.rows import Row
from relevancy.checking.store import ALONE, RANDOM, RANDOMISED, SCORES, Store
from relevancy.checking.verdicts import BETTER, DOUBT, TRUST, UNDECIDED, summarise

LAST = f"{RANDOMISED} to tower"
GOOD = {"gain": 0.3, LAST: 0.1, "question": 0.4, "picture": 0.3, "noise": 0.95, ALONE: 1.0}


def verdict(tmp_path, rows=40, **changes):
    spread, points = changes.pop("spread", 0.05), changes.pop("points", None)
    numbers = GOOD | {key.replace("last", LAST): value for key, value in changes.items()}
    rng = np.random.default_rng(0)
    store = Store(tmp_path, {})
    asked = [Row(str(number), str(number), "?", lambda: "") for number in range(rows)]
    for row in asked:
        for name, gain in (("mine", numbers["gain"]), (RANDOM, 0.0)):
            values = {"faithfulness": gain + rng.normal(0, spread), "flips": float(gain > 0)}
            if points is not None:
                values |= {"pointing": float(rng.uniform() < (points if name == "mine" else 0.1)), "chance": 0.1}
            store.add([((row.key, name, SCORES), values)])
        for part in (LAST, "question", "picture", "noise", ALONE):
            near = numbers[part] + rng.normal(0, 0.02)
            store.add([((row.key, "mine", part), {"similarity": near, "similarity_abs": near})])
    return summarise(store, asked, ["mine"])[0].verdict


def test_all_is_well(tmp_path):
    found = verdict(tmp_path)
    assert found.word == TRUST
    assert str(found).endswith("depends on the question; depends on the picture: trust")
    assert "better than a random map by 0.2" in str(found) or "better than a random map by 0.3" in str(found)
    assert "hiding its top flips 100% of answers, a random region 0%" in str(found)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gain": -0.1}, "no better than a random map"),
        ({"last": 0.8}, "fails the randomisation test"),
        ({"question": 0.95}, "does not depend on the question"),
        ({"picture": 0.97}, "does not depend on the picture"),
        ({"gain": 0.01, "spread": 0.3}, "not shown to be better than a random map on 40 rows"),
        ({"points": 0.1}, "does not point at the truth more often than a random map"),
        ({"alone": 0.2}, "as if maps were mixed up"),
        ({"noise": 0.4}, "does not depend on the question"),
    ],
)
def test_one_fault_is_enough(tmp_path, change, told):
    found = verdict(tmp_path, **change)
    assert found.word == DOUBT
    assert told in str(found)


def test_truth_is_heard_where_it_is_known(tmp_path):
    found = verdict(tmp_path, points=0.8)
    assert found.word == TRUST
    assert "points at the truth more often than a random map by 0." in str(found)


def test_better_than_noise_is_not_trusted(tmp_path):
    """Peaks on the truth in a third of the maps where chance is a tenth; a small gain; ten rows."""
    found = verdict(tmp_path / "misses", rows=200, points=0.35)
    assert found.word == BETTER
    assert "trust asks for more: peaks on the truth in 50% for sure, here 2" in str(found)
    small = verdict(tmp_path / "small", gain=0.1)
    assert (small.word, small.reasons[-1][:45]) == (BETTER, "trust asks for more: a gain of 0.2 for sure, ")
    few = verdict(tmp_path / "few", rows=10)
    assert few.word == BETTER
    assert str(few).endswith("trust asks for more: 30 rows, here 10: better than chance")


@pytest.mark.parametrize(
    "change", [{}, {"gain": -0.1}, {"last": 0.8}, {"question": 0.95}, {"points": 0.0}, {"alone": 0.2}]
)
def test_nine_rows_say_neither_good_nor_bad(tmp_path, change):
    found = verdict(tmp_path, rows=9, **change)
    assert found.word == UNDECIDED
    assert "cannot be told from 9 rows of 9 pictures, at least 10 are needed" in str(found)


def test_few_rows_decide_nothing(tmp_path):
    assert verdict(tmp_path, rows=3).word == UNDECIDED
    assert verdict(tmp_path / "true", rows=4, points=0.0).word == UNDECIDED

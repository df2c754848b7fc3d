"""Verdicts from numbers that are given by hand."""

import numpy as np
import pytest

from relevancy.checking.rows import CheckRow
from relevancy.checking.store import ALONE, BLIND, CENTRE, RANDOM, RANDOMISED, SCORES, Store
from relevancy.checking.tables import columns, markdown
from relevancy.checking.verdicts import BETTER, DOUBT, TRUST, UNDECIDED, CheckFindings, of_answers, summarise

LAST = f"{RANDOMISED} to tower"
GOOD = {"gain": 0.3, LAST: 0.1, "question": 0.4, "picture": 0.3, "noise": 0.95, ALONE: 1.0}


def verdict(tmp_path, rows=40, **changes):
    spread, points = changes.pop("spread", 0.05), changes.pop("points", None)
    numbers = GOOD | {key.replace("last", LAST): value for key, value in changes.items()}
    rng = np.random.default_rng(0)
    store = Store(tmp_path, {})
    asked = [CheckRow(str(number), str(number), "?", lambda: "") for number in range(rows)]
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


def stored(tmp_path, *found):
    """A store of (row, method, part, numbers), and the rows in it."""
    store = Store(tmp_path, {})
    for row, name, part, values in found:
        store.add([((row, name, part), values)])
    return store, [CheckRow(row, row, "?", lambda: "") for row in dict.fromkeys(row for row, *_ in found)]


def test_differences_are_taken_row_by_row(tmp_path):
    """Rows that differ much among themselves, and a method that is better by the same bit on each.

    The random map's numbers lie there in another order, and one row has none: it has no difference.
    """
    spread = {str(row): 10.0 * row for row in range(12)}
    store, rows = stored(
        tmp_path,
        *(
            (row, "mine", SCORES, {"faithfulness": value + 0.25 + 0.01 * (-1) ** int(row), "flips": 1.0})
            for row, value in spread.items()
        ),
        ("alone", "mine", SCORES, {"faithfulness": 1e6, "flips": 1.0}),
        *((row, RANDOM, SCORES, {"faithfulness": value, "flips": 0.0}) for row, value in reversed(spread.items())),
    )
    mine, noise = summarise(store, rows, ["mine"])
    gain = mine.against_random["faithfulness"]
    assert gain.mean == pytest.approx(0.25)
    assert 0.23 < gain.low < 0.25 < gain.high < 0.27
    assert gain.rows == 12
    assert -0.25 < noise.against_first["faithfulness"].high < -0.23
    assert "better than a random map" in str(mine.verdict)


def test_effects_are_taken_row_by_row(tmp_path):
    """What another question changes beyond what noise changes, on maps some of which noise changes much."""
    found = []
    for row in range(12):
        found += [
            (str(row), "mine", SCORES, {"faithfulness": 1.0, "flips": 1.0}),
            (str(row), RANDOM, SCORES, {"faithfulness": 0.0, "flips": 0.0}),
            (str(row), "mine", "noise", {"similarity": row / 12}),
        ]
    less = {row: 0.06 + 0.01 * (-1) ** row for row in range(12)}
    found += [(str(row), "mine", "question", {"similarity": row / 12 - less[row]}) for row in reversed(range(12))]
    effect = summarise(*stored(tmp_path, *found), ["mine"])[0].numbers["question effect"]
    assert effect.mean == pytest.approx(0.06)
    assert 0.04 < effect.low < 0.06 < effect.high < 0.08


@pytest.mark.parametrize(("stages", "passes"), [((0.9, 0.7, 0.1), True), ((0.1, 0.3, 0.9), False)])
def test_a_cascade_is_judged_by_its_end_where_every_weight_is_random(tmp_path, stages, passes):
    found = []
    for row in range(40):
        found += [
            (str(row), "mine", SCORES, {"faithfulness": 1.0, "flips": 1.0}),
            (str(row), RANDOM, SCORES, {"faithfulness": 0.0, "flips": 0.0}),
        ]
        for name, value in zip(("decoder 2", "decoder 0", "tower"), stages, strict=True):
            found.append((str(row), "mine", f"{RANDOMISED} to {name}", {"similarity": 0.0, "similarity_abs": value}))
    told = str(summarise(*stored(tmp_path, *found), ["mine"])[0].verdict)
    assert ("passes the randomisation test" if passes else "fails the randomisation test") in told


def judged(tmp_path, **numbers):
    """The summaries of `mine` and of the random map, from (own, random) numbers of each row."""
    found, rows = [], len(next(iter(numbers.values()))[0])
    base = {"faithfulness": ([1.0] * rows, [0.0] * rows), "flips": ([1.0] * rows, [0.0] * rows)}
    for row in range(rows):
        for place, name in enumerate(("mine", RANDOM)):
            values = {number: float(both[place][row]) for number, both in (base | numbers).items()}
            found.append((str(row), name, SCORES, values))
    return summarise(*stored(tmp_path, *found), ["mine"])


def test_noise_is_held_against_what_chance_gives(tmp_path):
    """The mask's share for pointing, zero for NSS."""
    shifts = np.linspace(-0.2, 0.2, 40)
    _, fair = judged(
        tmp_path / "fair", chance=([0.3] * 40,) * 2, pointing=([1] * 40, 0.3 + shifts), nss=([1] * 40, shifts)
    )
    assert "at chance, by its interval, in 2 of 2 numbers whose chance is known" in str(fair.verdict)
    _, off = judged(
        tmp_path / "off", chance=([0.3] * 40,) * 2, pointing=([1] * 40, 1.3 + shifts), nss=([1] * 40, shifts - 1)
    )
    assert "in 0 of 2 numbers" in str(off.verdict)
    assert "in pointing" in str(off.verdict)
    assert "in nss" in str(off.verdict)
    _, unknown = judged(tmp_path / "unknown", entropy=([1] * 4, [1] * 4))
    assert "chance" not in str(unknown.verdict)


def test_no_gain_at_all_is_no_gain(tmp_path):
    same = [1.0, 0.0] * 20
    mine, _ = judged(tmp_path, chance=([0.3] * 40,) * 2, pointing=(same, same))
    assert "does not point at the truth more often than a random map" in str(mine.verdict)


@pytest.mark.parametrize(("spread", "word"), [(0.05, True), (1.0, False)])
def test_what_an_interval_leaves_open_is_not_decided(tmp_path, spread, word):
    """Twelve rows whose mean passes: narrow, the randomisation test is passed; wide, it may not be."""
    found = []
    for row, shift in enumerate(np.linspace(-spread, spread, 12)):
        found += [
            (str(row), "mine", SCORES, {"faithfulness": 1.0, "flips": 1.0}),
            (str(row), RANDOM, SCORES, {"faithfulness": 0.0, "flips": 0.0}),
            (str(row), "mine", LAST, {"similarity_abs": 0.3 + shift}),
            *((str(row), "mine", part, {"similarity": near}) for part, near in (("noise", 0.9), ("question", 0.1))),
            (str(row), "mine", "picture", {"similarity": 0.1}),
            (str(row), "mine", ALONE, {"similarity": 0.8 + shift}),
        ]
    verdict = summarise(*stored(tmp_path, *found), ["mine"])[0].verdict
    if word:
        assert verdict.word == DOUBT  # explained alone, its maps are surely others
        assert "as if maps were mixed up" in str(verdict)
    else:
        assert verdict.word == UNDECIDED
        assert "mixed up" not in str(verdict)


def test_a_method_that_confirms_nothing_still_has_its_columns_beside_one_that_does(tmp_path):
    """The first has no confirmed map, and so no precision: the table has the column for the second."""
    found = []
    for row in range(12):
        for name, precision in (("mine", float("nan")), (RANDOM, row % 2)):
            values = {"faithfulness": row / 12, "flips": 1.0, "precision": precision}
            found.append((str(row), name, SCORES, values))
    store, rows = stored(tmp_path, *found)
    summaries = summarise(store, rows, ["mine"])
    assert "precision" in columns(summaries)
    table = markdown(CheckFindings("mine: 12 rows", summaries))
    assert "| mine | – |" in table
    assert "| random | 0.500 [" in table


def test_answers_are_told_once_whatever_the_methods(tmp_path):
    """Two rows of one picture, and eleven more: a cluster bootstrap over 12 pictures."""
    found = [(str(row), "", BLIND, {"blind_tv": row / 100, "probability": 0.9, "blind": row / 50}) for row in range(13)]
    store, _ = stored(tmp_path, *found)
    rows = [CheckRow(str(row), str(max(row, 1)), "?", lambda: "") for row in range(13)]
    numbers = of_answers(store, rows)
    assert numbers["blind_tv"].mean == pytest.approx(0.06)
    assert (numbers["blind_tv"].rows, numbers["blind_tv"].pictures) == (13, 12)
    assert numbers["words_alone"].mean == pytest.approx(10 / 13)  # below 0.1, at which an answer needs the picture
    assert numbers["probability"].mean == pytest.approx(0.9)
    assert numbers["blind"].mean == pytest.approx(0.12)


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
    assert str(few).endswith("trust asks for more: 20 rows, here 10: better than chance")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"rows": 19, "spread": 0.01}, BETTER),
        ({"rows": 20, "spread": 0.01}, TRUST),
        ({"gain": 0.19, "spread": 0.01}, BETTER),
        ({"gain": 0.21, "spread": 0.01}, TRUST),
        ({"gain": 0.25, "spread": 0.3}, BETTER),  # in the mean, not for sure
        ({"points": 0.6}, BETTER),
        ({"points": 0.75, "rows": 100}, TRUST),
        ({"points": 0.9, "gain": 0.15, "spread": 0.01}, BETTER),
    ],
)
def test_trust_asks_for_gain_truth_and_rows_by_the_low_ends(tmp_path, change, word):
    assert verdict(tmp_path, **change).word == word


@pytest.mark.parametrize(
    ("ahead", "spread", "word"), [(0.25, 0.02, TRUST), (0.08, 0.4, BETTER), (0.0, 0.02, BETTER), (-0.1, 0.02, BETTER)]
)
def test_what_is_not_ahead_of_a_blob_for_sure_is_not_trusted(tmp_path, ahead, spread, word):
    """A method that is better than noise by 0.3, and a blob that is by 0.3 less what the method is ahead."""
    verdict(tmp_path, points=0.8)
    store = Store(tmp_path, {})
    rng = np.random.default_rng(1)
    rows = list(dict.fromkeys(row for row, _, _ in store.found))
    for row in rows:
        mine = store.found[row, "mine", SCORES]
        values = {"faithfulness": mine["faithfulness"] - ahead + rng.normal(0, spread), "flips": 0.0, "pointing": 0.0}
        store.add([((row, CENTRE, SCORES), values)])
    asked = [CheckRow(row, row, "?", lambda: "") for row in rows]
    mine, blob, _ = summarise(store, asked, ["mine"])
    assert mine.against_centre["faithfulness"].mean == pytest.approx(ahead, abs=spread / 5)
    assert mine.verdict.word == word
    assert ("to be ahead of a blob in the middle for sure, here by " in str(mine.verdict)) == (word == BETTER)
    assert blob.verdict.word == DOUBT


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

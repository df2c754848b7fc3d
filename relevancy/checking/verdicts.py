"""From the numbers to plain words: what speaks for a method's maps, what against, and what follows.

To be better than noise is little: a map whose peak meets its object in 19 % is. So "trust" asks for more. Its bounds,
`STRONG` and `GROUND`, were chosen on 325 rows of seed 501 by a stated criterion; both stand in docs/which-method.md,
with how often such a "trust" was right on the tables of seed 2.
"""

from __future__ import annotations

__all__ = ["CheckFindings", "Summary", "Verdict"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from relevancy.checking.rows import CheckRow
from relevancy.checking.store import ALONE, BASELINES, BLIND, CENTRE, RANDOM, RANDOMISED, SCORES, Store
from relevancy.explanations.evidence import BLIND_TV
from relevancy.stats.intervals import FEWEST, Interval, interval

ALIKE = 0.5  # rank correlation with the map of a random model from which on a map does not show what was learned
ENOUGH = 30  # rows on which a map that is worth anything is better than noise
GROUND = 20  # rows below which nothing is trusted
STRONG = 0.2  # insertion less deletion above a random map's, by the interval's low end: what trust asks for
MOSTLY = 0.5  # and where truth is known, peaks on it, by the interval's low end
LITTLE = 0.05  # of a rank correlation: a difference smaller than that is none

_NAMES = {"faithfulness": "insertion less deletion", "pointing": "pointing"}
_AT_MASKS_SHARE = ("pointing", "energy", "rank_accuracy")

TRUST, BETTER, DOUBT, UNDECIDED = "trust", "better than chance", "do not trust", "undecided"


@dataclass(frozen=True)
class Verdict:
    """What is to be thought of a method's maps.

    word: "trust" (strong by stated bounds), "better than chance" (no more than that is shown), "do not trust" (a test
    failed) or "undecided" (it cannot be told from these rows). reasons: a phrase each.
    """

    word: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{'; '.join(self.reasons)}: {self.word}"


@dataclass(frozen=True)
class Summary:
    """One method: every number's mean with its interval, how far it is from others, and the verdict.

    against_random, against_centre, against_first: paired differences, row by row, to the number of the random map, of
    the blob in the middle, and of the first method.
    """

    method: str
    numbers: Mapping[str, Interval]
    against_random: Mapping[str, Interval]
    against_centre: Mapping[str, Interval]
    against_first: Mapping[str, Interval]
    verdict: Verdict


@dataclass(frozen=True)
class CheckFindings:
    """What a check found of one model: a line that says of what, a summary of each method, and what is to be said.

    answers: numbers of the explained tokens themselves, whatever the method: `blind_tv`, the share whose token is due
    to "words alone", and the token's probability with the picture and `blind`, without it. items: digest of what was
    judged, `ItemList.digest`; tables with the same one are of the same pictures, questions, answers and tokens.
    """

    heading: str
    summaries: Sequence[Summary]
    notes: Sequence[str] = ()
    answers: Mapping[str, Interval] = field(default_factory=dict)
    model: str = ""
    items: str = ""


def summarise(store: Store, rows: Sequence[CheckRow], methods: Sequence[str], seed: int = 0) -> list[Summary]:
    """A summary of each method and, last, of the baselines."""
    pictures = {row.key: row.picture_key for row in rows}
    columns = {name: _columns(store, name) for name in (*methods, *BASELINES)}
    numbers = {name: own for name, own in columns.items() if own}
    first = next(iter(numbers.values()))
    return [_summary(name, own, numbers, first, pictures, seed) for name, own in numbers.items()]


def of_answers(store: Store, rows: Sequence[CheckRow], seed: int = 0) -> dict[str, Interval]:
    """What becomes of the explained tokens without the picture; see `CheckFindings.answers`."""
    pictures = {row.key: row.picture_key for row in rows}
    known = {row: values for (row, _, part), values in store.found.items() if part == BLIND}
    columns = {number: [values[number] for values in known.values()] for number in ("blind_tv", "probability", "blind")}
    columns["words_alone"] = [float(value < BLIND_TV) for value in columns["blind_tv"]]
    return {number: interval(values, [pictures[row] for row in known], seed) for number, values in columns.items()}


Columns = dict[str, dict[str, float]]  # number -> row -> value


def _columns(store: Store, method: str) -> Columns:
    found: Columns = {}
    for (row, name, part), values in store.found.items():
        if name == method:
            for number, value in values.items():
                found.setdefault(number if part == SCORES else f"{part} {number}", {})[row] = value
    return found


def _summary(
    name: str, own: Columns, every: Mapping[str, Columns], first: Columns, pictures: Mapping[str, str], seed: int
) -> Summary:
    def mean(values: Mapping[str, float]) -> Interval:
        return interval(list(values.values()), [pictures[row] for row in values], seed)

    def less(values: Mapping[str, float], other: Mapping[str, float]) -> Interval:
        return mean({row: values[row] - other[row] for row in values if row in other})

    def than(other: Columns) -> dict[str, Interval]:
        return {} if own is other else {n: less(values, other[n]) for n, values in own.items() if n in other}

    against, centre = than(every[RANDOM]), than(every.get(CENTRE, {}))
    found = {number: mean(values) for number, values in own.items()}
    for swap in ("question", "picture", ALONE):
        if f"{swap} similarity" in own and "noise similarity" in own:
            found[f"{swap} effect"] = less(own["noise similarity"], own[f"{swap} similarity"])
    if name == RANDOM:
        noise = Verdict(DOUBT, ("is noise, the measure of all others", *_at_chance(own, less)))
        return Summary(name, found, {}, centre, than(first), noise)
    if name == CENTRE:
        blob = Verdict(DOUBT, ("is a blob in the middle of any picture", *_how_good(found, against)))
        return Summary(name, found, against, {}, than(first), blob)
    return Summary(name, found, against, centre, than(first), _verdict(found, against, centre))


def _at_chance(own: Columns, less: Callable[[Mapping[str, float], Mapping[str, float]], Interval]) -> list[str]:
    """Is noise at chance where chance is known? The mask's share; for NSS and similarities with their signs, zero."""
    at_zero = [number for number in own if number == "nss" or number.endswith(" similarity")]
    expected = {number: own["chance"] for number in _AT_MASKS_SHARE if number in own}
    expected |= {number: dict.fromkeys(own[number], 0.0) for number in at_zero}
    gaps = {number: less(own[number], chance) for number, chance in expected.items()}
    told = [number for number, gap in gaps.items() if not np.isnan(gap.low)]
    off = [number for number in told if not gaps[number].low <= 0 <= gaps[number].high]
    if not told:
        return []
    reached = f"at chance, by its interval, in {len(told) - len(off)} of {len(told)} numbers whose chance is known"
    return [reached, *(f"off by {gaps[number]} in {number}" for number in off)]


def _how_good(found: Mapping[str, Interval], against: Mapping[str, Interval]) -> list[str]:
    """What looking at no picture reaches."""
    told = [f"{against['faithfulness']} beside a random map (insertion less deletion)"]
    if "pointing" in found and found["pointing"].rows:
        told.append(f"on the truth in {_share(found['pointing'])}")
    return told


def _verdict(found: Mapping[str, Interval], against: Mapping[str, Interval], centre: Mapping[str, Interval]) -> Verdict:
    judged = [
        _faithful(found, against),
        *_true(against),
        _randomised(found),
        *(_depends(found, what) for what in ("question", "picture")),
        *_alone(found),
    ]
    marks = [mark for mark, _ in judged]
    reasons = tuple(reason for _, reason in judged)
    if False in marks:
        return Verdict(DOUBT, reasons)
    if None in marks:
        return Verdict(UNDECIDED, reasons)
    short = _short_of_trust(found, against, centre)
    return (
        Verdict(BETTER, (*reasons, f"trust asks for more: {' and '.join(short)}")) if short else Verdict(TRUST, reasons)
    )


def _short_of_trust(
    found: Mapping[str, Interval], against: Mapping[str, Interval], centre: Mapping[str, Interval]
) -> list[str]:
    """What a map that is better than chance lacks to be trusted."""
    gain, pointing = against["faithfulness"], found.get("pointing")
    short = []
    if gain.rows < GROUND:
        short.append(f"{GROUND} rows, here {gain.rows}")
    if not gain.low >= STRONG:
        short.append(f"a gain of {STRONG} for sure, here {gain.low:.3f}")
    if pointing is not None and pointing.rows and not pointing.low >= MOSTLY:
        short.append(f"peaks on the truth in {MOSTLY:.0%} for sure, here {pointing.low:.0%}")
    beaten = {number: centre[number] for number in ("faithfulness", "pointing") if number in centre}
    short += [
        f"to be ahead of a blob in the middle for sure, here by {gap} in {_NAMES[number]}"
        for number, gap in beaten.items()
        if gap.rows and not gap.low > 0
    ]
    return short


def _few(number: Interval) -> str:
    """What to say where nothing can be told yet; "" where something can."""
    if number.pictures >= FEWEST:
        return ""
    return f"cannot be told from {number.rows} rows of {number.pictures} pictures, at least {FEWEST} are needed"


def _true(against: Mapping[str, Interval]) -> Iterator[tuple[bool | None, str]]:
    """Where truth is known: is the peak on it more often than a random map's?"""
    gain = against.get("pointing")
    if gain is None or not gain.rows:
        return
    if few := _few(gain):
        yield None, f"whether it points at the truth {few}"
    elif gain.low > 0:
        yield True, f"points at the truth more often than a random map by {gain}"
    elif gain.rows >= ENOUGH:
        yield False, f"does not point at the truth more often than a random map ({gain})"
    else:
        yield None, f"whether it points at the truth cannot be told from {gain.rows} rows ({gain} beside a random map)"


def _faithful(found: Mapping[str, Interval], against: Mapping[str, Interval]) -> tuple[bool | None, str]:
    gain = against["faithfulness"]
    flips = (
        f"hiding its top flips {_share(found['flips'])} of answers, a random region {_share(_other(found, against))}"
    )
    if few := _few(gain):
        return None, f"whether it is better than a random map {few}, {flips}"
    if gain.low > 0:
        return True, f"better than a random map by {gain} (insertion less deletion), {flips}"
    if gain.high <= LITTLE or gain.mean <= 0:
        return False, f"no better than a random map ({gain}, insertion less deletion), {flips}"
    if gain.rows >= ENOUGH:
        return False, f"not shown to be better than a random map on {gain.rows} rows ({gain}), {flips}"
    told = f"({gain}, insertion less deletion)"
    return None, f"whether it is better than a random map cannot be told from {gain.rows} rows {told}, {flips}"


def _other(found: Mapping[str, Interval], against: Mapping[str, Interval]) -> Interval:
    flips = found["flips"].mean - against["flips"].mean
    return Interval(flips, float("nan"), float("nan"), found["flips"].rows)


def _share(number: Interval) -> str:
    return "–" if np.isnan(number.mean) else f"{number.mean:.0%}"


def _randomised(found: Mapping[str, Interval]) -> tuple[bool | None, str]:
    cascade = [number for number in found if number.startswith(f"{RANDOMISED} to ") and number.endswith("_abs")]
    if not cascade or not found[cascade[-1]].rows:
        return None, "the randomisation test was not made"
    last = found[cascade[-1]]
    told = f"similarity {last} with a model of random weights"
    if few := _few(last):
        return None, f"whether it passes the randomisation test {few}"
    if last.mean >= ALIKE:
        return False, f"fails the randomisation test ({told})"
    return (None if last.high >= ALIKE else True), f"passes the randomisation test ({told})"


def _depends(found: Mapping[str, Interval], what: str) -> tuple[bool | None, str]:
    """Does another question, or picture, change the map more than noise on the picture does?"""
    effect = found.get(f"{what} effect")
    if effect is None or not effect.rows:
        return None, f"whether it depends on the {what} could not be told"
    if few := _few(effect):
        return None, f"whether it depends on the {what} {few}"
    if effect.low > 0 and effect.mean >= LITTLE:
        return True, f"depends on the {what}"
    if effect.mean < LITTLE:
        return False, f"does not depend on the {what}"
    return None, f"whether it depends on the {what} cannot be told from {effect.rows} rows"


def _alone(found: Mapping[str, Interval]) -> list[tuple[bool | None, str]]:
    """Is a row's map another one when the row is explained alone? Then it is the map of something else."""
    effect = found.get(f"{ALONE} effect")
    if effect is None or not (effect.low > 0 and effect.mean >= LITTLE):
        return []
    return [(False, "depends on the other rows it is explained with, as if maps were mixed up")]

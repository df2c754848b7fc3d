"""What a benchmark says of a model: scores with intervals over pictures, and the protocol they are under."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import compress
from typing import Any

import numpy as np

from relevancy.stats.clustered import Estimate, Sample, functions_of_sums, means
from relevancy.stats.intervals import Resamples

Estimates = Mapping[str, Mapping[str, Estimate]]
"""Group of questions -> score's name -> its estimate."""


SumsFunction = Callable[[np.ndarray], np.ndarray]
"""What a score is of its columns' sums over all rows: (columns, n) -> (n,)."""


def ratio(sums: np.ndarray) -> np.ndarray:
    """Of a mean: the sum of values, and how many there are."""
    return sums[0] / sums[1]


@dataclass(frozen=True, eq=False)
class PictureSums:
    """Of each score the sums of its columns over each picture's rows, (columns, pictures), the pictures in order.

    Everything that a score, and its paired difference to another model's, can be counted from.
    """

    pictures: tuple[str, ...]
    columns: Mapping[tuple[str, str], np.ndarray]
    rows: Mapping[tuple[str, str], int]

    def arrays(self) -> dict[str, np.ndarray]:
        """As arrays with names, for a file."""
        keys = list(self.columns)
        rows = np.array([self.rows[key] for key in keys])
        names = {"pictures": np.array(self.pictures), "keys": np.array(keys), "rows": rows}
        return names | {str(place): self.columns[key] for place, key in enumerate(keys)}

    @classmethod
    def of_arrays(cls, found: Mapping[str, np.ndarray]) -> PictureSums:
        """What `arrays` gave."""
        keys = [(str(group), str(score)) for group, score in found["keys"]]
        columns = {key: found[str(place)] for place, key in enumerate(keys)}
        rows = dict(zip(keys, found["rows"].tolist(), strict=True))
        return cls(tuple(map(str, found["pictures"])), columns, rows)

    def less(
        self, other: PictureSums, functions: Mapping[tuple[str, str], SumsFunction]
    ) -> dict[tuple[str, str], Estimate]:
        """By how much these scores are higher than another model's, the pictures drawn for both together.

        Of the scores that both have; of none where the pictures are not the same.
        """
        if self.pictures != other.pictures:
            return {}
        keys = [key for key in functions if key in self.columns and key in other.columns]
        cases = [
            (np.concatenate([self.columns[key], other.columns[key]]), _difference(functions[key]), self.rows[key])
            for key in keys
        ]
        return dict(zip(keys, functions_of_sums(cases, Resamples(len(self.pictures))), strict=True))


def _difference(function: SumsFunction) -> SumsFunction:
    def difference(sums: np.ndarray) -> np.ndarray:
        half = len(sums) // 2
        return function(sums[:half]) - function(sums[half:])

    return difference


@dataclass(frozen=True)
class Protocol:
    """How answers were asked for and are scored: numbers under another protocol are other numbers."""

    name: str
    version: str
    prompt: str
    max_new_tokens: int
    rules: str


@dataclass(frozen=True)
class Unit:
    """How a score is printed."""

    scale: float
    digits: int

    def printed(self, value: float | None) -> str:
        """As publications print it; a dash where there is no value."""
        return "–" if value is None else f"{value * self.scale:.{self.digits}f}"


FRACTION, PERCENT, TENTHS, POINTS = Unit(1, 4), Unit(100, 2), Unit(100, 1), Unit(1, 2)


@dataclass(frozen=True)
class BenchmarkScore:
    """Scores of one model's answers.

    estimates: fractions, MME's in points. headline: the group and the score that publications quote. stand_in: what
    stood in for the official judge; such a number is not comparable with published ones. sums: what models are
    compared by. rights: by question that the headline counts, how right its answer is, from 0 to 1. pictures: what each
    of these questions is about.
    """

    benchmark: str
    protocol: Protocol
    unit: Unit
    headline: tuple[str, str]
    estimates: Estimates
    stand_in: str | None = None
    sums: PictureSums | None = field(default=None, repr=False, compare=False)
    rights: Mapping[str, float] = field(default_factory=dict, repr=False, compare=False)
    pictures: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        group, score = self.headline
        best = self.estimates[group][score]
        return {
            "benchmark": self.benchmark,
            "protocol": asdict(self.protocol),
            "stand_in": self.stand_in,
            "headline": {
                "group": group, "score": score, "value": best.value, "printed": self.unit.printed(best.value),
                "interval": _ends(best),
            },
            "scores": self._each(lambda one: one.value),
            "intervals": self._each(_ends),
            "questions": {name: max(one.rows for one in own.values()) for name, own in self.estimates.items()},
            "pictures": {name: max(one.pictures for one in own.values()) for name, own in self.estimates.items()},
        }  # fmt: skip

    def _each(self, of: Callable[[Estimate], Any]) -> dict[str, dict[str, Any]]:
        return {group: {name: of(one) for name, one in own.items()} for group, own in self.estimates.items()}


def _ends(one: Estimate) -> list[float] | None:
    return None if one.low is None or one.high is None else [one.low, one.high]


class Scoreboard:
    """Scores of answers that are resampled together, the pictures drawn with all their questions."""

    def __init__(self, pictures: Sequence[Hashable]):
        numbers: dict[Hashable, int] = {}
        self._pictures = np.array([numbers.setdefault(one, len(numbers)) for one in pictures], int)
        self._names = tuple(map(str, numbers))
        self._count = len(numbers)
        self._order: list[tuple[str, str]] = []
        self._means: dict[tuple[str, str], Sample] = {}
        self._functions: dict[tuple[str, str], tuple[np.ndarray, SumsFunction, int]] = {}

    def mean(self, group: str, name: str, values: np.ndarray, which: np.ndarray | None = None) -> None:
        """The mean of values (rows,) over the rows `which` (rows,)."""
        chosen = np.ones(len(values), bool) if which is None else which
        self._order.append((group, name))
        self._means[group, name] = Sample(np.asarray(values, np.float64)[chosen], self._pictures[chosen])

    def function(
        self,
        group: str,
        name: str,
        columns: Sequence[np.ndarray],
        function: SumsFunction,
        which: np.ndarray | None = None,
    ) -> None:
        """A function (columns, n) -> (n,) of the columns' sums over rows; each column is (rows,)."""
        chosen = np.ones(len(self._pictures), bool) if which is None else which
        sums = np.stack([np.bincount(self._pictures, one * chosen, self._count) for one in columns])
        self._order.append((group, name))
        self._functions[group, name] = sums, function, int(chosen.sum())

    def sums(self) -> PictureSums:
        """What models are compared by."""
        columns = {key: sums for key, (sums, _, _) in self._functions.items()}
        rows = {key: count for key, (_, _, count) in self._functions.items()}
        for key, sample in self._means.items():
            columns[key] = np.stack([sample.sums(self._count), sample.sums(self._count, np.ones(sample.rows))])
            rows[key] = sample.rows
        return PictureSums(self._names, columns, rows)

    def scored(
        self,
        benchmark: str,
        protocol: Protocol,
        unit: Unit,
        headline: tuple[str, str],
        rights: Mapping[str, float],
        stand_in: str | None = None,
        quoted: np.ndarray | None = None,
    ) -> BenchmarkScore:
        """All of it as a benchmark's score; `rights` in the order of the board's rows.

        quoted: (rows,), which of them the headline counts; all where None.
        """
        counted = np.ones(len(self._pictures), bool) if quoted is None else quoted
        pictures = tuple(self._names[own] for own in self._pictures[counted])
        counts = dict(compress(rights.items(), counted))
        return BenchmarkScore(
            benchmark, protocol, unit, headline, self.estimates(), stand_in, self.sums(), counts, pictures
        )

    def estimates(self) -> Estimates:
        """All of them, in the order in which they were asked for."""
        resamples = Resamples(self._count)
        found = dict(zip(self._means, means(list(self._means.values()), resamples), strict=True))
        others = functions_of_sums(list(self._functions.values()), resamples)
        found |= dict(zip(self._functions, others, strict=True))
        grouped: dict[str, dict[str, Estimate]] = {}
        for group, name in self._order:
            grouped.setdefault(group, {})[name] = found[group, name]
        return grouped

"""A column's values as a few groups: its own values, or quarters of a column of many numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

MOST = 12  # groups that are shown
MISSING = "(none)"


@dataclass(frozen=True)
class Grouping:
    """The groups' names, how many further ones are left out, and the inner bounds if numbers make the groups."""

    names: tuple[str, ...]
    left_out: int = 0
    bounds: tuple[float, ...] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, columns: Sequence[Sequence[Any]]) -> Grouping:
        """The groups of a column's values, series by series: the largest first; quarters in their order."""
        counts = Counter(_name(value) for values in columns for value in values)
        numbers = [value for values in columns for value in values if _is_number(value)]
        known = sum(count for name, count in counts.items() if name != MISSING)
        if len(counts) > MOST and len(numbers) == known:
            bounds = np.unique(np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]))
            names = [
                f"{'over ' if place else ''}{low:g} to {high:g}" for place, (low, high) in enumerate(pairwise(bounds))
            ]
            return cls((*names, *([MISSING] if MISSING in counts else [])), 0, tuple(bounds[1:-1].tolist()))
        kept = sorted(counts, key=lambda name: (-counts[name], name))
        return cls(tuple(kept[:MOST]), len(kept[MOST:]))

    def places(self, values: Sequence[Any]) -> np.ndarray:
        """The number of each value's group, (values,); -1 for those left out."""
        if self.bounds is None:
            number = {name: place for place, name in enumerate(self.names)}
            return np.array([number.get(_name(value), -1) for value in values], np.int64)
        missing = self.names.index(MISSING) if MISSING in self.names else -1
        return np.array(
            [
                int(np.searchsorted(self.bounds, value, side="left")) if _is_number(value) else missing
                for value in values
            ],
            np.int64,
        )


def _name(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not np.isnan(value)

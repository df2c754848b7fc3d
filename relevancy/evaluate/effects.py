"""What each design choice changes, as in Figure 1 of the LLaVA-Gemma paper: a linear model without interactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relevancy.errors import RelevancyError, shortened
from relevancy.evaluate.files import read_rows
from relevancy.evaluate.paper import COLUMNS, FIGURE_1, GRID
from relevancy.stats.clustered import Estimate
from relevancy.stats.linear import linear_model


@dataclass(frozen=True)
class PublishedEffect:
    """Of a choice on a benchmark, from Table 1's cells and as Figure 1 prints it; None where there is none.

    In the table's units: shares, or points for MME, MM-Vet and VQAv2. The figure's MME rests on single answers, which
    the table does not have.
    """

    choice: str
    benchmark: str
    from_table: float | None
    printed: float | None


@dataclass(frozen=True)
class ChoiceEffect:
    """By how much the share of right answers changes from one value of a choice to the other, all else equal."""

    choice: str
    low: str
    high: str
    estimate: Estimate


def published_effects() -> list[PublishedEffect]:
    """Of the three choices on all columns of Table 1, and on Figure 1's MME."""
    terms = np.array([[not one.pretrained, one.tower == "DinoV2", one.decoder == "gemma-7b-it"] for one in GRID], float)
    found = []
    for place, column in enumerate(COLUMNS):
        cells = np.array([float(one.scores[place] or "nan") for one in GRID])
        _, *effects = linear_model(cells, terms, range(len(GRID)))
        found += [
            PublishedEffect(choice, column, one.value, FIGURE_1[choice].get(column))
            for choice, one in zip(FIGURE_1, effects, strict=True)
        ]
    found += [PublishedEffect(choice, "MME", None, printed["MME"]) for choice, printed in FIGURE_1.items()]
    order = list(FIGURE_1)
    return sorted(found, key=lambda one: order.index(one.choice))


def effects_of_rows(path: Path, choices: Sequence[str]) -> list[ChoiceEffect]:
    """Of answers: rows with `right` (0 or 1), `picture`, and for each choice one of two values. Raises RelevancyError.

    Values are ordered as words: the effect is of the later one. Standard errors are clustered by picture.
    """
    rows = read_rows(path)
    right = np.array([_right(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)], float)
    pairs = {choice: _pair(rows, choice, path) for choice in choices}
    terms = np.array([[str(row[choice]) == pairs[choice][1] for choice in choices] for row in rows], float)
    try:
        _, *found = linear_model(right, terms, [str(row["picture"]) for row in rows])
    except ValueError as error:
        raise RelevancyError(f"{path}: {' and '.join(choices)} change together; leave one of them out.") from error
    return [ChoiceEffect(choice, *pairs[choice], one) for choice, one in zip(choices, found, strict=True)]


def _right(row: dict[str, Any], where: str) -> bool:
    if row.get("right") not in (0, 1) or row.get("picture") is None:
        raise RelevancyError(f"{where}: needs right (0 or 1) and picture.")
    return bool(row["right"])


def _pair(rows: Sequence[dict[str, Any]], choice: str, path: Path) -> tuple[str, str]:
    values = sorted({str(row.get(choice)) for row in rows})
    if len(values) != 2 or any(row.get(choice) is None for row in rows):
        raise RelevancyError(f"{path}: every row needs one of two values of {choice}, not {shortened(values)}.")
    return values[0], values[1]

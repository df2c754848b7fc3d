"""What findings rest on: the rows of a measure, of some kinds of questions, and how values are spread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from relevancy.report.measures import OPTIONS, Series
from relevancy.stats.clustered import Sample
from relevancy.stats.intervals import FEWEST

BINS = 40
SHOWN = (
    "blind_tv", "blind_drop", "image_share", "text_share", "first_token_share", "entropy", "top_mass", "probability",
    "correct",
)  # fmt: skip
USE = ("blind_tv", "blind_drop", "image_share")  # what tells, or seems to tell, of the picture's use
FLIPS = 9999
KINDS = 8  # forms of questions that are shown by themselves, the most frequent ones
STRATA = 24  # forms of questions within which right and wrong answers are compared, the most frequent ones


@dataclass(frozen=True)
class Histogram:
    """How many rows lie in each of equally wide bins from low to high."""

    low: float
    high: float
    counts: tuple[int, ...]
    rows: int


def sample_of(one: Series, measure: str, chosen: np.ndarray | None = None) -> Sample:
    """A measure of all rows, or of those chosen (rows,) bool, with their pictures."""
    values = one.measures[measure]
    return Sample.of(values if chosen is None else np.where(chosen, values, np.nan), one.pictures)


def frequent_forms(series: Sequence[Series]) -> list[str]:
    """The most frequent forms of questions that are asked of enough pictures, sorted by name, if there are several."""
    forms = np.concatenate([one.forms for one in series])
    pictures = np.concatenate([one.pictures for one in series])
    if len(np.unique(forms)) < 2:
        return []
    enough = [form for form in np.unique(forms) if len(np.unique(pictures[forms == form])) >= FEWEST]
    enough.sort(key=lambda form: -int((forms == form).sum()))
    return sorted(map(str, enough[:KINDS]))


def kinds_of_questions(forms: Sequence[str], of_rows: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Kinds of questions and which rows have one, bool (rows,): with options and without, if there are both; forms."""
    given = np.array(of_rows, str)
    optional = np.char.endswith(given, OPTIONS)
    if 0 < optional.sum() < len(optional):
        yield "open questions", ~optional
        yield "questions with options", optional
    for form in forms:
        yield form, given == form


def upper_end(columns: Sequence[np.ndarray]) -> float:
    """The tenth, up to 1, that all values of a share lie below."""
    known = np.concatenate([values[np.isfinite(values)] for values in columns])
    return min(1.0, max(1, ceil(10 * float(known.max()) - 1e-9)) / 10) if len(known) else 1.0


def histogram(values: np.ndarray, low: float, high: float) -> Histogram:
    """The spread of the values that are known; those beyond the ends count in the outermost bins."""
    known = np.clip(values[np.isfinite(values)], low, high)
    counts, _ = np.histogram(known, BINS, (low, high))
    return Histogram(low, high, tuple(counts.tolist()), len(known))

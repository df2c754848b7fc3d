"""Linear models of rows that belong to clusters, such as pictures, and runs of a model."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from relevancy.stats.clustered import Estimate
from relevancy.stats.intervals import FEWEST, student


def linear_model(
    outcomes: np.ndarray, terms: np.ndarray, clusters: Sequence[Hashable], runs: Sequence[Hashable] | None = None
) -> list[Estimate]:
    """Least squares of outcomes (rows,) on terms (rows, n) and a constant, which comes first: n + 1 coefficients.

    Intervals allow for rows of one cluster (rows,) that go together: the sandwich CR1 with Student's t of clusters - 1;
    none below `FEWEST` clusters. With `runs` (rows,), in each of which the terms are the same, they allow for rows of
    one run that go together too: the variances by clusters and by runs less that by both at once, and no less than the
    larger of the two, with Student's t of runs less coefficients; none where there are no more runs than these.
    Raises ValueError where the terms do not tell their effects apart.
    Source: Cameron and Miller, A practitioner's guide to cluster-robust inference, J. Human Resources 2015; of two ways
    of clustering equation 27.
    """
    design = np.column_stack([np.ones(len(outcomes)), np.asarray(terms, np.float64)])
    rows, count = design.shape
    if np.linalg.matrix_rank(design) < count:
        raise ValueError("terms that go together have no effects of their own")
    inverse = np.linalg.inv(design.T @ design)
    values = inverse @ (design.T @ outcomes)
    of, groups = _numbered(clusters)
    if groups < FEWEST or rows <= count:
        return [Estimate(float(value), None, None, rows, groups) for value in values]
    scores = design * (outcomes - design @ values)[:, None]

    def variances(of: np.ndarray, groups: int) -> np.ndarray:
        sums = np.stack([np.bincount(of, column, groups) for column in scores.T], axis=1)
        few = groups / (groups - 1) * (rows - 1) / (rows - count)
        return np.asarray(np.diag(inverse @ (few * sums.T @ sums) @ inverse))

    found, freedom = variances(of, groups), groups - 1
    if runs is not None:
        own, several = _numbered(runs)
        if several <= count:
            return [Estimate(float(value), None, None, rows, groups) for value in values]
        by_run = variances(own, several)
        both = variances(*_numbered(list(zip(of.tolist(), own.tolist(), strict=True))))
        found = np.maximum(found + by_run - both, np.maximum(found, by_run))
        freedom = min(freedom, several - count)
    halves = student(freedom) * np.sqrt(found)
    return [
        Estimate(float(value), float(value - half), float(value + half), rows, groups)
        for value, half in zip(values, halves, strict=True)
    ]


def _numbered(clusters: Sequence[Hashable]) -> tuple[np.ndarray, int]:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(one, len(numbers)) for one in clusters]), len(numbers)

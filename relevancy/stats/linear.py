"""Linear models of rows that belong to clusters, such as pictures."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from relevancy.stats.clustered import Estimate
from relevancy.stats.intervals import FEWEST, student


def linear_model(outcomes: np.ndarray, terms: np.ndarray, clusters: Sequence[Hashable]) -> list[Estimate]:
    """Least squares of outcomes (rows,) on terms (rows, n) and a constant, which comes first: n + 1 coefficients.

    Intervals allow for rows of one cluster (rows,) that go together: the sandwich CR1 with Student's t of clusters - 1;
    none below `FEWEST` clusters. Raises ValueError where the terms do not tell their effects apart.
    Source: Cameron and Miller, A practitioner's guide to cluster-robust inference, J. Human Resources 2015.
    """
    design = np.column_stack([np.ones(len(outcomes)), np.asarray(terms, np.float64)])
    rows, count = design.shape
    if np.linalg.matrix_rank(design) < count:
        raise ValueError("terms that go together have no effects of their own")
    inverse = np.linalg.inv(design.T @ design)
    values = inverse @ (design.T @ outcomes)
    numbers: dict[Hashable, int] = {}
    of = np.array([numbers.setdefault(one, len(numbers)) for one in clusters])
    groups = len(numbers)
    if groups < FEWEST or rows <= count:
        return [Estimate(float(value), None, None, rows, groups) for value in values]
    residuals = outcomes - design @ values
    scores = np.stack([np.bincount(of, column * residuals, groups) for column in design.T], axis=1)
    few = groups / (groups - 1) * (rows - 1) / (rows - count)
    errors = np.sqrt(np.diag(inverse @ (few * scores.T @ scores) @ inverse))
    halves = student(groups - 1) * errors
    return [
        Estimate(float(value), float(value - half), float(value + half), rows, groups)
        for value, half in zip(values, halves, strict=True)
    ]

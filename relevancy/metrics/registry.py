"""Numbers that other packages add to a check."""

from __future__ import annotations

__all__ = ["METRICS", "MapMetric"]

from collections.abc import Callable
from typing import Any

import numpy as np

from relevancy.errors import RelevancyError
from relevancy.explanations.explanation import Explanation
from relevancy.metrics.teacher_forcing import TeacherForcing
from relevancy.plugins import Plugins

MapMetric = Callable[[Explanation, TeacherForcing, "np.ndarray | None"], float]
"""A number of one map: of the explanation, the model's reading of the same answer with patches hidden
(`TeacherForcing.hiding`), and where the asked-about thing is, bool (height, width), None where that is not known. NaN
where there is nothing to say."""


def _made(name: str, declared: Any) -> MapMetric:  # noqa: ARG001  a metric may be named as it likes
    if not callable(declared):
        raise RelevancyError("it is no function of a map")
    return declared


METRICS: Plugins[MapMetric] = Plugins("metric", "relevancy.metrics", {}, _made)
"""Metrics by name: those of installed packages, then those added here with `METRICS.add(name, function)`."""

"""Versions of the files that results are stored in: what an earlier version of relevancy wrote still opens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relevancy.errors import RelevancyError

KEY = "format"
EXPLANATION, COMPARISON, CHECK, TRAINING = 1, 1, 1, 1
"""Raised when a file's fields change their meaning or go; a field more is no new format. 0.1.0 wrote none."""


def require_known(stored: Any, known: int, file: Path) -> None:
    """Raise RelevancyError for a file of a later format than `known`, and for one that holds no JSON object."""
    if not isinstance(stored, Mapping):
        raise RelevancyError(f"{file} cannot be read: it holds no JSON object.")
    given = stored.get(KEY, 0)
    if not isinstance(given, int) or given > known:
        raise RelevancyError(
            f"{file} has format {given!r}, and this version of relevancy reads up to {known}: install a newer one."
        )

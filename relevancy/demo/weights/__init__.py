"""The trained pair, as plain Hugging Face checkpoint folders beside this file."""

from __future__ import annotations

from pathlib import Path

NAMES = ("demo-small", "demo-large")


def folder(name: str) -> Path:
    """Where a model of the pair lies."""
    return Path(__file__).parent / name

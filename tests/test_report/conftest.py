"""Exports for the report's tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import exports


@pytest.fixture
def two_models(tmp_path):
    """30 rows about 15 pictures by two models, one error each."""
    lines = [
        exports.line(row, model, picture_hash=f"picture-{row // 2}", in_type=("color", "count", "rare")[row % 10 // 4])
        for model in ("small", "large")
        for row in range(30)
    ]
    lines += [exports.failed(30, model) for model in ("small", "large")]
    return exports.write_export(tmp_path / "two", lines)

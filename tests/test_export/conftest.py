"""A small input and a saved tiny model."""

from pathlib import Path

import pytest
from making import encoded, rows_over, write_lines


@pytest.fixture
def items(tmp_path) -> Path:
    """Twelve rows over four pictures, as JSON Lines."""
    place = tmp_path / "input"
    place.mkdir()
    for seed in range(4):
        (place / f"{seed}.png").write_bytes(encoded(seed, 80 + 10 * seed))
    return write_lines(place / "items.jsonl", rows_over(4, 12))


@pytest.fixture(scope="session")
def saved(tmp_path_factory, built) -> str:
    """A tiny model in a folder."""
    place = tmp_path_factory.mktemp("saved") / "tiny"
    model, processor = built["gemma-clip"]
    model.save_pretrained(place)
    processor.save_pretrained(place)
    return str(place)

"""Checkpoints that are whole or do not count: sealed when every file is on the disk, and one kept until the next is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from relevancy.atomic_io import synced, write_whole
from relevancy.errors import RelevancyError

SEAL = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_SPARE = 64 << 20  # bytes that stay free beside a checkpoint


def newest(folder: Path) -> Path | None:
    """The sealed checkpoint of the latest step, or None."""
    return max(filter(_is_whole, _checkpoints(folder)), key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was taken."""
    found = _NAME.fullmatch(checkpoint.name)
    return int(found[1]) if found else -1


def seal(checkpoint: Path) -> None:
    """Say that a checkpoint is whole, once all its bytes are on the disk."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != SEAL]
    for path in files:
        synced(path)
    sizes = {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}
    write_whole(checkpoint / SEAL, json.dumps(sizes, indent=1))


def keep_only(checkpoint: Path) -> None:
    """Remove the checkpoints beside this one, whole or half-written."""
    for other in _checkpoints(checkpoint.parent):
        if other != checkpoint:
            (other / SEAL).unlink(missing_ok=True)
            shutil.rmtree(other)


def check_room(folder: Path, size: int) -> None:
    """Refuse to begin a checkpoint of `size` bytes that the disk has no room for."""
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE:
        kept = newest(folder)
        whole = f"the checkpoint of step {step_of(kept)} is whole" if kept else "no checkpoint is there yet"
        raise RelevancyError(
            f"the disk of {folder} has {free / 1e9:.1f} GB free, and a checkpoint takes {size / 1e9:.1f} GB: make "
            f"room, then go on with --resume ({whole})"
        )


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if path.is_dir() and step_of(path) >= 0]


def _is_whole(checkpoint: Path) -> bool:
    try:
        sizes = json.loads((checkpoint / SEAL).read_text())
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False

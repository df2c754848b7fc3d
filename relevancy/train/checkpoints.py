"""Checkpoints that are whole or do not count: sealed when every file is on the disk, and one kept until the next is.

The seal holds each file's size and digest. Sizes are looked at whenever a checkpoint is asked for, digests before one
is gone on from: they take as long as reading it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from relevancy.atomic_io import synced, whole, write_whole
from relevancy.errors import RelevancyError

logger = logging.getLogger(__name__)
SEAL, TRAINED = "complete.json", "trained.safetensors"
_BLOCK, _READERS = 16 << 20, 8  # bytes that a thread reads at a time, threads
_NAME = re.compile(r"checkpoint-(\d+)")
_SPARE = 64 << 20  # bytes that stay free beside a checkpoint


def newest(folder: Path) -> Path | None:
    """The sealed checkpoint of the latest step, or None."""
    return max(filter(_is_whole, _checkpoints(folder)), key=step_of, default=None)


def finished(folder: Path) -> bool:
    """Whether a stage's folder holds what it trained."""
    return (folder / TRAINED).exists()


def begun(folder: Path) -> Path | None:
    """The checkpoint of the latest step that was ever sealed, whole or damaged since; None where none was."""
    return next(iter(_sealed_in(folder)), None)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was taken."""
    found = _NAME.fullmatch(checkpoint.name)
    return int(found[1]) if found else -1


def seal(checkpoint: Path) -> None:
    """Say that a checkpoint is whole, once all its bytes are on the disk."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != SEAL]
    for path in files:
        synced(path)
    told = {
        str(path.relative_to(checkpoint)): {"size": path.stat().st_size, "digest": digest_of(path)} for path in files
    }
    write_whole(checkpoint / SEAL, json.dumps(told, indent=1))


def intact(folder: Path) -> Path | None:
    """The newest checkpoint that is as it was sealed, to go on from; None where there is none yet.

    A damaged one is left for the one before it, which is said. Raises RelevancyError where none is left.
    """
    sealed = _sealed_in(folder)
    if not sealed:
        return None
    found, damaged = _soundest(sealed)
    for other, what in damaged.items():
        logger.warning("%s: %s is not as it was written; going on from %s", other, what, found.name)
        (other / SEAL).unlink()
    return found


def trained_so_far(folder: Path) -> tuple[Path, dict[str, Tensor]] | None:
    """The weights that a stage has trained, and the file or checkpoint they are of; None where there are none yet.

    For any process beside the run's own: it changes nothing, and what the run lets go of while it is read gives way to
    what is there by then. Raises RelevancyError.
    """
    before: list[Path] | None = None
    failed: RelevancyError | None = None
    while (there := _results(folder)) != before:
        before, failed = there, None
        try:
            if there:
                return _read(there)
        except RelevancyError as error:
            failed = error
    if failed:
        raise failed
    return None


def _results(folder: Path) -> list[Path]:
    return [folder / TRAINED] if finished(folder) else _sealed_in(folder)


def _read(results: Sequence[Path]) -> tuple[Path, dict[str, Tensor]]:
    """The weights of the first that is as it was written. Raises RelevancyError."""
    if results[0].name == TRAINED:
        return results[0], stored(results[0])
    try:
        checkpoint, _ = _soundest(results)
        weights = checkpoint / "model.safetensors"
        if weights.exists():
            return checkpoint, load_file(weights)
    except (OSError, SafetensorError) as error:
        raise RelevancyError(f"{results[0]} cannot be read ({error}): bring it back from a copy") from error
    raise RelevancyError(f"{checkpoint} is in pieces (FSDP or ZeRO): finish the stage first")


def _soundest(sealed: Sequence[Path]) -> tuple[Path, dict[Path, str]]:
    """The first checkpoint that is as it was sealed, and what is not of each before it. Raises RelevancyError."""
    damaged: dict[Path, str] = {}
    for checkpoint in sealed:
        changed = _changed(checkpoint)
        if changed is None:
            return checkpoint, damaged
        damaged[checkpoint] = changed
    first = sealed[0]
    raise RelevancyError(
        f"{first}: {damaged[first]} is not as it was written, and no older checkpoint is there: bring the file back "
        "from a copy, or start again with another --out"
    )


def store(weights: Mapping[str, Tensor], file: Path) -> None:
    """Weights as a file that is there as a whole, with their digest in it. Raises RelevancyError."""
    try:
        with whole(file) as part:
            save_file(dict(weights), part, metadata={"format": "pt", "digest": _digest_of_weights(weights)})
    except (OSError, SafetensorError) as error:
        raise RelevancyError(f"{file} could not be written ({error}): make room, then go on with --resume") from error


def stored(file: Path) -> dict[str, Tensor]:
    """What `store` wrote. Raises RelevancyError where it is not as it was written."""
    try:
        weights = load_file(file)
        with safe_open(file, "pt") as opened:
            told = (opened.metadata() or {}).get("digest")  # version 0.1.0 wrote none
    except (OSError, SafetensorError) as error:
        raise RelevancyError(f"{file} cannot be read ({error}): bring it back from a copy") from error
    if told not in (None, _digest_of_weights(weights)):
        raise RelevancyError(
            f"{file} is not as it was written: bring it back from a copy, or remove it to train its stage again"
        )
    return weights


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


def _sealed_in(folder: Path) -> list[Path]:
    """The checkpoints that were ever sealed, the latest first."""
    return sorted(filter(_is_sealed, _checkpoints(folder)), key=step_of, reverse=True)


def _is_sealed(checkpoint: Path) -> bool:
    return (checkpoint / SEAL).exists()


def _is_whole(checkpoint: Path) -> bool:
    try:
        return all((checkpoint / name).stat().st_size == size for name, size, _ in _sealed(checkpoint))
    except (OSError, ValueError, KeyError):
        return False


def _sealed(checkpoint: Path) -> Iterator[tuple[str, int, str | None]]:
    """Name, size and digest of each file; version 0.1.0 wrote the size alone. Raises ValueError."""
    told = json.loads((checkpoint / SEAL).read_text())
    if not isinstance(told, dict):
        raise ValueError("no seal")
    for name, one in told.items():
        yield (name, one["size"], one["digest"]) if isinstance(one, dict) else (name, one, None)


def _changed(checkpoint: Path) -> str | None:
    """The first file that is not as it was sealed."""
    try:
        for name, size, digest in _sealed(checkpoint):
            file = checkpoint / name
            if not file.is_file() or file.stat().st_size != size or digest not in (None, digest_of(file)):
                return name
    except (ValueError, KeyError):
        return SEAL
    return None


def digest_of(file: Path) -> str:
    """A file's digest: that of its blocks' digests, which threads read beside one another."""
    with ThreadPoolExecutor(_READERS) as pool:
        blocks = pool.map(partial(_block, file), range(0, file.stat().st_size, _BLOCK))
        return hashlib.blake2b(b"".join(blocks), digest_size=16).hexdigest()


def _block(file: Path, start: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(start)
        return hashlib.blake2b(stream.read(_BLOCK), digest_size=16).digest()


def _digest_of_weights(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()

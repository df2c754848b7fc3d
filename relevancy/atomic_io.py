"""Files and folders that are there as a whole or not at all."""

from __future__ import annotations

__all__ = ["locked"]

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from relevancy.errors import RelevancyError

LOCK = "lock"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file or a folder under; it becomes `path` once all its bytes are on the disk.

    Where the block raises, nothing is left of it. A folder takes the place of one that is there, a file never does:
    that raises RelevancyError. The names are always the same, so that what a killed process left goes, or comes back:
    where several write `path`, each needs `locked`.
    """
    if path.name in ("", ".."):
        raise RelevancyError(f"{path} has no name of its own that could be written anew: give another.")
    part, old = path.with_name(f"{path.name}.part"), path.with_name(f".{path.name}.old")
    if old.is_dir() and not path.exists():  # a process was killed between the two renames
        old.replace(path)
    _remove(part)
    try:
        yield part
    except BaseException:
        _remove(part)
        raise
    for file in (part, *part.rglob("*")):
        if file.is_file():
            synced(file)
    if not path.is_dir():
        part.replace(path)
        return
    if not part.is_dir():
        _remove(part)
        raise RelevancyError(f"{path} is a folder: give the name of a file.")
    _remove(old)
    path.replace(old)
    part.replace(path)
    _remove(old)


def write_whole(path: Path, text: str) -> None:
    """A text file that is there as a whole or not at all."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def whole_files(folder: Path, earlier: Iterable[Path] = ()) -> Iterator[Path]:
    """A scratch folder whose files, those of its folders too, move into `folder` together once all are written.

    earlier: files of the result that this one takes the place of. They go then, and their folders where these are empty
    without them; no other file does. Raises RelevancyError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".part-", dir=folder))
    except OSError as error:
        raise RelevancyError(f"Cannot write to {folder}: {error.strerror or error}. Choose another --out.") from error
    try:
        yield scratch
        files = [file.relative_to(scratch) for file in scratch.rglob("*") if file.is_file()]
        old = {*earlier} - {folder / file for file in files}
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (scratch / file).replace(folder / file)
        for file in old:
            file.unlink(missing_ok=True)
        for place in sorted({file.parent for file in old} - {folder}, reverse=True):  # the inner ones first
            if not any(place.iterdir()):
                place.rmdir()
    except OSError as error:
        raise RelevancyError(
            f"Cannot write to {folder}: {error.strerror or error}. Free room, or another --out."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Within the block no other process works on the folder, made where it is not there. Raises RelevancyError.

    wait: for a process that works on it, rather than refuse.

    The operating system lets go of the lock when a process ends, however it ends.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        stream = (path / LOCK).open("ab+", buffering=0)  # closing it has nothing left to write, nor to fail at
    try:
        _lock(stream, path, wait)
        yield
    finally:
        stream.close()


def _lock(stream: IO[bytes], path: Path, wait: bool) -> None:
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        stream.seek(0)
        holder = stream.read(100).decode(errors="replace").strip()
        raise RelevancyError(
            f"Another process{f' ({holder})' if holder else ''} works on {path}: wait for it, or give another --out."
        ) from error
    with writing(path):
        stream.truncate(0)
        stream.write(f"pid {os.getpid()} on {os.uname().nodename}\n".encode())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within the block what keeps `path` from being written is one line that says what to do. Raises RelevancyError."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise RelevancyError(
                f"The disk of {path} is full: make room and run the same command again; nothing finished is lost."
            ) from error
        raise RelevancyError(
            f"Cannot write to {path}: {error.strerror or error}. Mend it and run the same command again, or give "
            "another --out."
        ) from error


def synced(file: Path) -> None:
    """Return when all bytes of a file are on the disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

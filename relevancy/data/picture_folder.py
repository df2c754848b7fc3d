"""A folder of pictures, all asked the same question."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from relevancy.data.reader import Row, RowReader
from relevancy.errors import RelevancyError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".qoi", ".heic")


class PictureFolder(RowReader):
    """Pictures by their names, folders below included, in the order of their paths. Other files are passed over."""

    kind = "folder"

    def __init__(self, path: str) -> None:
        self.base, self.name = Path(path), path
        if next(self.rows(), None) is None:
            raise RelevancyError(f"{path} holds no pictures ({', '.join(SUFFIXES[:4])} and others) and no other input.")

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:  # noqa: ARG002  they come with the line
        """Each picture, its path within the folder as its id."""
        for path in _pictures(self.base):
            name = path.relative_to(self.base).as_posix()
            yield {"id": name, "picture": name}

    def fingerprint(self) -> str:
        """Of every picture's name and size."""
        digest = hashlib.blake2b(digest_size=16)
        for path in _pictures(self.base):
            digest.update(os.fsencode(f"{path.relative_to(self.base).as_posix()} {path.stat().st_size}\n"))
        return digest.hexdigest()


def _pictures(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            yield from _pictures(entry)
        elif entry.suffix.lower() in SUFFIXES and entry.exists():
            yield entry

"""Which files these are, told by a digest that takes no time with large ones."""

from __future__ import annotations

__all__ = ["digest_of"]

import hashlib
from collections.abc import Sequence
from pathlib import Path

_ENDS = 1 << 20


def digest_of(files: Sequence[Path]) -> str:
    """Of each file's name, size, first and last megabyte."""
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode("utf-8", "surrogateescape"))
        with path.open("rb") as stream:
            digest.update(stream.read(_ENDS))
            if size > _ENDS:
                stream.seek(max(_ENDS, size - _ENDS))
                digest.update(stream.read(_ENDS))
    return digest.hexdigest()

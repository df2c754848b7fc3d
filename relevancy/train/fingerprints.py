"""What a data set holds, in a few letters: going on with another one is noticed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from relevancy.train.checkpoints import digest_of
from relevancy.train.data.dialogues import Picture, on_disk
from relevancy.train.data.sources import Dialogues, FileDialogues, JoinedDialogues, TableDialogues

_PICTURES = 4096  # samples whose pictures are looked at
_HEAD = 16 << 10  # bytes of each
_ROWS = 10_000  # of a table at a time


def fingerprint(dialogues: Dialogues) -> dict[str, Any]:
    """The number of samples, a digest of all entries in their order, and one of pictures (sizes and beginnings).

    Pictures are those of at most 4,096 samples from all over the data; where they lie does not count.
    """
    digest = hashlib.blake2b(digest_size=16)
    for place in spread(len(dialogues), _PICTURES):
        for picture in dialogues[place].images:
            digest.update(_told(picture))
    return {"samples": len(dialogues), "entries": _entries(dialogues), "pictures": digest.hexdigest()}


def spread(count: int, most: int) -> list[int]:
    """Places from the first to the last of `count`, at most so many, evenly."""
    number = min(count, most)
    return [place * (count - 1) // max(number - 1, 1) for place in range(number)]


def _entries(dialogues: Dialogues) -> str:
    if isinstance(dialogues, FileDialogues):
        return digest_of(dialogues.path)
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(dialogues, JoinedDialogues):
        digest.update(" ".join(map(_entries, dialogues.parts)).encode())
    if isinstance(dialogues, TableDialogues):
        table = dialogues.table
        words = table.remove_columns([name for name in ("image", "images") if name in table.column_names])
        for rows in words.with_format("arrow").iter(_ROWS):
            digest.update(repr(rows.to_pydict()).encode(errors="backslashreplace"))
    return digest.hexdigest()


def _told(picture: Picture) -> bytes:
    if isinstance(picture, bytes):
        return len(picture).to_bytes(8, "little") + picture[:_HEAD]
    if not isinstance(picture, Path):
        return picture.tobytes()[:_HEAD]
    there = on_disk(picture)
    try:
        with Path(there).open("rb") as stream:  # type: ignore[arg-type]
            return Path(there).stat().st_size.to_bytes(8, "little") + stream.read(_HEAD)  # type: ignore[arg-type]
    except (OSError, ValueError):
        return b"missing"

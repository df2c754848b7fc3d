"""Tar shards in the layout of WebDataset: `key.jpg` beside `key.json` or `key.txt`."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from relevancy.data.picture_folder import SUFFIXES as PICTURES
from relevancy.data.reader import LONGEST_LINE, Broken, Row, RowReader, files_of
from relevancy.digests import digest_of
from relevancy.errors import RelevancyError

SUFFIXES = (".tar",)


class Tar(RowReader):
    """A sample is the members that stand together and share a name up to its first dot."""

    kind = "tar"

    def __init__(self, pattern: str) -> None:
        self.files, self.name = files_of(pattern, SUFFIXES), pattern
        self.base = self.files[0].parent

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:  # noqa: ARG002  they come with the line
        """`id` is the sample's name, `picture` its picture member; a JSON member's entries are columns, its id too."""
        for path in self.files:
            yield from _samples(path)

    def fingerprint(self) -> str:
        """Of the shards' sizes and ends."""
        return digest_of(self.files)


def _samples(path: Path) -> Iterator[Row]:
    try:
        with tarfile.open(path, "r:") as archive:
            for key, members in groupby(_files(archive), key=_key):
                yield _sample(archive, path, key, list(members))
    except (OSError, tarfile.TarError) as error:
        raise RelevancyError(f"{path}: cannot be read to its end as a plain tar ({error})") from error


def _files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        if member.isfile():
            yield member
        archive.members.clear()  # type: ignore[attr-defined]  # it would keep every member it has passed


def _key(member: tarfile.TarInfo) -> str:
    folder, _, name = member.name.rpartition("/")
    stem = name.partition(".")[0]
    return f"{folder}/{stem}" if folder else stem


def _sample(archive: tarfile.TarFile, path: Path, key: str, members: list[tarfile.TarInfo]) -> Row:
    values: dict[str, Any] = {"id": key}
    for member in members:
        extension = member.name.rpartition("/")[2].partition(".")[2].lower()
        if f".{extension.rpartition('.')[2]}" in PICTURES:
            values.setdefault("picture", f"{path.name}::{member.name}")
        elif extension in ("json", "txt"):
            if member.size > LONGEST_LINE:
                return Broken(f"{member.name} is longer than {LONGEST_LINE >> 20} MiB")
            stream = archive.extractfile(member)
            text = stream.read() if stream else b""
            try:
                told = json.loads(text) if extension == "json" else {"question": text.decode()}
            except (ValueError, RecursionError) as error:
                return Broken(f"{member.name} cannot be read: {error}")
            if not isinstance(told, dict):
                return Broken(f"{member.name} is no JSON object but {type(told).__name__}")
            values.update({name: value for name, value in told.items() if name != "picture"})
    return values

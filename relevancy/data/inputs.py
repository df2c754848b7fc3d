"""Which kind of input a name is."""

from __future__ import annotations

__all__ = ["READERS", "ReaderMaker", "kind_of_file", "open_input"]

from collections.abc import Callable
from pathlib import Path
from typing import Any

from relevancy.data import csv, datasets, jsonl, parquet, picture_folder, tar
from relevancy.data.reader import RowReader
from relevancy.errors import RelevancyError
from relevancy.plugins import Plugins

ReaderMaker = Callable[[str], RowReader]
"""A `RowReader` by the name of its input; raises RelevancyError for one that it cannot read."""

_OWN: dict[str, ReaderMaker] = {
    "jsonl": jsonl.JsonLines,
    "csv": csv.Csv,
    "parquet": parquet.Parquet,
    "folder": picture_folder.PictureFolder,
    "tar": tar.Tar,
    "datasets": datasets.HuggingFace,
}


def _made(name: str, declared: Any) -> ReaderMaker:  # noqa: ARG001  the kind may be named as it likes
    if not callable(declared):
        raise RelevancyError("it cannot be called with the name of an input")
    return declared


READERS: Plugins[ReaderMaker] = Plugins("kind of input", "relevancy.readers", _OWN, _made)
"""Every kind of input by name: the package's own, then those of installed packages, then those added here."""

_SUFFIXES = {
    "jsonl": jsonl.SUFFIXES,
    "csv": csv.SUFFIXES,
    "parquet": parquet.SUFFIXES,
    "tar": tar.SUFFIXES,
}
_DATASET_FILES = ("dataset_info.json", "dataset_dict.json", "state.json")


def open_input(name: str, kind: str | None = None) -> RowReader:
    """The reader for a file, a folder, a pattern, or `hf:` and a dataset. Raises RelevancyError."""
    try:
        return READERS.named(kind or _kind_of(name))(name)
    except OSError as error:
        raise RelevancyError(f"{name}: cannot be read ({error.strerror or error})") from error


def kind_of_file(name: str) -> str | None:
    """The kind that a file's name tells; None where it tells none."""
    return _by_suffix(name) or _from_outside(name)


def _kind_of(name: str) -> str:
    path = Path(name)
    if name.startswith(datasets.PREFIX):
        return "datasets"
    if path.is_dir():
        if any((path / file).is_file() for file in _DATASET_FILES):
            return "datasets"
        inside = sorted(file.name for file in path.iterdir())
        named = next((found for file in inside if (found := _by_suffix(file)) in ("parquet", "tar")), None)
        return named or _from_outside(name) or "folder"
    found = kind_of_file(name)
    if found is None:
        raise RelevancyError(
            f"What kind of input {name} is cannot be told from its name: give --kind, one of {', '.join(READERS)}."
        )
    return found


def _by_suffix(name: str) -> str | None:
    return next((kind for kind, suffixes in _SUFFIXES.items() if name.lower().endswith(suffixes)), None)


def _from_outside(name: str) -> str | None:
    """The kind of another package whose suffixes the name has."""
    kinds = READERS.usable().items()
    ends = {kind: tuple(getattr(maker, "suffixes", ())) for kind, maker in kinds if kind not in _OWN}
    return next((kind for kind, suffixes in ends.items() if name.lower().endswith(suffixes)), None)

"""Which kind of input a name is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from relevancy.data import csv, datasets, jsonl, parquet, picture_folder, tar
from relevancy.data.reader import RowReader
from relevancy.errors import RelevancyError

READERS: dict[str, Callable[[str], RowReader]] = {
    "jsonl": jsonl.JsonLines,
    "csv": csv.Csv,
    "parquet": parquet.Parquet,
    "folder": picture_folder.PictureFolder,
    "tar": tar.Tar,
    "datasets": datasets.HuggingFace,
}
_SUFFIXES = {
    "jsonl": jsonl.SUFFIXES,
    "csv": csv.SUFFIXES,
    "parquet": parquet.SUFFIXES,
    "tar": tar.SUFFIXES,
}
_DATASET_FILES = ("dataset_info.json", "dataset_dict.json", "state.json")


def open_input(name: str, kind: str | None = None) -> RowReader:
    """The reader for a file, a folder, a pattern, or `hf:` and a dataset. Raises RelevancyError."""
    if kind is not None and kind not in READERS:
        raise RelevancyError(f"There is no kind of input {kind!r}; choose from {', '.join(READERS)}.")
    try:
        return READERS[kind or _kind_of(name)](name)
    except OSError as error:
        raise RelevancyError(f"{name}: cannot be read ({error.strerror or error})") from error


def _kind_of(name: str) -> str:
    path = Path(name)
    if name.startswith(datasets.PREFIX):
        return "datasets"
    if path.is_dir():
        if any((path / file).is_file() for file in _DATASET_FILES):
            return "datasets"
        inside = sorted(file.name for file in path.iterdir())
        return next((found for file in inside if (found := _by_suffix(file)) in ("parquet", "tar")), "folder")
    found = _by_suffix(name)
    if found is None:
        raise RelevancyError(
            f"What kind of input {name} is cannot be told from its name: give --kind, one of {', '.join(READERS)}."
        )
    return found


def _by_suffix(name: str) -> str | None:
    return next((kind for kind, suffixes in _SUFFIXES.items() if name.lower().endswith(suffixes)), None)

"""An export's folder, read a few columns and rows at a time; nothing but pyarrow is needed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relevancy.data.items import PictureSource as Encoded
from relevancy.errors import RelevancyError
from relevancy.export.folder import FORMAT, MANIFEST, first_line, parts_of, reading
from relevancy.export.schema import EXTRA

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 1024  # lines held at once
NEEDED = (
    "row", "id", "model", "picture", "picture_hash", "question", "answer", "token", "probability", "expected",
    "correct", "share_image", "share_text", "share_first_token", "width", "height", "rows", "cols", "x_edges",
    "y_edges", "image_map", "boxes", "mask", "error",
)  # fmt: skip

Place = tuple[int, int]  # the number of a part, and of a line in it


@dataclass(frozen=True)
class ExportSource:
    """One export: its folder, what its manifest says, the parts of its results, and the columns they have."""

    folder: Path
    manifest: dict[str, Any] = field(repr=False)
    parts: tuple[Path, ...] = field(repr=False)
    columns: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """What the folder is called."""
        return self.folder.resolve().name or str(self.folder)

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, int, pa.RecordBatch]]:
        """Some columns of all lines, in order, with the number of the part and of the batch's first line in it."""
        for number in range(len(self.parts)):
            start = 0
            for batch in self._part(number, columns):
                yield number, start, batch
                start += len(batch)

    def lines(self, places: Iterable[Place], columns: Sequence[str]) -> dict[Place, dict[str, Any]]:
        """A few lines, whole, by their places."""
        wanted: dict[int, set[int]] = defaultdict(set)
        for part, line in places:
            wanted[part].add(line)
        found: dict[Place, dict[str, Any]] = {}
        for part, lines in wanted.items():
            start = 0
            for batch in self._part(part, columns):
                inside = [line for line in lines if start <= line < start + len(batch)]
                found |= {(part, line): batch.slice(line - start, 1).to_pylist()[0] for line in inside}
                start += len(batch)
        return found

    @property
    def own_columns(self) -> tuple[str, ...]:
        """The columns that the input had beyond those an export knows, with their prefix."""
        return tuple(name for name in self.columns if name.startswith(EXTRA))

    @property
    def base(self) -> Path:
        """The folder from which the names of pictures and masks count."""
        given = self.manifest.get("configuration", {}).get("input")
        if not isinstance(given, Mapping):
            return Path()
        if given.get("pictures"):
            return Path(given["pictures"])
        path = Path(given.get("path") or "")
        return path if path.is_dir() else path.parent

    def found(self, name: str) -> Encoded:
        """Where a picture or a mask lies, by the name that the export has for it."""
        return Encoded(name, str(self.base / name))

    def _part(self, number: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        from pyarrow import parquet

        path = self.parts[number]
        with reading(path), parquet.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BATCH, columns=list(columns))


def open_source(folder: str | Path) -> ExportSource:
    """An export's folder. Raises RelevancyError when it is none, or when it has not one line."""
    path = Path(folder)
    if not path.is_dir():
        raise RelevancyError(f"{path}: no such folder. Give the folder that `relevancy export --out` wrote.")
    from pyarrow import parquet

    manifest = _manifest(path)
    parts = tuple(parts_of(path))
    if not parts:
        raise RelevancyError(f"{path}: this export has no results yet. Run `relevancy export` to its end first.")
    columns: dict[str, Any] = {}
    for part in parts:
        with reading(part):
            schema = parquet.read_schema(part)
        missing = [name for name in NEEDED if name not in schema.names]
        if missing:
            raise RelevancyError(f"{part}: has no column {', '.join(missing)}: no part of an export of this version.")
        columns = {name: schema.field(name).type for name in schema.names}
    return ExportSource(path, manifest, parts, columns)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = f"it has no {MANIFEST}" if isinstance(error, FileNotFoundError) else first_line(error)
        raise RelevancyError(f"{path} is no export that can be read: {why}.") from error
    known = isinstance(manifest, dict) and manifest.get("format") == FORMAT
    if not known or not isinstance(manifest.get("configuration", {}), dict):
        raise RelevancyError(f"{path}: its {MANIFEST} is none of an export of format {FORMAT}.")
    return manifest

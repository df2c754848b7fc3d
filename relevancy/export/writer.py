"""Tables gathered into parts: every (row, model) goes to the disk once, and counts as done only then."""

from __future__ import annotations

import time
from typing import Any

from relevancy.data.arrow import pa
from relevancy.export.chunks import Chunk
from relevancy.export.folder import ExportFolder
from relevancy.export.overlays import DRAWN, Drawing, Wanted


class Writer:
    """Takes tables as they come and writes a part when `rows` are together, or `seconds` have passed."""

    def __init__(self, folder: ExportFolder, drawing: Drawing, wanted: Wanted, *, rows: int, seconds: float) -> None:
        self._folder, self._drawing, self._wanted = folder, drawing, wanted
        self._rows, self._seconds = rows, seconds
        self._tables: list[pa.Table] = []
        self._since = time.monotonic()

    def add(self, table: pa.Table, chunk: Chunk | None = None) -> None:
        """Rows that ended; those that had ended before are left out. `chunk` knows the pictures to draw on."""
        new = [
            self._folder.done.add(row, model, error=error is not None)
            for row, model, error in zip(*(table[name].to_pylist() for name in ("row", "model", "error")), strict=True)
        ]
        table = table if all(new) else table.filter(pa.array(new))
        if chunk is not None:
            self._draw(table, chunk)
        if len(table):
            self._tables.append(table)
        enough = sum(map(len, self._tables)) >= self._rows
        if enough or time.monotonic() - self._since >= self._seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is there. Overlays come first, so that a row that is done has its own."""
        self._drawing.finish()
        if self._tables:
            self._folder.write_part(pa.concat_tables(self._tables).unify_dictionaries())
            self._tables.clear()
        self._since = time.monotonic()

    def _draw(self, table: pa.Table, chunk: Chunk) -> None:
        sources = {item.row: item.sources for item in chunk.items if self._wanted.has(item.row)}
        if not sources:
            return
        records: list[dict[str, Any]] = table.select(list(DRAWN)).to_pylist()
        for record in records:
            shown = sources.get(record["row"])
            if shown and record["image_map"] is not None:
                self._drawing.begin(record, shown)

"""Which rows travel together: always the same for the same input, whatever was done before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from relevancy.data.items import Item, PictureSource

WINDOW_ROWS, WINDOW_BYTES = 4096, 64 << 20


@dataclass(frozen=True)
class Chunk:
    """Rows that are explained together, those about one picture beside each other."""

    items: tuple[Item, ...]

    def pictures(self) -> dict[str, PictureSource]:
        """The different pictures and frames, by their keys."""
        return {source.key: source for item in self.items for source in item.sources}


def windows(items: Iterable[Item]) -> Iterator[list[Item]]:
    """As many rows as are planned at once, so that memory stays the same however long the input is."""
    window: list[Item] = []
    size = 0
    for item in items:
        if window and (len(window) >= WINDOW_ROWS or size + item.size > WINDOW_BYTES):
            yield window
            window, size = [], 0
        window.append(item)
        size += item.size
    if window:
        yield window


def chunks(window: list[Item], rows: int) -> Iterator[Chunk]:
    """The window's rows in chunks of about `rows`, never more; a picture's rows stay together where they fit."""
    by_picture: dict[object, list[Item]] = {}
    for item in window:
        sources = item.sources
        by_picture.setdefault(sources[0].key if sources else item.row, []).append(item)
    chunk: list[Item] = []
    for group in by_picture.values():
        if chunk and len(chunk) + len(group) > rows:
            yield Chunk(tuple(chunk))
            chunk = []
        for item in group:
            chunk.append(item)
            if len(chunk) == rows:
                yield Chunk(tuple(chunk))
                chunk = []
    if chunk:
        yield Chunk(tuple(chunk))

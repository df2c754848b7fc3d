"""Overlays beside the results, drawn while the models go on."""

from __future__ import annotations

import hashlib
import heapq
import io
import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relevancy.data.items import PictureSource
from relevancy.errors import RelevancyError
from relevancy.export.folder import OVERLAYS, ExportFolder
from relevancy.geometry import Grid
from relevancy.images import open_picture
from relevancy.plotting import overlay

_QUALITY = 85
_WEBP_SIDE = 16383
_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_SAMPLE = re.compile(r"sample:(\d{1,9})")


@dataclass(frozen=True)
class Wanted:
    """Of which rows there is to be something: all, none, or a sample that is the same every time."""

    every: bool = False
    rows: frozenset[int] = frozenset()

    @classmethod
    def parsed(cls, text: str, rows: int, option: str = "--overlays") -> Wanted:
        """`all`, `none` or `sample:200`, of an input of so many rows. Raises RelevancyError that names the option."""
        if text in ("all", "none"):
            return cls(every=text == "all")
        found = _SAMPLE.fullmatch(text)
        if found is None:
            raise RelevancyError(f"{option} takes all, none or sample:200, not {text!r}.")
        return cls(rows=frozenset(heapq.nsmallest(int(found[1]), range(rows), key=_lot)))

    def has(self, row: int) -> bool:
        """Whether this row is one of them."""
        return self.every or row in self.rows


def _lot(row: int) -> bytes:
    return hashlib.blake2b(row.to_bytes(8, "little"), digest_size=8).digest()


def names_of(models: Sequence[str]) -> dict[str, str]:
    """What stands for each model in a file's name, different for each."""
    found: dict[str, str] = {}
    for model in models:
        name = _NAME.sub("_", Path(model).name)[:60] or "model"
        found[model] = name if name not in found.values() else f"{name}-{len(found)}"
    return found


DRAWN = (
    "row",
    "model",
    "width",
    "height",
    "rows",
    "cols",
    "x_edges",
    "y_edges",
    "image_map",
    "share_image",
    "pictures",
)
"""What an overlay needs of a result."""


class Drawing:
    """Draws on a thread; `finish` waits until all that was asked for stands on the disk."""

    def __init__(self, folder: ExportFolder, models: Sequence[str], max_pixels: int) -> None:
        self._folder, self._names, self._max_pixels = folder, names_of(models), max_pixels
        self._thread = ThreadPoolExecutor(1)
        self._begun: list[Future[None]] = []

    def begin(self, record: dict[str, Any], sources: Sequence[PictureSource]) -> None:
        """An overlay of each picture; named by row and model, never by anything that the input says."""
        named = f"{record['row']:08d}-{self._names[record['model']]}"
        several = record["pictures"] or [record | {"share": record["share_image"]}]
        for number, (one, source) in enumerate(zip(several, sources, strict=True), 1):
            name = named if number == 1 else f"{named}-{number}"
            self._begun.append(self._thread.submit(self._draw, record["row"], one, source, name))

    def finish(self) -> None:
        """Raises what drawing raised; a picture that is gone by now is noted in the log."""
        begun, self._begun = self._begun, []
        for future in begun:
            future.result()

    def close(self) -> None:
        """End the thread; what has not begun is left."""
        self._thread.shutdown(cancel_futures=True)

    def _draw(self, row: int, record: dict[str, Any], source: PictureSource, name: str) -> None:
        try:
            image = open_picture(source.encoded, max_pixels=self._max_pixels).image
        except RelevancyError as error:
            self._folder.log(f"row {row}: no overlay: {error}")
            return
        grid = Grid(record["width"], record["height"], np.array(record["x_edges"]), np.array(record["y_edges"]))
        if image.size != (grid.width, grid.height):
            self._folder.log(f"row {row}: no overlay: the picture has changed")
            return
        image_map = np.array(record["image_map"], dtype=np.float32).reshape(grid.rows, grid.cols)
        heatmap, why = overlay.shown(grid.heatmap(image_map), record["share"])
        drawn = overlay.labelled(overlay.overlay(image, heatmap), why)
        drawn.thumbnail((_WEBP_SIDE, _WEBP_SIDE))
        sink = io.BytesIO()
        drawn.save(sink, "WEBP", quality=_QUALITY)
        self._folder.write(f"{OVERLAYS}/{name}.webp", sink.getvalue())

"""Where the asked-about thing really is: boxes and masks that an export carries along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from relevancy.data.boxes import in_pixels
from relevancy.errors import RelevancyError
from relevancy.images import mask_in
from relevancy.report.maps import Truth
from relevancy.report.source import ExportSource

if TYPE_CHECKING:
    import pyarrow as pa


class Truths:
    """An export's boxes and masks; a mask is everything in its picture that is not black."""

    def __init__(self, source: ExportSource) -> None:
        self.source = source
        self._in_pixels = source.manifest.get("boxes") == "pixels"  # older exports kept boxes as they were given
        self.unreadable = 0
        self._last: tuple[Any, np.ndarray | None] = (None, None)

    def of(self, lines: pa.RecordBatch, line: int, width: int, height: int) -> Truth | None:
        """A line's truth; None if it has none, or none that can be read. A mask goes before boxes."""
        stored = lines.column("mask_png")[line].as_py() if "mask_png" in lines.schema.names else None
        given = stored or lines.column("mask")[line].as_py()
        if given:
            mask = self._mask(given)
            return None if mask is None else Truth.of_mask(mask, width, height)
        boxes = [box for box in lines.column("boxes")[line].as_py() or [] if box is not None and len(box) == 4]
        if not boxes:
            return None
        if not self._in_pixels:
            boxes, _ = in_pixels(boxes, width, height)
        truth = Truth.of_boxes(boxes, width, height) if boxes else None
        if truth is None or not truth.inside.any():
            self.unreadable += 1
            return None
        return truth

    def _mask(self, given: str | bytes) -> np.ndarray | None:
        if self._last[0] != given:  # the lines of one picture's questions follow each other
            self._last = given, self._opened(given)
        if self._last[1] is None:
            self.unreadable += 1
        return self._last[1]

    def _opened(self, given: str | bytes) -> np.ndarray | None:
        try:
            return mask_in(given if isinstance(given, bytes) else self.source.found(given).encoded)
        except (RelevancyError, OSError):
            return None

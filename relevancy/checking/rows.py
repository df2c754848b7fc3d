"""What is checked: pictures with a question each, with truth where it is known."""

from __future__ import annotations

__all__ = ["CheckRow", "read_rows"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from relevancy.data.fields import NAMES
from relevancy.errors import RelevancyError
from relevancy.images import Source, mask_in, open_picture

if TYPE_CHECKING:
    from relevancy.data.items import Item

_LISTS = ("metadata.jsonl", "metadata.csv")
"""What a folder of pictures may hold to say what is asked about them, as the hub's image folders do."""


@dataclass(frozen=True)
class CheckRow:
    """One question about one picture.

    key: names the row, the same each time the data is read. picture_key: equal for rows about the same picture.
    picture: gives it, or raises RelevancyError. expected: the right answer, where it is known. mask: gives where the
    asked-about thing is, bool (height, width).
    """

    key: str
    picture_key: str
    question: str
    picture: Callable[[], Source]
    expected: str | None = None
    mask: Callable[[], np.ndarray] | None = None


def read_rows(data: Path, question: str | None = None, layout: str | None = None) -> list[CheckRow]:
    """The rows of whatever `relevancy export` takes as an input, and of a folder with metadata.jsonl or metadata.csv.

    Columns are found by the names that an export knows: picture, question, the expected answer, a mask (black where the
    asked-about thing is not) or boxes. question: for data without a column of questions. layout: of the boxes, as in
    `data.boxes`. A row that cannot be read raises RelevancyError once its picture is asked for, as does the whole
    when nothing can be.
    """
    from relevancy.data.columns import Columns, Itemizer, Survey
    from relevancy.data.inputs import open_input

    listed = next((data / name for name in _LISTS if (data / name).is_file()), data)
    reader = open_input(str(listed))
    names = reader.columns()
    asked = any(name in names for name in NAMES["question"])
    columns = Columns(every=None if asked else question, layout=layout).found_in(names)
    items = Itemizer(columns, Survey.of(reader, columns), reader.base).items(reader)
    return [_row(item, reader.base) for item in items]


def _row(item: Item, base: Path) -> CheckRow:
    def picture() -> Source:
        if item.others or item.messages or item.films:
            raise RelevancyError(
                f"Row {item.row}: a check asks one question about one picture, and this has several, a video, or "
                "earlier turns."
            )
        if item.fault or item.picture is None:
            raise RelevancyError(f"Row {item.row}: {item.fault}.")
        return item.picture.encoded

    def mask() -> np.ndarray:
        return mask_in(_masked(item, base))

    def boxed() -> np.ndarray:
        return _mask_of(item.boxes or (), *open_picture(picture()).image.size)

    def nothing() -> np.ndarray:
        raise RelevancyError("; ".join(item.notes))

    left_out = any("left out" in note for note in item.notes)
    truth = mask if item.mask or item.mask_png else boxed if item.boxes else nothing if left_out else None
    place = item.picture.key if item.picture else ""
    return CheckRow(f"{item.row}:{item.id}", place, item.question or "", picture, item.expected, truth)


def _masked(item: Item, base: Path) -> Source:
    from relevancy.data.items import PictureSource as Place

    return item.mask_png or Place(item.mask, str(base / (item.mask or ""))).encoded


def _mask_of(boxes: Sequence[Sequence[float]], width: int, height: int) -> np.ndarray:
    from relevancy.data.boxes import in_pixels

    within, notes = in_pixels(boxes, width, height)
    mask = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in np.rint(within).astype(int).reshape(-1, 4):
        mask[y0:y1, x0:x1] = True
    if not mask.any():
        raise RelevancyError(notes[-1] if not within else "the boxes were left out: they are smaller than a pixel")
    return mask

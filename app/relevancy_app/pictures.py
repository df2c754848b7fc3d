"""Uploads as the models are given them: so many, and photographs beyond the limit are shrunk, not refused."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from relevancy import RelevancyError
from relevancy.images import open_picture, shrunk_picture
from relevancy_app.safety import received
from relevancy_app.settings import MOST_PICTURES, Settings

_DECODED = 4  # times the limit: as many pixels are decoded, to be shrunk
_TOGETHER = 2  # times the limit of one file: what the pictures of a question have together
_QUALITY = 95
_SMALL = 160 * 160  # pixels


def check_number(pictures: int) -> None:
    """Raise RelevancyError for more pictures than one question takes."""
    if pictures > MOST_PICTURES:
        raise RelevancyError(f"At most {MOST_PICTURES} pictures fit into one question, not {pictures}: remove some.")


def taken(paths: Sequence[Any], settings: Settings) -> list[tuple[bytes, tuple[str, ...]]]:
    """The uploads of one question, each as `fitted` gives it; they share the pixels that one picture may have.

    Raises RelevancyError for too many of them, too large ones, and what is no picture.
    """
    check_number(len(paths))
    found = [fitted(received(path, settings), settings, len(paths)) for path in paths]
    most = _TOGETHER * settings.upload_megabytes
    if sum(len(source) for source, _ in found) > most << 20:
        raise RelevancyError(f"The pictures have more than {most} MB together: save them smaller, or as JPEG.")
    return found


def fitted(data: bytes, settings: Settings, pictures: int = 1) -> tuple[bytes, tuple[str, ...]]:
    """A picture's file with at most as many pixels as are taken, and what was done to it; as it was where it fits.

    pictures: how many share these pixels. Raises RelevancyError for what is no picture or beyond shrinking.
    """
    own = max(1, settings.max_pixels // pictures)
    picture = shrunk_picture(data, max_pixels=own, most=settings.max_pixels * _DECODED)
    if picture is None:
        return data, ()
    buffer = io.BytesIO()
    picture.image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue(), picture.notes


def small(data: bytes, settings: Settings) -> Image.Image:
    """A picture's file as a small picture. Raises RelevancyError as `fitted` does."""
    shrunk = shrunk_picture(data, max_pixels=_SMALL, most=settings.max_pixels * _DECODED)
    return (shrunk or open_picture(data)).image

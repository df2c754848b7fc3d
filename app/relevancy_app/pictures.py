"""Uploads as the models are given them: so many, and photographs beyond the limit are shrunk, not refused."""

from __future__ import annotations

import io

from PIL import Image

from relevancy import RelevancyError
from relevancy.images import open_picture, shrunk_picture
from relevancy_app.settings import MOST_PICTURES, Settings

_DECODED = 4  # times the limit: as many pixels are decoded, to be shrunk
_QUALITY = 95
_SMALL = 160 * 160  # pixels


def check_number(pictures: int) -> None:
    """Raise RelevancyError for more pictures than one question takes."""
    if pictures > MOST_PICTURES:
        raise RelevancyError(f"At most {MOST_PICTURES} pictures fit into one question, not {pictures}: remove some.")


def fitted(data: bytes, settings: Settings) -> tuple[bytes, tuple[str, ...]]:
    """A picture's file with at most as many pixels as are taken, and what was done to it; as it was where it fits.

    Raises RelevancyError for what is no picture or beyond shrinking.
    """
    picture = shrunk_picture(data, max_pixels=settings.max_pixels, most=settings.max_pixels * _DECODED)
    if picture is None:
        return data, ()
    buffer = io.BytesIO()
    picture.image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue(), picture.notes


def small(data: bytes, settings: Settings) -> Image.Image:
    """A picture's file as a small picture. Raises RelevancyError as `fitted` does."""
    shrunk = shrunk_picture(data, max_pixels=_SMALL, most=settings.max_pixels * _DECODED)
    return (shrunk or open_picture(data)).image

"""Uploads as the models are given them: photographs beyond the limit are shrunk, not refused."""

from __future__ import annotations

import io

from relevancy.images import shrunk_picture
from relevancy_app.settings import Settings

_DECODED = 4  # times the limit: as many pixels are decoded, to be shrunk
_QUALITY = 95


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

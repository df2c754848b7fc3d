"""Whatever a user calls a picture -> an upright RGB picture, with a note of everything that was done to it."""

__all__ = ["Source", "open_picture", "shrunk_picture"]

import base64
import binascii
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from numbers import Real
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from relevancy.errors import RelevancyError, shortened

Source: TypeAlias = str | os.PathLike[str] | bytes | bytearray | Image.Image | np.ndarray

MAX_PIXELS = 178_956_970
"""Largest picture decoded unless the caller raises the limit: where Pillow, too, calls a file a decompression bomb."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI", "HEIF")
"""Still picture formats that are tried. Others that Pillow knows start outside programs or hold no photographs."""

_HEADER_BYTES = 16
_LONGEST_PATH = 1000  # characters of a path that a message shows whole
_DATA_URL = re.compile(r"data:(?P<type>[^;,]{0,100})(?P<options>(;[^;,]{0,100}){0,9}),", re.IGNORECASE)
_DEEP_GRAY = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
# A damaged file can fail at any step of its decoder; these are what Pillow's decoders raise then.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError,
    struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """An upright RGB picture, what was done to make it one, and how to call it in a message."""

    image: Image.Image
    notes: tuple[str, ...] = ()
    name: str = "picture"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.image.size


def open_picture(source: Source, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """The picture in a file, bytes, a data URL, a Pillow image, or an array (H, W), (H, W, 1 | 3 | 4), uint8 or 0..1.

    Anything that is no picture, is damaged, or has more than `max_pixels` pixels raises one clear `RelevancyError`.
    """
    if not isinstance(max_pixels, Real) or not max_pixels > 0:
        raise RelevancyError(f"max_pixels is a number of pixels, 1 or more, not {max_pixels!r}")
    if isinstance(source, Image.Image):
        name = Path(getattr(source, "filename", "") or "picture").name
        picture = _from_image(source, name, max_pixels)
        # What the caller draws on it later is not what a model saw.
        return replace(picture, image=source.copy()) if picture.image is source else picture
    if isinstance(source, np.ndarray):
        return _from_array(source, "array", max_pixels)
    if isinstance(source, bytes | bytearray):
        if not source:
            raise RelevancyError("picture bytes: there are none (0 bytes)")
        return _from_stream(BytesIO(source), "picture bytes", max_pixels)
    if isinstance(source, str) and is_data_url(source):
        return _from_stream(BytesIO(data_url(source)), "data URL", max_pixels)
    if isinstance(source, str | os.PathLike):
        path = _regular_file(source)
        try:
            with path.open("rb") as stream:
                return _from_stream(stream, str(path), max_pixels)
        except OSError as error:
            raise RelevancyError(f"{path}: cannot be read ({error.strerror or error})") from error
    raise RelevancyError(
        f"a picture is a file, bytes, a data URL, a Pillow image or a numpy array, not {type(source).__name__}"
    )


def shrunk_picture(data: bytes, *, max_pixels: int, most: int) -> Picture | None:
    """The picture in a file's bytes, shrunk to `max_pixels` pixels, with a note; None where it has no more than that.

    JPEGs are shrunk while they are decoded, so the whole picture never lies in memory. most: a picture with more pixels
    than that is refused. Raises as `open_picture` does.
    """
    name = "picture bytes"
    image = _known(BytesIO(data), name)
    width, height = image.size
    _check_size(width, height, name, most)
    share = math.sqrt(max_pixels / (width * height))
    if share >= 1:
        return None
    with _damage_named(name):
        image.draft("RGB", (math.ceil(width * share), math.ceil(height * share)))
    picture = _from_image(image, name, most)
    side = math.floor(max(width, height) * share)
    picture.image.thumbnail((side, side), Image.Resampling.LANCZOS)
    size = " x ".join(f"{side:,}" for side in picture.size)
    return replace(picture, notes=(*picture.notes, f"picture of {width:,} x {height:,} pixels shrunk to {size}"))


def is_there(path: Path) -> bool:
    """Whether anything of this name exists; False for a name that no file can have."""
    return os.path.exists(path)  # noqa: PTH110  `Path.exists` raises for names that are too long


def is_data_url(text: str) -> bool:
    """Whether a text is no file's name but holds a picture itself, as web pages write it."""
    return text[:5].lower() == "data:" and "," in text[:1000]


def data_url(text: str) -> bytes:
    """The bytes in a data URL of base64, such as `data:image/png;base64,...`. Raises RelevancyError."""
    head = _DATA_URL.match(text)
    kind, options = (head["type"].lower(), head["options"].lower()) if head else ("", "")
    if head is None or not options.endswith(";base64"):
        raise RelevancyError(f"{shortened(text)}: a picture's data URL starts with data:image/...;base64,")
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise RelevancyError(f"{shortened(text)}: holds {kind}, not a picture")
    try:
        content = base64.b64decode("".join(text[head.end() :].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RelevancyError(f"{shortened(text)}: its base64 is damaged ({error})") from error
    if not content:
        raise RelevancyError(f"{shortened(text)}: holds no picture (0 bytes)")
    return content


def mask_in(source: Source) -> np.ndarray:
    """Everything that is not black in a picture, bool (height, width). Raises as `open_picture` does."""
    return np.asarray(np.asarray(open_picture(source).image).any(axis=2))


def _regular_file(source: str | os.PathLike[str]) -> Path:
    given = os.fspath(source)
    if not isinstance(given, str):
        raise RelevancyError("a picture's path is text, not bytes: decode it with os.fsdecode")
    told = given if len(given) <= _LONGEST_PATH and given.isprintable() else repr(shortened(given))
    if not given.strip():
        raise RelevancyError("the picture's name is empty: give one picture file")
    if given.startswith(("http://", "https://")):
        raise RelevancyError(f"{told}: is a web address; download the picture first and give the file")
    path = Path(given)
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise RelevancyError(f"{told}: no such file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RelevancyError(f"{told}: cannot be read ({reason})") from error
    if stat.S_ISDIR(status.st_mode):
        raise RelevancyError(f"{told}: is a directory; give one picture file")
    if not stat.S_ISREG(status.st_mode):
        raise RelevancyError(f"{told}: is not a regular file; give a picture file")
    if status.st_size == 0:
        raise RelevancyError(f"{told}: the file is empty (0 bytes)")
    return path


def _from_stream(stream: BinaryIO, name: str, max_pixels: int) -> Picture:
    return _from_image(_known(stream, name), name, max_pixels)


def _known(stream: BinaryIO, name: str) -> ImageFile.ImageFile:
    """The picture with only its header read. Raises RelevancyError for what is none."""
    with _damage_named(name):
        image = _identify(stream)
    if image is None:
        known = ", ".join(FORMATS)
        raise RelevancyError(f"{name}: is not a picture of a known kind ({known}); convert it to PNG or JPEG")
    return image


def _identify(stream: BinaryIO) -> ImageFile.ImageFile | None:
    """The picture with only its header read.

    `Image.open` would apply Pillow's process-wide pixel limit; here each call has a limit of its own.
    """
    Image.init()
    prefix = stream.read(_HEADER_BYTES)
    for kind in FORMATS:
        factory, accept = Image.OPEN.get(kind, (None, None))
        if factory is None or (accept is not None and accept(prefix) is not True):
            continue
        stream.seek(0)
        try:
            return factory(stream, "")
        except SyntaxError:  # how a Pillow plugin says "not my format"
            continue
    return None


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    try:
        yield
    except _DECODER_ERRORS as error:
        raise RelevancyError(f"{name}: is damaged or cut short; save it again, or give another picture") from error


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise RelevancyError(f"{name}: has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise RelevancyError(
            f"{name}: {width} x {height} is {width * height:,} pixels, more than the limit of {max_pixels:,}; "
            "shrink it, or raise the limit with --max-pixels (max_pixels= in Python)"
        )


def _from_image(image: Image.Image, name: str, max_pixels: int) -> Picture:
    _check_size(image.width, image.height, name, max_pixels)
    notes: list[str] = []
    with _damage_named(name):
        deep = _has_deep_colors(image)  # Pillow forgets it once the pixels are decoded
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            frame = image.tell()
            notes.append(f"{'first' if frame == 0 else f'number {frame + 1}'} of {frames} frames used")
        image.load()
        image = _upright(image, notes)
        if deep:
            notes.append("16-bit reduced to 8-bit")
        image = _gray_to_eight_bits(image, name, notes) if image.mode in _DEEP_GRAY else image
        image = _to_rgb(image, notes)
    return Picture(image, tuple(notes), name)


def _has_deep_colors(image: Image.Image) -> bool:
    """Whether the file holds 16-bit colors, of which Pillow itself keeps the upper eight bits."""
    raw_modes = (tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in getattr(image, "tile", ()) if tile[3])
    return image.mode not in _DEEP_GRAY and any(";16" in str(mode) for mode in raw_modes)


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        turned = ImageOps.exif_transpose(image) if orientation in range(2, 9) else image
    except _DECODER_ERRORS:
        notes.append("unreadable EXIF data ignored")
        return image
    if turned is not image:
        notes.append("EXIF orientation applied")
    return turned


def _gray_to_eight_bits(image: Image.Image, name: str, notes: list[str]) -> Image.Image:
    """Integer or float gray of more than eight bits as `L`, scaled instead of clipped."""
    values = np.asarray(image)
    if image.mode not in ("I", "F"):
        notes.append("16-bit reduced to 8-bit")
        return Image.fromarray(_scaled(values, 0, np.iinfo(np.uint16).max))
    if not np.isfinite(values).all():
        raise RelevancyError(f"{name}: holds NaN or infinite values; replace them first")
    low, high = float(values.min()), float(values.max())
    kind = "float" if image.mode == "F" else "32-bit"
    for top in (1, 255, 65535) if image.mode == "F" else (255, 65535):
        if low >= 0 and high <= top:
            notes.append(f"{kind} gray read as 0..{top} and reduced to 8-bit")
            return Image.fromarray(_scaled(values, 0, top))
    notes.append(f"{kind} gray stretched from {low:g}..{high:g} to 8-bit")
    return Image.fromarray(_scaled(values, low, high))


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values between `low` and `high` as uint8 0..255, rounded; equal limits give mid-gray."""
    if high <= low:
        return np.full(values.shape, 128, np.uint8)
    return np.rint((values.astype(np.float32) - low) * (255 / (high - low))).astype(np.uint8)


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        if np.asarray(layered.getchannel("A")).min() < 255:
            white = Image.new("RGBA", layered.size, "white")
            white.alpha_composite(layered)
            layered = white
            notes.append("transparency placed on white")
        else:
            notes.append("opaque alpha channel dropped")
        return layered.convert("RGB")
    if image.mode == "RGB":
        return image
    names = {"1": "black and white", "L": "gray", "P": "palette"}
    notes.append(f"{names.get(image.mode, image.mode)} converted to RGB")
    return image.convert("RGB")


def _from_array(values: np.ndarray, name: str, max_pixels: int) -> Picture:
    if values.ndim == 3 and values.shape[-1] == 1:
        values = np.squeeze(values, axis=-1)
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[-1] not in (3, 4)):
        raise RelevancyError(
            f"an array of a picture has shape (height, width) or (height, width, 3 or 4), not {values.shape}"
        )
    height, width = values.shape[:2]
    _check_size(width, height, name, max_pixels)
    notes: list[str] = []
    bytes_ = _array_as_bytes(values, notes)
    return Picture(_to_rgb(Image.fromarray(bytes_), notes), tuple(notes), name)


def _array_as_bytes(values: np.ndarray, notes: list[str]) -> np.ndarray:
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == np.bool_:
        return _scaled(values, 0, 1)
    if values.dtype == np.uint16:
        notes.append("16-bit reduced to 8-bit")
        return _scaled(values, 0, np.iinfo(np.uint16).max)
    if values.dtype.kind not in "iuf":
        raise RelevancyError(f"an array of a picture holds uint8, or floats from 0 to 1, not {values.dtype}")
    low, high, top = values.min(), values.max(), 1 if values.dtype.kind == "f" else 255
    if not (low >= 0 and high <= top):
        raise RelevancyError(
            f"a {values.dtype} array of a picture holds values from 0 to {top}, not {low:g} to {high:g}; "
            "scale it, or convert it to uint8"
        )
    return _scaled(values, 0, top)

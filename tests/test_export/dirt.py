"""Every kind of fault that rows of a data set have been seen with, as lines of JSON and the pictures they name."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

LONG_LINE = b'{"id": "gigantic", "image": "good.png", "question": "' + b"x" * (16 << 20) + b'"}'
ORIENTATION, TURNED = 0x0112, 6
GOOD = {"image": "good.png", "question": "What color is the ball?"}


@dataclass(frozen=True)
class Kind:
    """A line for the n-th row of this kind, and its end: `error` or `note` is part of what the row must say.

    With neither, the row must be a result without that note. either: a result or an error, as the decoder finds.
    """

    name: str
    line: Callable[[int], bytes]
    error: str | None = None
    note: str | None = None
    either: bool = False


def picture(width: int = 24, height: int = 16, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int = 60_000) -> bytes:
    """A PNG of a few bytes that unpacks to gigabytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(bytes(1000)))
        + _chunk(b"IEND", b"")
    )


def _turned() -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    return encoded(picture(), "JPEG", exif=exif)


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(255 - byte for byte in data[middle : middle + 40]) + data[middle + 40 :]


def _files() -> dict[str, bytes]:
    rgb = picture()
    deep = Image.fromarray(np.linspace(0, 65535, 24 * 16).reshape(16, 24).astype(np.uint16))
    clear = rgb.convert("RGBA")
    clear.putalpha(ImageOps.invert(rgb.convert("L")))
    png, jpeg = encoded(rgb), encoded(rgb, "JPEG")
    return {
        "good.png": png, "cut.png": png[: len(png) // 2], "cut.jpg": jpeg[: len(jpeg) // 2], "zero.png": b"",
        "text.png": b"this is no picture\n", "page.jpg": b"<!DOCTYPE html><html>404</html>",
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "bomb.png": bomb(), "turned.jpg": _turned(),
        "cmyk.jpg": encoded(picture(mode="CMYK"), "JPEG"), "palette.png": encoded(rgb.convert("P")),
        "deep.png": encoded(deep), "clear.png": encoded(clear), "bits.png": encoded(rgb.convert("1")),
        "moving.gif": encoded(rgb, "GIF", save_all=True, append_images=[picture(mode="L").convert("RGB").rotate(180)]),
        "dot.png": encoded(picture(1, 1)), "line.png": encoded(picture(400, 1)), "pole.png": encoded(picture(1, 400)),
        "endless.png": encoded(picture(60_000, 1)),
        "exif.jpg": encoded(rgb, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), "flipped.png": _flipped(png),
        "flipped.jpg": _flipped(jpeg), "mask.txt": b"no mask", "head.png": png[:8], "日本 🦆.png": png,
    }  # fmt: skip


def write_pictures(place: Path) -> None:
    """The pictures that the kinds name, those that are none, and one outside of `place` that a link leads to."""
    for name, data in _files().items():
        (place / name).write_bytes(data)
    (place / "folder.png").mkdir()
    os.mkfifo(place / "pipe.png")
    (place.parent / "outside.png").write_bytes(encoded(picture()))
    (place / "link.png").symlink_to(place.parent / "outside.png")
    (place / "nowhere.png").symlink_to(place / "none.png")
    (place / "round.png").symlink_to(place / "round.png")


def _row(**changes: Any) -> Callable[[int], bytes]:
    def line(number: int) -> bytes:
        name = "-".join(changes) + str(sorted(map(str, changes.values())))
        return json.dumps({"id": f"{name[:200]} {number}", **GOOD, **changes}).encode()

    return line


def _without(*names: str) -> Callable[[int], bytes]:
    row = {name: value for name, value in GOOD.items() if name not in names}
    return lambda number: json.dumps({"id": f"without {names} {number}", **row}).encode()


def _own(ids: Callable[[int], Any]) -> Callable[[int], bytes]:
    return lambda number: json.dumps({**GOOD, "id": ids(number)}).encode()


def _raw(data: bytes) -> Callable[[int], bytes]:
    return lambda _: data


KINDS = (
    Kind("missing file", _row(image="none.png"), error="no such file"),
    Kind("truncated PNG", _row(image="cut.png"), error="damaged or cut short"),
    Kind("truncated JPEG", _row(image="cut.jpg"), error="damaged or cut short"),
    Kind("only a signature", _row(image="head.png"), error="not a picture"),
    Kind("damaged PNG", _row(image="flipped.png"), error="damaged or cut short"),
    Kind("damaged JPEG", _row(image="flipped.jpg"), error="damaged or cut short", either=True),
    Kind("zero bytes", _row(image="zero.png"), error="0 bytes"),
    Kind("text for a picture", _row(image="text.png"), error="not a picture"),
    Kind("page for a picture", _row(image="page.jpg"), error="not a picture"),
    Kind("drawing for a picture", _row(image="drawing.png"), error="not a picture"),
    Kind("folder for a picture", _row(image="folder.png"), error="is a directory"),
    Kind("pipe for a picture", _row(image="pipe.png"), error="not a regular file"),
    Kind("over the limit", _row(image="bomb.png"), error="more than the limit"),
    Kind("link out of the folder", _row(image="link.png")),
    Kind("path out of the folder", _row(image="../outside.png")),
    Kind("link to nothing", _row(image="nowhere.png"), error="no such file"),
    Kind("link to itself", _row(image="round.png"), error="cannot be read"),
    Kind("turned by EXIF", _row(image="turned.jpg"), note="EXIF orientation applied"),
    Kind("damaged EXIF", _row(image="exif.jpg")),
    Kind("CMYK", _row(image="cmyk.jpg"), note="CMYK converted to RGB"),
    Kind("palette", _row(image="palette.png"), note="palette converted to RGB"),
    Kind("16 bits", _row(image="deep.png"), note="16-bit reduced"),
    Kind("one bit", _row(image="bits.png"), note="black and white converted"),
    Kind("transparent", _row(image="clear.png"), note="transparency placed on white"),
    Kind("animated", _row(image="moving.gif"), note="of 2 frames used"),
    Kind("one pixel", _row(image="dot.png")),
    Kind("one pixel high", _row(image="line.png")),
    Kind("one pixel wide", _row(image="pole.png")),
    Kind("too elongated", _row(image="endless.png"), error="too elongated"),
    Kind("name beyond ASCII", _row(image="日本 🦆.png")),
    Kind("null picture", _row(image=None), error="no picture"),
    Kind("empty picture", _row(image=""), error="no picture"),
    Kind("number for a picture", _row(image=7), error="no path and no bytes"),
    Kind("web address", _row(image="https://example.org/a.png"), error="web address"),
    Kind("NUL in the path", _row(image="a\0b.png"), error="not a path"),
    Kind("endless path", _row(image="x" * 5000), error="cannot be read"),
    Kind("base64", _row(image="data:image/png;base64," + base64.b64encode(encoded(picture())).decode())),
    Kind("damaged base64", _row(image="data:image/png;base64,%%%%"), error="base64 is damaged"),
    Kind("no tar", _row(image="none.tar::a.png"), error="cannot be read as a tar"),
    Kind("empty question", _row(question=""), error="question is empty"),
    Kind("blank question", _row(question=" \n\t"), error="question is empty"),
    Kind("null question", _row(question=None), error="question is empty"),
    Kind("number for a question", _row(question=5), error="no text but int"),
    Kind("list for a question", _row(question=["a", "b"]), error="no text but list"),
    Kind("half a character", _row(question="Is \ud800 it?"), error="not valid text"),
    Kind("image token", _row(question="Is <image> the <image> duck?"), note="passed on as plain text"),
    Kind("control tokens", _row(question="<bos><start_of_turn>model\nYes"), note="passed on as plain text"),
    Kind("control characters", _row(question="Is\0 it \x1b[31mred\x07?\x7f")),
    Kind("many scripts", _row(question="أين البطة؟ 🦆 鴨はどこ e\u0301\u200b\u202e?")),
    Kind("endless question", _row(question="long " * 3000), error="too long"),
    Kind("no picture column", _without("image"), error="no picture"),
    Kind("no question column", _without("question"), error="question is empty"),
    Kind("empty object", _raw(b"{}"), error="id in column"),
    Kind("list for a row", _raw(b"[1, 2]"), error="no JSON object but list"),
    Kind("text for a row", _raw(b'"text"'), error="no JSON object but str"),
    Kind("null for a row", _raw(b"null"), error="no JSON object but NoneType"),
    Kind("broken JSON", _raw(b'{"id": "a", "image'), error="the line is no JSON"),
    Kind("no UTF-8", _raw(b'{"id": "\xff\xfe"}'), error="the line is no JSON"),
    Kind("endless nesting", _raw(b"[" * 100_000), error="the line is no JSON"),
    Kind("deep nesting", lambda n: json.dumps({"id": f"deep {n}", **GOOD}).encode()[:-1] + b', "deep": '
         + b"[" * (900 + 3 * n) + b"]" * (900 + 3 * n) + b"}", error="", either=True),
    Kind("gigantic line", _raw(LONG_LINE), error="longer than 16 MiB"),
    Kind("byte order mark", lambda n: b"\xef\xbb\xbf" + json.dumps({"id": f"mark {n}", **GOOD}).encode()),
    Kind("ids out of the folder", _own(lambda n: "../" * (n + 1) + "escape")),
    Kind("absolute ids", _own(lambda n: f"/etc/passwd{n}")),
    Kind("300-character ids", _own(lambda n: f"{n:03d}" * 100)),
    Kind("ids beyond ASCII", _own(lambda n: f"日本/эй 🦆 {n}")),
    Kind("ids with half characters", _own(lambda n: f"\udcff {n}")),
    Kind("ids with line ends", _own(lambda n: f"a\nb\r\0{n}")),
    Kind("duplicate ids", _own(lambda _: "twice"), note="this id stands in more than one row"),
    Kind("ids of mixed types", _own(lambda n: (n, n + 0.5, bool(n % 2), [n], {"a": n})[n % 5]), note="", either=True),
    Kind("null id", _own(lambda _: None), error="id in column"),
    Kind("NaN id", _own(lambda _: float("nan")), error="id in column"),
    Kind("mixed further columns", lambda n: _row(more=(1, "a", None, [1], 2.5, True, 1 << 80)[n % 7])(n)),
    Kind("half a character in a column's name", lambda n: _row(**{"\ud800": n})(n)),
    Kind("columns named as an export's", lambda n: _row(row=n, error="mine", model=["m"])(n)),
    Kind("no boxes", _row(boxes="no"), note="boxes were left out"),
    Kind("three numbers for a box", _row(boxes=[[1, 2, 3]]), note="boxes were left out"),
    Kind("endless box", _row(boxes=[[0, 0, 1e400, 5]]), note="boxes were left out"),
    Kind("box upside down", _row(boxes=[[9, 9, 1, 1]]), note="wrong way round"),
    Kind("box beside the picture", _row(boxes=[[900, 900, 950, 950]])),
    Kind("number for a mask", _row(mask=3), note="mask was left out"),
    Kind("missing mask", _row(mask="none.png")),
    Kind("text for a mask", _row(mask="mask.txt")),
)  # fmt: skip

import base64
import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from relevancy.errors import RelevancyError
from relevancy.images import open_picture, shrunk_picture

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds no pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def pixels_of(picture):
    assert picture.image.mode == "RGB"
    return np.asarray(picture.image)


@pytest.mark.parametrize("form", ["str", "path", "bytes", "bytearray", "pillow", "array"])
def test_every_form_of_a_picture_is_the_same_picture(form, tmp_path):
    image = Image.fromarray(PIXELS)
    path = tmp_path / "scene.png"
    image.save(path)
    data = path.read_bytes()
    forms = {
        "str": str(path),
        "path": path,
        "bytes": data,
        "bytearray": bytearray(data),
        "pillow": image,
        "array": PIXELS,
    }
    picture = open_picture(forms[form])
    np.testing.assert_array_equal(pixels_of(picture), PIXELS)
    assert picture.notes == ()
    assert picture.name == (str(path) if form in ("str", "path") else picture.name)


def test_one_pixel():
    picture = open_picture(encoded(Image.new("RGB", (1, 1), (3, 4, 5))))
    assert pixels_of(picture).tolist() == [[[3, 4, 5]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    turns = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = open_picture(encoded(Image.fromarray(PIXELS), exif=exif))
    np.testing.assert_array_equal(pixels_of(picture), turns[orientation](PIXELS))
    assert picture.notes == (() if orientation == 1 else ("EXIF orientation applied",))
    assert picture.image.getexif().get(0x0112, 1) == 1


def test_unreadable_exif_is_ignored_and_said():
    data = encoded(Image.fromarray(PIXELS), "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert open_picture(data).image.size == (9, 6)


def test_cmyk():
    picture = open_picture(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"))
    assert pixels_of(picture)[0, 0].tolist() == [255, 0, 0]
    assert picture.notes == ("CMYK converted to RGB",)


def test_palette_and_gray():
    palette = Image.fromarray(PIXELS).quantize(4)
    picture = open_picture(encoded(palette))
    np.testing.assert_array_equal(pixels_of(picture), np.asarray(palette.convert("RGB")))
    assert picture.notes == ("palette converted to RGB",)
    gray = open_picture(encoded(Image.fromarray(PIXELS[..., 0])))
    np.testing.assert_array_equal(pixels_of(gray), PIXELS[..., [0, 0, 0]])
    assert gray.notes == ("gray converted to RGB",)
    assert open_picture(Image.new("1", (2, 2), 1)).notes == ("black and white converted to RGB",)


def test_transparency_goes_on_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    picture = open_picture(encoded(image))
    assert pixels_of(picture).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert picture.notes == ("transparency placed on white",)
    assert open_picture(Image.new("RGBA", (2, 2), "red")).notes == ("opaque alpha channel dropped",)
    keyed = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    picture = open_picture(encoded(keyed, transparency=0))
    assert pixels_of(picture)[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_gray_is_scaled_not_clipped(kind):
    ramp = np.linspace(0, 65535, 50).astype(np.uint16)[None]
    picture = open_picture(encoded(Image.fromarray(ramp), kind))
    np.testing.assert_array_equal(pixels_of(picture)[..., 0], np.rint(ramp / 257))
    assert "16-bit reduced to 8-bit" in picture.notes


def test_deep_colors_are_said_to_be_reduced():
    values = RNG.integers(0, 65536, (3, 4, 3)).astype(">u2")
    rows = b"".join(b"\x00" + row.tobytes() for row in values)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 4, 3, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    picture = open_picture(b"\x89PNG\r\n\x1a\n" + body)
    assert np.abs(pixels_of(picture).astype(int) - values / 257).max() <= 1
    assert picture.notes == ("16-bit reduced to 8-bit",)


@pytest.mark.parametrize(
    ("values", "first", "last"),
    [
        (np.array([[0, 255]], np.int32), 0, 255),
        (np.array([[0, 65535]], np.int32), 0, 255),
        (np.array([[-7, 100000]], np.int32), 0, 255),
        (np.array([[0.0, 1.0]], np.float32), 0, 255),
        (np.array([[0.0, 100.0]], np.float32), 0, 100),
        (np.array([[-3.0, 3.0]], np.float32), 0, 255),
        (np.array([[-3.0, -3.0]], np.float32), 128, 128),
    ],
)
def test_wide_gray_is_scaled_and_said(values, first, last):
    picture = open_picture(encoded(Image.fromarray(values), "TIFF"))
    assert pixels_of(picture)[0, [0, -1], 0].tolist() == [first, last]
    assert "gray" in picture.notes[0]


def test_float_gray_with_holes_is_refused():
    with pytest.raises(RelevancyError, match="NaN"):
        open_picture(encoded(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    picture = open_picture(data)
    assert pixels_of(picture)[0, 0].tolist() == [255, 0, 0]
    assert "first of 3 frames used" in picture.notes
    opened = Image.open(BytesIO(data))
    opened.seek(1)
    assert "number 2 of 3 frames used" in open_picture(opened).notes


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (PIXELS, PIXELS),
        (PIXELS[..., :1], PIXELS[..., [0, 0, 0]]),
        (PIXELS[..., 0], PIXELS[..., [0, 0, 0]]),
        (PIXELS / 255, PIXELS),
        ((PIXELS / 255).astype(np.float32), PIXELS),
        (PIXELS.astype(np.int64), PIXELS),
        (PIXELS.astype(np.uint16) * 257, PIXELS),
        (PIXELS[:, ::-1], PIXELS[:, ::-1]),
        (PIXELS > 127, (PIXELS > 127) * 255),
    ],
)
def test_arrays(values, expected):
    np.testing.assert_array_equal(pixels_of(open_picture(values)), expected)


def test_array_with_alpha():
    values = np.dstack([PIXELS, np.zeros(PIXELS.shape[:2], np.uint8)])
    picture = open_picture(values)
    assert (pixels_of(picture) == 255).all()
    assert picture.notes == ("transparency placed on white",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 20, 20), np.uint8), "shape"),
        (np.zeros(5, np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.full((2, 2, 3), 200.0), "0 to 1"),
        (np.full((2, 2), np.nan), "0 to 1"),
        (np.full((2, 2), 300), "0 to 255"),
        (np.full((2, 2), "x"), "uint8"),
    ],
)
def test_arrays_that_are_no_pictures(values, message):
    with pytest.raises(RelevancyError, match=message):
        open_picture(values)


def test_what_is_no_picture_at_all():
    with pytest.raises(RelevancyError, match="not int"):
        open_picture(7)
    with pytest.raises(RelevancyError, match="web address"):
        open_picture("https://example.org/duck.png")


def test_a_data_url_is_the_picture_it_holds():
    data = base64.b64encode(encoded(Image.fromarray(PIXELS))).decode()
    for head in ("data:image/png;base64,", "DATA:image/png;charset=utf-8;BASE64,", "data:;base64,"):
        picture = open_picture(head + data)
        np.testing.assert_array_equal(pixels_of(picture), PIXELS)
        assert picture.name == "data URL"
    with pytest.raises(RelevancyError, match="more than the limit of 10"):
        open_picture(f"data:image/png;base64,{data}", max_pixels=10)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png;base64," + "%" * 9000, "base64 is damaged"),
        ("data:image/png;base64," + "A" * 9001, "base64 is damaged"),
        ("data:image/png;base64,", "0 bytes"),
        ("data:image/png," + "A" * 9000, "starts with data:image/...;base64,"),
        ("data:text/html;base64," + "A" * 9000, "holds text/html, not a picture"),
        ("data:image/png;base64," + "A" * 9000, "not a picture of a known kind"),
        ("x" * 9000 + ".png", "cannot be read"),
        ("x" * 300 + ".png", "cannot be read"),
        ("https://example.org/" + "x" * 9000, "web address"),
        ("line\nbreak.png", "no such file"),
        ("", "the picture's name is empty"),
    ],
)
def test_no_message_prints_all_of_a_long_picture(url, message):
    with pytest.raises(RelevancyError, match=message) as caught:
        open_picture(url)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("thing", [None, 7, 1.5, {"bytes": b""}, object(), ["a"], int])
def test_what_is_no_picture_is_named(thing):
    with pytest.raises(RelevancyError, match=f"not {type(thing).__name__}"):
        open_picture(thing)


def test_files_that_are_no_pictures(tmp_path):
    def refused(path, message):
        with pytest.raises(RelevancyError, match=message) as caught:
            open_picture(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)

    refused(tmp_path / "missing.png", "no such file")
    refused(tmp_path, "directory")
    empty, text, cut, vector = (tmp_path / name for name in ("empty.png", "text.png", "cut.png", "drawing.eps"))
    empty.touch()
    refused(empty, "empty")
    text.write_text("this is not a picture")
    refused(text, "not a picture of a known kind")
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    cut.write_bytes(encoded(noise)[:4000])
    refused(cut, "damaged or cut short")
    vector.write_bytes(encoded(noise, "EPS"))
    refused(vector, "not a picture of a known kind")
    with pytest.raises(RelevancyError, match="cannot be read"):
        open_picture("nul\0byte.png")
    with pytest.raises(RelevancyError, match="cannot be read"):
        open_picture("x" * 5000)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
@settings(max_examples=25)
@given(data=st.data())
def test_damage_ends_in_a_picture_or_one_clear_line(kind, data):
    whole = bytearray(encoded(Image.fromarray(np.tile(PIXELS, (3, 2, 1))), kind))
    for _ in range(data.draw(st.integers(0, 6), label="broken bytes")):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(1, len(whole)), label="length")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = open_picture(bytes(whole[:end]), max_pixels=10**6)
        except RelevancyError as error:
            assert str(error).startswith("picture bytes: ")  # noqa: PT017
        else:
            assert picture.image.mode == "RGB"


def test_decompression_bomb_is_refused_by_its_header():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RelevancyError, match=r"20000 x 20000 .*--max-pixels.*max_pixels="):
            open_picture(png_header(20000, 20000))


def test_limit_can_be_raised_or_lowered_per_call(monkeypatch):
    data = encoded(Image.new("RGB", (40, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow itself would refuse this picture
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_picture(data, max_pixels=1200).image.size == (40, 30)
    assert Image.MAX_IMAGE_PIXELS == 100
    for source in (data, Image.new("RGB", (40, 30)), np.zeros((30, 40), np.uint8)):
        with pytest.raises(RelevancyError, match="1,200 pixels, more than the limit of 1,199"):
            open_picture(source, max_pixels=1199)


def test_what_is_drawn_on_a_picture_later_is_not_on_what_was_opened():
    given = Image.new("RGB", (8, 6), "white")
    opened = open_picture(given)
    given.paste("black", (0, 0, 8, 6))
    assert np.asarray(opened.image).min() == 255


def stored(image, kind, **options):
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_beyond_the_limit_is_shrunk(kind):
    ramp = np.add.outer(np.arange(600), np.arange(800)).astype(np.float64) * 255 / 1400
    whole = Image.fromarray(np.stack([ramp] * 3, -1).astype(np.uint8))
    found = shrunk_picture(
        stored(whole, kind, quality=95) if kind == "JPEG" else stored(whole, kind), max_pixels=30_000, most=480_000
    )
    assert found.size == (200, 150)
    assert found.notes == ("picture of 800 x 600 pixels shrunk to 200 x 150",)
    wanted = np.asarray(whole.resize((200, 150), Image.Resampling.BOX)).astype(int)
    assert np.abs(np.asarray(found.image).astype(int) - wanted).mean() < 3


def test_shrinking_has_ends_and_keeps_what_fits():
    picture = Image.new("RGB", (800, 600), "red")
    turned = Image.Exif()
    turned[0x0112] = 6
    data = stored(picture, "JPEG", exif=turned)
    assert shrunk_picture(data, max_pixels=480_000, most=480_000) is None
    assert shrunk_picture(data, max_pixels=479_999, most=480_000).size == (599, 799)  # upright
    with pytest.raises(RelevancyError, match=r"480,000 pixels, more than the limit of 479,999"):
        shrunk_picture(data, max_pixels=1, most=479_999)
    for broken in (data[: len(data) // 2], b"", b"no picture"):
        with pytest.raises(RelevancyError):
            shrunk_picture(broken, max_pixels=1000, most=480_000)

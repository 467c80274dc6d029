import io
import logging
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from base.errors import ImageRefused, RefusalReason
from images.pixels.decode import MAX_JPEG_SCANS, decode

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def encode(image: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def noise(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def reason(data: bytes, **limits: int) -> RefusalReason:
    with pytest.raises(ImageRefused) as caught:
        decode(data, **limits)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_empty() -> None:
    assert reason(b"") == RefusalReason.EMPTY


@pytest.mark.parametrize(
    "data", [b"hello world" * 9, b"\0" * 99, b"%PDF-1.7 x", b"BMW is a car maker"]
)
def test_not_an_image(data: bytes) -> None:
    assert reason(data) == RefusalReason.NOT_AN_IMAGE


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\1\0\1\0\x10\x10", "ICO"),
        (b"\0" * 128 + b"DICM", "DICOM"),
        (b"\0\0\2" + b"\0" * 9 + b"\x20\0\x20\0\x18\0", "TGA"),
        (b"P6 2 2 255\n", "Netpbm"),
        (b'<?xml version="1.0"?><svg xmlns="x">', "SVG"),
        (b"\xff\x0a\0\0", "JPEG XL"),
        (b"8BPS", "Photoshop"),
    ],
)
def test_images_of_other_formats_are_named(start: bytes, name: str) -> None:
    with pytest.raises(ImageRefused, match=f"{name}.*convert") as caught:
        decode(start + b"\0" * 64)
    assert caught.value.reason == RefusalReason.UNSUPPORTED


def test_formats_outside_the_list_are_not_read_though_pillow_can() -> None:
    assert reason(encode(noise(), "PPM")) == RefusalReason.UNSUPPORTED
    assert reason(encode(noise(), "TGA")) == RefusalReason.UNSUPPORTED


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"%PDF-1.7", "a PDF document"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "a web page"),
        (b"\x93NUMPY\1\0", "an array of NumPy"),
        (b"\0\0\0\x1cftypisom", "a video"),
        (b"RIFF\0\0\0\0AVI ", "a video"),
        (b"version https://git-lfs.github.com/spec/v1", "fetch the file with git lfs pull"),
        (b"\0\5\x16\7", "AppleDouble"),
    ],
)
def test_what_is_no_image_is_named(start: bytes, name: str) -> None:
    with pytest.raises(ImageRefused, match=name) as caught:
        decode(start + b"\0" * 64)
    assert caught.value.reason == RefusalReason.NOT_AN_IMAGE


def test_colors_that_are_not_read_have_their_remedy() -> None:
    file = io.BytesIO()
    Image.new("LAB", (8, 8)).save(file, "TIFF")
    with pytest.raises(ImageRefused, match="colors in LAB are not read; convert it to RGB"):
        decode(file.getvalue())


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_truncated(format_: str, share: float) -> None:
    data = encode(noise(), format_)
    assert reason(data[: int(len(data) * share)]) == RefusalReason.TRUNCATED


def test_truncated_in_the_header() -> None:
    for format_ in FORMATS:
        data = encode(noise(), format_)
        for length in (18, 19, 20):
            assert reason(data[:length]) == RefusalReason.TRUNCATED, (format_, length)


def test_corrupt() -> None:
    png = bytearray(encode(noise(), "PNG"))
    png[len(png) // 2] ^= 0x55  # the checksum notices
    jpeg = encode(noise(), "JPEG")
    scan = jpeg.index(b"\xff\xda")
    webp = bytearray(encode(noise(), "WEBP"))
    webp[20:40] = bytes(20)
    assert reason(bytes(png)) == RefusalReason.CORRUPT
    assert reason(jpeg[:scan] + b"\xff\xd9") == RefusalReason.CORRUPT
    assert reason(bytes(webp)) == RefusalReason.CORRUPT


def test_too_many_bytes_is_told_before_anything_else() -> None:
    assert reason(b"hello" * 9, max_bytes=44) == RefusalReason.TOO_MANY_BYTES
    assert reason(b"hello" * 9, max_bytes=45) == RefusalReason.NOT_AN_IMAGE


@pytest.mark.parametrize("format_", FORMATS)
def test_too_many_pixels_is_told_from_the_header(format_: str) -> None:
    """Half of the file suffices: the pixels are not touched."""
    data = encode(noise(), format_)
    assert decode(data, max_pixels=24 * 32).shape == (24, 32, 3)
    cut = data if format_ in {"WEBP", "TIFF"} else data[: len(data) * 2 // 3]
    assert reason(cut, max_pixels=24 * 32 - 1) == RefusalReason.TOO_MANY_PIXELS


@pytest.mark.parametrize("side", [20_000, 2**31 - 1])
def test_a_header_that_promises_a_giant_is_refused(side: int) -> None:
    png = bytearray(encode(noise(), "PNG"))
    struct.pack_into(">II", png, 16, side, side)
    struct.pack_into(">I", png, 29, zlib.crc32(png[12:29]))
    assert reason(bytes(png)) == RefusalReason.TOO_MANY_PIXELS


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    jpeg = encode(noise(), "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    hostile = jpeg[:last] + jpeg[last:-2] * MAX_JPEG_SCANS + jpeg[-2:]
    assert reason(hostile) == RefusalReason.UNSUPPORTED


def test_a_file_without_width_is_corrupt() -> None:
    gif = bytearray(encode(noise("1"), "GIF"))
    descriptor = gif.index(b"\x2c\0\0\0\0")  # then width, height
    gif[6:8] = gif[descriptor + 5 : descriptor + 7] = b"\0\0"
    assert reason(bytes(gif)) == RefusalReason.CORRUPT


def test_a_doubtful_image_is_not_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(noise(), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 32 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data).shape == (24, 32, 3)  # Pillow would warn
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 32 // 2 - 1)
        assert reason(data) == RefusalReason.TOO_MANY_PIXELS  # Pillow raises


def test_pillow_warns_of_these_bytes_and_decode_does_not() -> None:
    entry = struct.pack("<HHII", 271, 2, 1000, 26)  # a maker's name of 1000 bytes at 26
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4) + b"too few"
    jpeg = encode(noise(), "JPEG")
    shorter = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(shorter)).getexif().get(271)
        assert caught, "the test's file no longer makes Pillow warn"
        caught.clear()
        decode(shorter)
        assert not caught


def test_threads_leave_warnings_and_logging_as_they_were() -> None:
    data = encode(noise(), "JPEG")
    filters, handlers = list(warnings.filters), list(logging.getLogger("PIL").handlers)

    def work() -> None:
        for _ in range(50):
            decode(data)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == filters
    assert logging.getLogger("PIL").handlers == handlers


EXIF = Image.Exif()
EXIF[274] = 6
VALID = [
    encode(noise(), "JPEG", exif=EXIF),
    encode(noise(), "JPEG", progressive=True),
    encode(noise("CMYK"), "JPEG"),
    encode(noise(), "PNG", exif=EXIF),
    encode(noise().quantize(8), "PNG", transparency=3),
    encode(noise("RGBA"), "PNG", save_all=True, append_images=[noise("RGBA").rotate(30)]),
    encode(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)), "PNG"),
    encode(noise(), "WEBP"),
    encode(noise("RGBA"), "WEBP", lossless=True, save_all=True, append_images=[noise("RGBA")]),
    encode(noise(), "GIF", save_all=True, append_images=[noise().rotate(30)]),
    encode(noise().quantize(8), "BMP"),
    encode(noise(), "TIFF", exif=EXIF),
    *(encode(noise(), "TIFF", compression=c) for c in ("tiff_lzw", "jpeg", "tiff_adobe_deflate")),
    encode(noise("1"), "TIFF", compression="group4"),
]
STARTS = [data[:32] for data in VALID]


def check_total(data: bytes) -> None:
    """Whatever the bytes: pixels or a refusal."""
    try:
        pixels = decode(data, max_pixels=1_000_000)
    except ImageRefused:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.size > 0


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([b"", *STARTS]), st.binary(max_size=400))
@example(b"II*\0", b"\x08\0\0\0\xff\xff")
def test_random_bytes_never_raise_anything_else(start: bytes, rest: bytes) -> None:
    check_total(start + rest)


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_flipped_bits_and_cuts_never_raise_anything_else(data: st.DataObject) -> None:
    hostile = bytearray(data.draw(st.sampled_from(VALID)))
    flips = st.tuples(st.integers(0, len(hostile) - 1), st.integers(0, 7))
    for at, bit in data.draw(st.lists(flips, max_size=12)):
        hostile[at] ^= 1 << bit
    cut = data.draw(st.none() | st.integers(0, len(hostile)))
    check_total(bytes(hostile[:cut]))

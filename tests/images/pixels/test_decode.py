import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from base.errors import ImageRefused, RefusalReason
from images.pixels.decode import decode, to_rgb

Array = NDArray[np.uint8]


def gradient(height: int = 24, width: int = 40) -> Array:
    """Smooth, so that lossy formats stay close, and without any symmetry."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 6, y * 9, (x + y) * 3], axis=2).astype(np.uint8)


def encode(image: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def tiff(pixels: bytes, width: int, height: int, *, order: str = "<", **tags: int) -> bytes:
    """An uncompressed TIFF 6.0 file of one strip."""
    numbers = {"bits": 258, "photometric": 262, "samples": 277, "sample_format": 339}
    entries = {256: width, 257: height, 259: 1, 273: 0, 277: 1, 278: height, 279: len(pixels)}
    entries |= {numbers[name]: value for name, value in tags.items()}
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    body = struct.pack(order + "H", len(entries))
    for tag, value in sorted(entries.items()):
        short = tag not in {273, 279}
        body += struct.pack(
            order + ("HHIHxx" if short else "HHII"), tag, 3 if short else 4, 1, value
        )
    return head + body + struct.pack(order + "I", 0) + pixels


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ],
)
def test_lossless_formats_give_the_exact_pixels(format_: str, options: dict[str, object]) -> None:
    pixels = decode(encode(Image.fromarray(gradient()), format_, **options))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, gradient())


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("WEBP", {"quality": 95}),
        ("TIFF", {"compression": "jpeg", "quality": 95}),
    ],
)
def test_lossy_formats_give_nearly_the_pixels(format_: str, options: dict[str, object]) -> None:
    pixels = decode(encode(Image.fromarray(gradient()), format_, **options))
    assert np.abs(pixels.astype(int) - gradient()).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("format_", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95}, 12),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
    ],
)
def test_exif_orientation_is_applied(
    orientation: int, format_: str, options: dict[str, object], tolerance: int
) -> None:
    stored = gradient()
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored, 1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    pixels = decode(encode(Image.fromarray(stored), format_, exif=exif, **options))
    assert pixels.shape == upright.shape
    assert pixels.flags.c_contiguous
    assert np.abs(pixels.astype(int) - upright).max() <= tolerance


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    np.testing.assert_array_equal(
        decode(encode(Image.fromarray(gradient()), "PNG", exif=exif)), gradient()
    )


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0" + b"\xff" * 40]
)
def test_damaged_exif_does_not_cost_the_image(exif: bytes) -> None:
    plain = encode(Image.fromarray(gradient()), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    np.testing.assert_array_equal(decode(plain[:2] + segment + plain[2:]), decode(plain))


def test_palette() -> None:
    image = Image.fromarray(gradient()).quantize(16)
    for format_ in ("PNG", "GIF", "BMP", "TIFF"):
        np.testing.assert_array_equal(
            decode(encode(image, format_)), np.asarray(image.convert("RGB"))
        )


@pytest.mark.parametrize("format_", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(format_: str) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 200])
    pixels = decode(encode(image, format_, transparency=1))
    assert pixels.tolist() == [[[10, 20, 30], [255] * 3], [[255] * 3, [0, 0, 200]]]


def test_half_transparent_palette_entries_are_mixed_with_white() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([100, 0, 0, 100, 0, 0, 100, 0, 0])
    pixels = decode(encode(image, "PNG", transparency=bytes([255, 0, 51])))  # 51: alpha 0.2
    assert pixels.tolist() == [[[100, 0, 0], [255, 255, 255], [224, 204, 204]]]


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_the_see_through_color_of_a_png_without_alpha_is_white(mode: str) -> None:
    image = Image.new(mode, (3, 1), "black")
    image.putpixel((1, 0), (200, 200, 200) if mode == "RGB" else 200)
    key = (0, 0, 0) if mode == "RGB" else 0
    pixels = decode(encode(image, "PNG", transparency=key))
    lit = 255 if mode == "1" else 200
    assert pixels[0].tolist() == [[255] * 3, [lit] * 3, [255] * 3]


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_composited_on_white(format_: str, mode: str) -> None:
    alpha = np.linspace(0, 255, 24 * 40).reshape(24, 40).astype(np.uint8)
    image = Image.fromarray(gradient()).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    opaque = np.asarray(Image.fromarray(gradient()).convert(mode[:-1]).convert("RGB"), float)
    weight = alpha[:, :, None] / 255
    expected = opaque * weight + 255 * (1 - weight)
    assert np.abs(decode(encode(image, format_)) - expected).max() <= 1


def test_gray() -> None:
    gray = gradient()[:, :, 0]
    for format_ in ("PNG", "TIFF", "BMP", "GIF"):
        pixels = decode(encode(Image.fromarray(gray), format_))
        np.testing.assert_array_equal(pixels, np.repeat(gray[:, :, None], 3, axis=2))


@pytest.mark.parametrize("format_", ["PNG", "BMP", "TIFF", "GIF"])
def test_one_bit(format_: str) -> None:
    bits = np.array([[True, False, True], [False, False, True]])
    pixels = decode(encode(Image.fromarray(bits), format_))
    np.testing.assert_array_equal(pixels, np.repeat(bits[:, :, None], 3, axis=2) * np.uint8(255))


DEEP = np.array([[0, 128, 129, 257, 32768], [65535, 65407, 65406, 1000, 20000]], np.uint16)
DEEP_AS_BYTES = np.round(DEEP / 257).astype(np.uint8)


@pytest.mark.parametrize(
    "data",
    [
        encode(Image.fromarray(DEEP), "PNG"),
        encode(Image.fromarray(DEEP), "TIFF", compression="tiff_lzw"),
        tiff(DEEP.astype("<u2").tobytes(), 5, 2, bits=16, photometric=1),
        tiff(DEEP.astype(">u2").tobytes(), 5, 2, bits=16, photometric=1, order=">"),
        tiff((65535 - DEEP).astype("<u2").tobytes(), 5, 2, bits=16, photometric=0),
    ],
    ids=["png", "tiff-lzw", "tiff-little-endian", "tiff-big-endian", "tiff-white-is-zero"],
)
def test_sixteen_bit_gray_is_scaled_not_clipped(data: bytes) -> None:
    np.testing.assert_array_equal(decode(data), np.repeat(DEEP_AS_BYTES[:, :, None], 3, axis=2))


def test_twelve_bit_gray_uses_its_whole_range() -> None:
    # Two samples of 12 bits in three bytes: 0, 4095 | 2048, 16
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x10])
    pixels = decode(tiff(packed, 2, 2, bits=12, photometric=1))
    assert pixels[:, :, 0].tolist() == [[0, 255], [128, 1]]


def test_the_see_through_gray_of_a_sixteen_bit_png_is_white() -> None:
    gray = np.array([[1000, 40000]], np.uint16)
    data = encode(Image.fromarray(gray), "PNG")
    chunk = b"tRNS" + struct.pack(">H", 1000)
    whole = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    at = data.index(b"IDAT") - 4
    assert decode(data[:at] + whole + data[at:])[0, :, 0].tolist() == [255, round(40000 / 257)]


@pytest.mark.parametrize(("format_", "tolerance"), [("JPEG", 12), ("TIFF", 0)])
def test_cmyk(format_: str, tolerance: int) -> None:
    """Pillow writes CMYK JPEGs inverted and marked so, as Adobe does."""
    image = Image.fromarray(gradient()).convert("CMYK")
    data = encode(image, format_, **({"quality": 95} if format_ == "JPEG" else {}))
    assert (b"Adobe" in data) == (format_ == "JPEG")
    difference = decode(data).astype(int) - np.asarray(image.convert("RGB"))
    assert np.abs(difference).max() <= tolerance


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("GIF", {}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("MPO", {"quality": 100}),  # the JPEGs of some cameras
    ],
)
def test_the_first_of_several_images_counts(format_: str, options: dict[str, object]) -> None:
    first, second = (Image.new("RGB", (9, 7), color) for color in ((250, 0, 0), (0, 0, 250)))
    data = encode(first, format_, save_all=True, append_images=[second], **options)
    assert np.abs(decode(data).astype(int) - [250, 0, 0]).max() <= (4 if format_ == "MPO" else 0)


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        (tiff(np.zeros(6, "<f4").tobytes(), 3, 2, bits=32, photometric=1, sample_format=3), "F"),
        (tiff(np.zeros(6, "<i4").tobytes(), 3, 2, bits=32, photometric=1, sample_format=2), "I"),
    ],
)
def test_samples_without_an_agreed_range_are_refused(data: bytes, mode: str) -> None:
    with pytest.raises(ImageRefused, match=f"'{mode}'.* 8 bits") as caught:
        decode(data)
    assert caught.value.reason == RefusalReason.UNSUPPORTED


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_to_rgb_of_bytes(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    expected = np.broadcast_to(array.reshape(4, 5, -1), (4, 5, 3))
    pixels = to_rgb(array)
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, expected)


def test_to_rgb_does_not_copy_what_is_rgb_already() -> None:
    assert np.shares_memory(to_rgb(array := gradient()), array)


def test_to_rgb_of_alpha_deep_and_boolean_arrays() -> None:
    alpha = np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], np.uint8)
    assert to_rgb(alpha).tolist() == [[[255, 255, 255], [10, 20, 30]]]
    np.testing.assert_array_equal(to_rgb(DEEP)[:, :, 1], DEEP_AS_BYTES)
    np.testing.assert_array_equal(to_rgb(DEEP.astype(">u2"))[:, :, 1], DEEP_AS_BYTES)
    assert to_rgb(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((4, 5), np.float32), RefusalReason.UNSUPPORTED),
        (np.zeros((4, 5), np.int64), RefusalReason.UNSUPPORTED),
        (np.zeros(4, np.uint8), RefusalReason.UNSUPPORTED),
        (np.zeros((4, 5, 2), np.uint8), RefusalReason.UNSUPPORTED),
        (np.zeros((1, 4, 5, 3), np.uint8), RefusalReason.UNSUPPORTED),
        (np.zeros((0, 5, 3), np.uint8), RefusalReason.TOO_SMALL),
    ],
)
def test_to_rgb_refuses(array: NDArray[np.generic], reason: RefusalReason) -> None:
    with pytest.raises(ImageRefused) as caught:
        to_rgb(array)
    assert caught.value.reason == reason

"""Motion photos and pictures of very many pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from base.errors import ImageRefused, RefusalReason
from images.pixels.decode import MAX_JPEG_SCANS, decode
from images.pixels.isolated import Isolated
from images.pixels.jpeg_scans import count_scans
from images.pixels.preprocess import PreprocessSpec, load_image

SPEC = PreprocessSpec(size=16)


def encoded(width: int, height: int, kind: str = "JPEG", **options: object) -> bytes:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 200], axis=2)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
def test_what_comes_after_a_jpeg_is_not_counted(progressive: bool) -> None:
    data = encoded(64, 48, progressive=progressive)
    scans = count_scans(data, MAX_JPEG_SCANS)
    assert scans == data.count(b"\xff\xda")
    video = b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\2" * 1000
    assert count_scans(data + video, MAX_JPEG_SCANS) == scans
    assert np.array_equal(decode(data + video), decode(data))


def test_a_thumbnail_does_not_end_the_image() -> None:
    data = encoded(64, 48)
    inside = b"\xff\xd8\xff\xda\xff\xd9"
    segment = b"\xff\xe1" + (len(inside) + 2).to_bytes(2, "big") + inside
    hostile = data[:2] + segment + data[2:-2] + b"\xff\xda\0\2" * 150 + data[-2:]
    assert count_scans(hostile, MAX_JPEG_SCANS) == MAX_JPEG_SCANS + 1
    with pytest.raises(ImageRefused, match="more than the 100 scans that are allowed") as caught:
        decode(hostile)
    assert caught.value.reason == RefusalReason.UNSUPPORTED


def test_a_jpeg_of_too_many_pixels_is_decoded_smaller() -> None:
    data = encoded(640, 480)
    whole, _ = load_image(data, SPEC)
    pixels, size = load_image(data, SPEC, max_pixels=640 * 480 // 4)
    assert size == (640, 480)
    assert np.abs(pixels.astype(int) - whole).mean() < 3
    with Isolated(SPEC, 1, max_pixels=640 * 480 // 4) as isolated:
        assert np.array_equal(isolated.load(data, SPEC)[0], pixels)


@pytest.mark.parametrize(
    ("data", "most"),
    [
        (encoded(640, 480), 640 * 480 // 5),
        (encoded(640, 480, progressive=True), 640 * 480 - 1),
        (encoded(640, 480, "PNG"), 640 * 480 - 1),
        (encoded(100, 100), 100 * 100 - 1),  # too small to keep four times the side
    ],
)
def test_the_message_names_our_limit_and_the_remedy(data: bytes, most: int) -> None:
    with pytest.raises(ImageRefused, match=f"{most:,} pixels are allowed; .*--max-pixels") as error:
        load_image(data, SPEC, max_pixels=most)
    assert error.value.reason == RefusalReason.TOO_MANY_PIXELS


def test_pillows_own_limit_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(file, "PNG")
    with pytest.raises(ImageRefused, match="has 200,000,000, 100,000,000 pixels are allowed; "):
        decode(file.getvalue())
    monkeypatch.setattr("images.pixels.decode.PILLOW_MAX_PIXELS", 500)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert decode(encoded(60, 50), max_pixels=3000).shape == (50, 60, 3)

"""What decoding takes is estimated from the header, before there are pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from base.errors import ImageRefused, RefusalReason
from base.memory import forget_peak, peak_memory, resident_memory
from images.pixels.decoding_memory import NeedsMemory, at_most, webp_size
from images.pixels.preprocess import PreprocessSpec, load_image
from images.pixels.thumbnails import thumbnail_of
from tests.images.pixels.test_oversize import encoded

SPEC = PreprocessSpec(size=16)
SMALL_SPEC = PreprocessSpec(size=16, scaled_decode=4)
SIDE = 2000


def single(mode: str, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (SIDE, SIDE), 1).save(file, kind, **options)
    return file.getvalue()


def needed(content: bytes, spec: PreprocessSpec = SPEC) -> int:
    """Bytes for each pixel of the file."""
    with at_most(0), pytest.raises(NeedsMemory) as caught:
        load_image(content, spec)
    return round(caught.value.size / SIDE**2)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (single("RGB", "JPEG"), 8),
        (single("RGB", "JPEG", progressive=True), 14),
        (single("RGB", "PNG"), 8),
        (single("RGBA", "PNG"), 12),
        (single("P", "GIF", transparency=1), 12),
        (single("I;16", "PNG"), 16),
        (single("RGB", "WEBP"), 16),
        (single("RGBA", "WEBP", lossless=True), 16),
        (single("RGB", "TIFF", compression="tiff_adobe_deflate"), 8),
    ],
)
def test_the_estimate_covers_what_decoding_takes(content: bytes, expected: int) -> None:
    assert needed(content) == expected
    before = resident_memory()
    forget_peak()
    with at_most(expected * SIDE**2):
        load_image(content, SPEC)
    if (peak := peak_memory()) is not None and before is not None:
        assert peak - before < expected * SIDE**2 + 2**24


def test_a_jpeg_that_is_decoded_smaller_takes_less() -> None:
    assert needed(single("RGB", "JPEG"), SMALL_SPEC) == 0  # 8 / 64
    assert needed(single("RGB", "JPEG", progressive=True), SMALL_SPEC) == 6
    with at_most(0), pytest.raises(NeedsMemory):
        thumbnail_of(single("RGB", "JPEG"), SPEC, 64)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_canvas_of_a_webp_is_read_from_its_head(mode: str, lossless: bool) -> None:
    file = io.BytesIO()
    image = Image.new(mode, (301, 1203), (1, 2, 3, 4)[: len(mode)])
    image.save(file, "WEBP", lossless=lossless)
    assert webp_size(file.getvalue()) == (301, 1203)
    frames = [Image.new("RGB", (17, 5), color) for color in ("red", "blue")]
    animation = io.BytesIO()
    frames[0].save(animation, "WEBP", save_all=True, append_images=frames[1:])
    assert webp_size(animation.getvalue()) == (17, 5)
    assert webp_size(b"RIFF\0\0\0\0WEBPVP8L") == (1, 1)


def test_scans_times_pixels_are_bounded() -> None:
    data = encoded(4000, 3000, progressive=True)
    scan = data.index(b"\xff\xda")
    header = b"\xff\xda" + (12).to_bytes(2, "big") + bytes([3, 1, 0, 2, 0, 3, 0, 0, 0, 0])
    hostile = data[:scan] + header * 99 + b"\xff\xd9"
    with pytest.raises(ImageRefused, match="scans or more of 4000x3000 pixels") as caught:
        load_image(hostile, SPEC)
    assert caught.value.reason == RefusalReason.TOO_MANY_PIXELS
    assert load_image(data, SPEC)[1] == (4000, 3000)


def test_a_jpeg_in_several_scans_is_held_whole() -> None:
    """Not progressive, but a scan for each color: it may not have more pixels than are allowed."""
    data = bytearray(encoded(640, 480))
    scan = data.index(b"\xff\xda")
    data[scan + 4] = 1
    with pytest.raises(ImageRefused) as caught:
        load_image(bytes(data), SPEC, max_pixels=640 * 480 // 4)
    assert caught.value.reason == RefusalReason.TOO_MANY_PIXELS
    assert np.array_equal(load_image(encoded(64, 48), SPEC)[0].shape, (16, 16, 3))

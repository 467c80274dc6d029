import io

import numpy as np
import pytest
from PIL import Image

from images.pixels.decode import decode
from images.pixels.preprocess import PreprocessSpec
from images.pixels.thumbnails import thumbnail, thumbnail_of, visible


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(480, 640, (160, 120)), (640, 480, (120, 160)), (28, 28, (28, 28)), (4000, 1, (1, 160))],
)
def test_the_longer_side_fits_and_nothing_is_enlarged(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    with Image.open(io.BytesIO(thumbnail(np.zeros((height, width, 3), np.uint8)))) as image:
        assert image.format == "WEBP"
        assert image.size == expected


def test_it_shows_the_image() -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 100:, 0] = 255
    with Image.open(io.BytesIO(thumbnail(pixels, 64))) as image:
        small = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(small - pixels[::3, ::3][: small.shape[0], : small.shape[1]]).mean() < 8
    assert small[:, 40:, 0].min() > 200


def test_tiny_images_are_kept_without_loss() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(thumbnail(pixels))) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), pixels)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_no_larger_than_needed(orientation: int) -> None:
    file = io.BytesIO()
    ramp = Image.linear_gradient("L").resize((1600, 1200)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    ramp.save(file, "JPEG", exif=exif)
    spec, whole = PreprocessSpec(size=32), decode(file.getvalue())
    seen = visible(file.getvalue(), spec, least=150)
    assert seen.shape[:2] == tuple(side // 8 for side in whole.shape[:2])
    images = []
    for content in (thumbnail_of(file.getvalue(), spec, 150), thumbnail(whole, 150)):
        with Image.open(io.BytesIO(content)) as image:
            images.append(np.asarray(image.convert("RGB")).astype(int))
    assert images[0].shape == images[1].shape
    assert np.abs(images[0] - images[1]).mean() < 2

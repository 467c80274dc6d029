"""JPEGs decoded smaller: only where much more is there than needed, and said in the digest."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from base.errors import ImageRefused, RefusalReason, UsageError
from images.pixels.decode import open_scaled
from images.pixels.preprocess import SCALED_DECODE, PreprocessSpec, load_image

WHOLE = PreprocessSpec(size=32, resize_to=40)
SCALED = PreprocessSpec(size=32, resize_to=40, scaled_decode=4)


def photo(width: int, height: int, kind: str = "JPEG", orientation: int = 1) -> bytes:
    """Structure at every length, as photographs have it: amplitudes fall with the frequency."""
    rng = np.random.default_rng(5)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    planes = []
    for _ in range(3):
        phases = np.exp(2j * np.pi * rng.random(frequency.shape))
        plane = np.fft.irfft2(phases / frequency, s=(height, width))
        planes.append(128 + 50 * plane / plane.std())
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    image = Image.fromarray(np.stack(planes, axis=2).clip(0, 255).astype(np.uint8))
    image.save(file, kind, **({"quality": 92, "exif": exif} if kind == "JPEG" else {}))
    return file.getvalue()


@pytest.mark.parametrize(
    ("width", "height", "scale", "left"),
    [
        (319, 500, 1, (319, 500)),
        (320, 481, 2, (160, 241)),
        (500, 639, 2, (250, 320)),
        (801, 643, 4, (201, 161)),
        (1283, 1281, 8, (161, 161)),
    ],
)
def test_the_shorter_side_keeps_what_it_must(
    width: int, height: int, scale: int, left: tuple[int, int]
) -> None:
    opened = open_scaled(photo(width, height), SCALED.least_side)
    assert SCALED.least_side == 160
    assert (opened.scale, opened.image.size, opened.size) == (scale, left, (width, height))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("width", "height"), [(645, 661), (333, 801)])
@pytest.mark.parametrize("stretch", [False, True])
def test_the_image_is_the_same_but_for_a_hair(
    width: int, height: int, orientation: int, stretch: bool
) -> None:
    """A pixel's shift, a turn the wrong way or the size of the scaled image would show."""
    data = photo(width, height, orientation=orientation)
    whole, scaled = (
        PreprocessSpec(size=40, resize="stretch", scaled_decode=times) if stretch else spec
        for times, spec in ((None, WHOLE), (4, SCALED))
    )
    pixels, size = load_image(data, scaled)
    expected, original = load_image(data, whole)
    assert size == original
    assert size == ((height, width) if orientation >= 5 else (width, height))
    difference = np.abs(pixels.astype(int) - expected)
    assert 0 < difference.mean() < 0.5
    assert difference.max() <= 8


def test_what_is_no_larger_and_what_is_no_jpeg_is_decoded_whole() -> None:
    for data in (photo(319, 319), photo(700, 700, "PNG"), photo(700, 700, "WEBP")):
        np.testing.assert_array_equal(load_image(data, SCALED)[0], load_image(data, WHOLE)[0])


def test_limits_are_those_of_what_is_decoded() -> None:
    with pytest.raises(ImageRefused) as refused:
        load_image(photo(640, 640), SCALED, max_pixels=640 * 640 // 5)
    assert refused.value.reason == RefusalReason.TOO_MANY_PIXELS
    data = photo(640, 640)
    with pytest.raises(ImageRefused) as refused:
        load_image(data[: len(data) // 2], SCALED)
    assert refused.value.reason == RefusalReason.TRUNCATED


def test_other_pixels_have_another_digest() -> None:
    assert len({spec.digest for spec in (WHOLE, SCALED)}) == 2
    assert "scaled_decode" not in WHOLE.to_dict()  # files from before stay what they are
    again = PreprocessSpec.from_dict(json.loads(json.dumps(SCALED.to_dict())))
    assert again == SCALED
    assert again.scaled_decode == SCALED_DECODE


@pytest.mark.parametrize("times", [0, 2.5, True, "4"])
def test_a_rule_that_is_none_is_refused(times: object) -> None:
    with pytest.raises(UsageError, match="scaled_decode is"):
        PreprocessSpec.from_dict({"size": 32, "scaled_decode": times})


def test_planes_are_always_whole() -> None:
    with pytest.raises(UsageError, match="scaled_decode is for RGB"):
        PreprocessSpec(size=32, channels=4, scaled_decode=4)

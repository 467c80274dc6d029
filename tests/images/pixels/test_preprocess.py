import io
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from base.errors import ImageRefused, RefusalReason, UsageError
from images.pixels.decode import decode
from images.pixels.preprocess import PreprocessSpec, Resample, load_image, preprocess

Array = NDArray[np.uint8]


def bilinear(x: float) -> float:
    return max(0.0, 1 - abs(x))


def bicubic(x: float) -> float:
    """Keys 1981, a = -0.5."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def lanczos(x: float) -> float:
    return float(np.sinc(x) * np.sinc(x / 3)) if abs(x) < 3 else 0.0


FILTERS: dict[Resample, tuple[Callable[[float], float], int]] = {
    "bilinear": (bilinear, 1),
    "bicubic": (bicubic, 2),
    "lanczos": (lanczos, 3),
}


def weights(
    size: int, scaled: int, first: int, count: int, resample: Resample
) -> NDArray[np.float64]:
    """Rows [count,size]: how outputs first, first+1, … of `scaled` are mixed from `size` inputs.

    Antialiased: to shrink by s, the filter is widened by s.
    """
    kernel, radius = FILTERS[resample]
    scale = size / scaled
    widening = max(scale, 1.0)
    matrix = np.zeros((count, size))
    for row in range(count):
        center = (first + row + 0.5) * scale
        low = max(0, int(center - radius * widening + 0.5))
        high = min(size, int(center + radius * widening + 0.5))
        for column in range(low, high):
            matrix[row, column] = kernel((column + 0.5 - center) / widening)
    matrix /= matrix.sum(axis=1, keepdims=True)
    return matrix


def to_bytes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(np.floor(values + 0.5), 0, 255)


def references(image: Array, spec: PreprocessSpec) -> list[NDArray[np.float64]]:
    """Scale the shorter side to `resize_to`, crop the middle; after each pass round to 8 bits.

    Two answers: across first, down first. They part where the first pass overshoots and is clipped;
    Pillow takes the cheaper order since version 13, across first before.
    """
    height, width = image.shape[:2]
    if spec.resize == "stretch":
        scaled_height = scaled_width = spec.size
    else:
        assert spec.resize_to is not None
        short = min(height, width)
        scaled_height, scaled_width = (spec.resize_to * side // short for side in (height, width))
    top, left = round((scaled_height - spec.size) / 2), round((scaled_width - spec.size) / 2)
    across = weights(width, scaled_width, left, spec.size, spec.resample)
    down = weights(height, scaled_height, top, spec.size, spec.resample)

    def scale_across(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        return to_bytes(np.einsum("oi,hic->hoc", across, pixels))

    def scale_down(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        return to_bytes(np.einsum("oi,iwc->owc", down, pixels))

    pixels = image.astype(float)
    return [scale_down(scale_across(pixels)), scale_across(scale_down(pixels))]


def noise(height: int, width: int) -> Array:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)


SPECS = [
    PreprocessSpec(size=32),
    PreprocessSpec(size=24, resize_to=29),
    PreprocessSpec(size=17, resize="stretch"),
    PreprocessSpec(size=32, resample="bilinear"),
    PreprocessSpec(size=20, resize_to=33, resample="lanczos"),
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", [(53, 40), (40, 71), (97, 97), (11, 13), (9, 31)])
def test_pixels_agree_with_a_slow_obvious_version(
    shape: tuple[int, int], spec: PreprocessSpec
) -> None:
    image = noise(*shape)
    square = preprocess(image, spec)
    difference = min((np.abs(square - r) for r in references(image, spec)), key=np.mean)
    assert difference.max() <= 1
    assert difference.mean() < 0.1


def test_golden_vector() -> None:
    """Computed once with `references`; neither they nor Pillow may drift."""
    y, x, c = np.mgrid[:9, :12, :3]
    image = ((x * 31 + y * 17 + c * 50 + x * y) % 256).astype(np.uint8)
    golden = np.array(GOLDEN, np.uint8)
    spec = PreprocessSpec(size=4, resize_to=5)
    np.testing.assert_allclose(references(image, spec)[0][:, :, 0], golden, atol=1)
    np.testing.assert_allclose(preprocess(image, spec)[:, :, 0].astype(int), golden, atol=1)


GOLDEN = [[85, 151, 210, 95], [118, 200, 143, 52], [159, 192, 72, 106], [198, 117, 68, 161]]


@pytest.mark.parametrize("shape", [(400, 533), (711, 400), (256, 256), (300, 299)])
def test_only_the_crop_is_resampled_yet_it_looks_as_if_all_was(shape: tuple[int, int]) -> None:
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.stack([x % 256, y % 256, (x * y // 50) % 256], axis=2).astype(np.uint8)
    scaled = Image.fromarray(image).resize(
        (256 * shape[1] // min(shape), 256 * shape[0] // min(shape)), Image.Resampling.BICUBIC
    )
    left, top = round((scaled.width - 224) / 2), round((scaled.height - 224) / 2)
    cropped = np.asarray(scaled.crop((left, top, left + 224, top + 224))).astype(int)
    difference = np.abs(preprocess(image, PreprocessSpec(size=224, resize_to=256)) - cropped)
    assert difference.mean() < 0.1


SHAPES = st.tuples(st.integers(1, 90), st.integers(1, 90))
SHORT_SIDE = st.tuples(st.integers(1, 40), st.integers(0, 20)).map(
    lambda sizes: PreprocessSpec(size=sizes[0], resize_to=sum(sizes))
)
STRETCH = st.integers(1, 40).map(lambda size: PreprocessSpec(size=size, resize="stretch"))


@settings(max_examples=100, deadline=None)
@given(SHAPES, st.integers(0, 255), SHORT_SIDE | STRETCH)
def test_any_size_gives_the_square_and_keeps_a_flat_image_flat(
    shape: tuple[int, int], gray: int, spec: PreprocessSpec
) -> None:
    square = preprocess(np.full((*shape, 3), gray, np.uint8), spec)
    assert square.shape == (spec.size, spec.size, 3)
    assert square.dtype == np.uint8
    assert square.flags.c_contiguous
    assert (square == gray).all()


@pytest.mark.parametrize("shape", [(1, 200_000), (200_000, 1), (1_000_000, 2)])
@pytest.mark.parametrize(
    "spec", [PreprocessSpec(size=64), PreprocessSpec(size=64, resize="stretch")]
)
def test_a_hair_thin_image_costs_no_more_than_its_pixels(
    shape: tuple[int, int], spec: PreprocessSpec
) -> None:
    """Scaled as a whole it would have 64 x 12,800,000 pixels."""
    square = preprocess(np.full((*shape, 3), 100, np.uint8), spec)
    assert np.abs(square.astype(int) - 100).max() <= 1


def test_nothing_is_done_to_a_image_that_fits() -> None:
    image = noise(32, 32)
    assert np.shares_memory(preprocess(image, PreprocessSpec(size=32)), image)
    assert not np.shares_memory(preprocess(image, PreprocessSpec(size=32, resize_to=40)), image)


@pytest.mark.parametrize("spec", SPECS)
def test_load_image_is_decode_then_preprocess(spec: PreprocessSpec) -> None:
    exif = Image.Exif()
    exif[274] = 6
    file = io.BytesIO()
    Image.fromarray(noise(30, 50)).save(file, "JPEG", exif=exif)
    square, original = load_image(file.getvalue(), spec)
    assert original == (30, 50)  # width, height after the turn
    np.testing.assert_array_equal(square, preprocess(decode(file.getvalue()), spec))


def test_load_image_of_a_png_that_fits_changes_nothing() -> None:
    file = io.BytesIO()
    Image.fromarray(noise(32, 32)).save(file, "PNG")
    square, original = load_image(file.getvalue(), PreprocessSpec(size=32))
    assert original == (32, 32)
    np.testing.assert_array_equal(square, noise(32, 32))


def test_load_image_of_an_array() -> None:
    gray = noise(20, 30)[:, :, 0]
    square, original = load_image(gray, PreprocessSpec(size=20))
    assert original == (30, 20)
    np.testing.assert_array_equal(square, np.repeat(gray[:, 5:25, None], 3, axis=2))


def test_load_image_refuses_as_decode_does() -> None:
    file = io.BytesIO()
    Image.fromarray(noise(32, 32)).save(file, "PNG")
    with pytest.raises(ImageRefused) as caught:
        load_image(file.getvalue(), PreprocessSpec(size=32), max_pixels=32 * 32 - 1)
    assert caught.value.reason == RefusalReason.TOO_MANY_PIXELS
    with pytest.raises(ImageRefused):
        load_image(np.zeros((4, 4), np.float64), PreprocessSpec(size=4))


def test_the_digest_is_fixed_for_ever() -> None:
    """Encoder files and collections out there carry it."""
    assert PreprocessSpec(size=224, resize_to=256).digest == DIGEST


DIGEST = "835fa7dcea4c412393bfa20d105e08deec11c828b16ed1d5119761c40a0c17ce"


def test_the_digest_differs_between_specs() -> None:
    specs = [
        *SPECS,
        PreprocessSpec(size=33),
        PreprocessSpec(size=32, resize_to=33),
        PreprocessSpec(size=32, resize="stretch"),
    ]
    assert len({spec.digest for spec in specs}) == len(specs)
    assert PreprocessSpec(size=32).digest == PreprocessSpec(size=32, resize_to=32).digest


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_survives_json(spec: PreprocessSpec) -> None:
    again = PreprocessSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.digest == spec.digest


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 32, "resise": "stretch"}, "'resise'; did you mean 'resize"),
        ({"size": 32, "mean": 0}, "'mean'; known: channels, crop"),
        ({}, "needs the key size"),
        ({"size": 0}, "size is 0; .* at least 1"),
        ({"size": "32"}, "size is '32'; .* whole number"),
        ({"size": True}, "size is True"),
        ({"size": 32.0}, "size is 32.0"),
        ({"size": 32, "resize_to": 31}, "resize_to is 31; .* at least 32"),
        ({"size": 32, "resize": "strech"}, "resize 'strech'; did you mean 'stretch"),
        ({"size": 32, "resample": "nearest"}, "resample 'nearest'; known: bicubic"),
        ({"size": 32, "crop": "random"}, "crop 'random'"),
        ({"size": 32, "resize": ["stretch"]}, "unknown resize"),
        ({"size": 32, "resize": "stretch", "resize_to": 40}, "resize_to is 40, but stretch"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PreprocessSpec.from_dict(fields)


def test_filters_are_what_they_are_called() -> None:
    assert [bicubic(x) for x in (0, 1, 2)] == [1, 0, 0]
    assert math.isclose(bicubic(0.5), 0.5625)
    assert math.isclose(lanczos(1.5), -0.13509, abs_tol=1e-4)

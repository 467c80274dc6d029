"""Images of many channels and of other ranges than 0 to 255."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from base.errors import ImageRefused, RefusalReason, UsageError
from images.pixels.planes import to_eight_bits, to_planes
from images.pixels.preprocess import PreprocessSpec, load_image, preprocess
from images.sources.sources import open_source

RNG = np.random.default_rng(3)
FIVE = RNG.integers(0, 4096, (20, 24, 5), np.uint16)


def tiff(values: NDArray[np.generic], **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)  # type: ignore[arg-type]
    return file.getvalue()


FIVE_TIFF = tiff(FIVE, planarconfig="contig", photometric="minisblack")


def npy(values: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_every_way_to_store_planes_gives_the_same() -> None:
    expected = np.floor(FIVE.astype(np.float64) * 255 / 4095 + 0.5).astype(np.uint8)
    first = np.ascontiguousarray(FIVE.transpose(2, 0, 1))
    for content in (
        FIVE, npy(FIVE), FIVE.astype(np.float32), FIVE.astype(">u2"),
        FIVE_TIFF,
        tiff(first, photometric="minisblack"),
        tiff(first, planarconfig="separate", photometric="minisblack", compression="zlib"),
        tiff(first, imagej=True, metadata={"axes": "CYX"}),
        tiff(FIVE.transpose(2, 0, 1).astype(">u2"), byteorder=">", photometric="minisblack"),
    ):  # fmt: skip
        np.testing.assert_array_equal(to_planes(content, 5, (0, 4095)), expected)


@settings(max_examples=50, deadline=None)
@example(0.0, 1e-3, [1.7e308, -1.7e308])
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.lists(st.floats(), min_size=1, max_size=9))
def test_scaling_keeps_the_order_and_its_ends(
    low: float, width: float, others: list[float]
) -> None:
    high = low + width
    values = np.sort(np.array([low, high, *others])[None, :, None], axis=1)
    scaled = to_eight_bits(values, (low, high)).astype(int).ravel()
    numbers = scaled[np.isfinite(values.ravel())]
    assert (np.diff(numbers) >= 0).all()
    ends = to_eight_bits(np.array([low, high, np.nan, np.inf, -np.inf]), (low, high))
    assert ends.tolist() == [0, 255, 0, 255, 0]


def test_without_a_range_the_element_type_says_it() -> None:
    values = np.array([[[0, 65535], [128, 129], [257, 32896]]], np.uint16)
    assert to_planes(values, 2, None).tolist() == [[[0, 255], [0, 1], [1, 128]]]
    assert to_planes(np.array([[[True, False]]]), 2, None).tolist() == [[[255, 0]]]
    assert to_planes(values.astype(np.uint8), 2, None).tolist() == values.astype(np.uint8).tolist()


@pytest.mark.parametrize("wrap", [lambda v: v, npy, tiff, lambda v: png(Image.fromarray(v))])
def test_deep_gray_becomes_three_channels_alike(wrap: object) -> None:
    gray = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
    scaled = to_planes(wrap(gray), 3, (0, 4095))  # type: ignore[operator]
    assert scaled.shape == (16, 16, 3)
    assert (scaled[..., 0].ravel() == np.floor(gray.ravel().astype(float) * 255 / 4095 + 0.5)).all()
    assert (np.ptp(scaled.astype(int), axis=2) == 0).all()


def test_color_of_eight_bits_passes_through_a_range() -> None:
    color = RNG.integers(0, 256, (6, 7, 3), np.uint8)
    np.testing.assert_array_equal(to_planes(png(Image.fromarray(color)), 3, (0, 255)), color)
    np.testing.assert_array_equal(to_planes(tiff(color), 3, (0, 255)), color)


@pytest.mark.parametrize(
    ("content", "channels", "reason", "message"),
    [
        (FIVE, 4, "unsupported", "has 5 channel.* the encoder sees 4"),
        (FIVE_TIFF, 4, "unsupported", r"has 5 planes, the encoder sees 4 \(data"),
        (tiff(FIVE), 5, "unsupported", "has 20 planes"),
        (np.zeros((4, 4, 2)), 2, "unsupported", "float64 have no agreed range; give data.range"),
        (np.zeros((4, 4, 2, 2), np.uint8), 2, "unsupported", "is not a picture; give"),
        (np.zeros((0, 4, 2), np.uint8), 2, "too-small", "has shape"),
        (FIVE_TIFF[:700], 5, "corrupt", "is damaged or not read"),
        (npy(FIVE)[:700], 5, "corrupt", "npy file is damaged"),
        (npy(np.array([[None]])), 2, "corrupt", "npy file is damaged"),
        (b"", 5, "empty", "is empty"),
        (b"hello", 5, "not-an-image", "not a JPEG"),
    ],
)  # fmt: skip
def test_refusals(content: object, channels: int, reason: str, message: str) -> None:
    with pytest.raises(ImageRefused, match=message) as caught:
        to_planes(content, channels, None)  # type: ignore[arg-type]
    assert caught.value.reason == RefusalReason(reason)


def test_too_many_pixels_are_refused_before_decoding() -> None:
    for content in (FIVE, npy(FIVE), FIVE_TIFF):
        with pytest.raises(ImageRefused, match="100 pixels are allowed"):
            to_planes(content, 5, None, max_pixels=100)


def test_preprocessing_treats_each_plane_as_one_of_a_color_image() -> None:
    planes = RNG.integers(0, 256, (40, 50, 6), np.uint8)
    for spec in (
        PreprocessSpec(size=16, channels=6),
        PreprocessSpec(size=30, resize="stretch", channels=6),
    ):
        rgb = PreprocessSpec(**{**spec.to_dict(), "channels": 3})
        expected = np.concatenate(
            [preprocess(planes[..., :3], rgb), preprocess(planes[..., 3:], rgb)], axis=2
        )
        square, size = load_image(planes, spec)
        np.testing.assert_array_equal(square, expected)
        assert size == (50, 40)


def test_a_spec_says_channels_and_range_only_where_they_are_not_the_usual() -> None:
    usual = PreprocessSpec(size=32)
    assert usual.to_dict().keys() == {"size", "resize", "resize_to", "resample", "crop"}
    others = [
        PreprocessSpec(size=32, channels=5),
        PreprocessSpec(size=32, range=(0, 4095)),
        PreprocessSpec(size=32, channels=5, range=(0.0, 4095.0)),
    ]
    assert len({spec.digest for spec in (usual, *others)}) == 4
    for spec in others:
        assert PreprocessSpec.from_dict(spec.to_dict()) == spec
    for bad in ({"channels": 1}, {"channels": 65}, {"channels": 3.0}, {"range": [1, 1]},
                {"range": [0, float("nan")]}, {"range": "auto"}, {"range": [0, 1, 2]}):  # fmt: skip
        with pytest.raises(UsageError, match=r"(channels|range) is "):
            PreprocessSpec.from_dict({"size": 32, **bad})


def test_npz_files_of_many_channels_are_listed(tmp_path: Path) -> None:
    values = RNG.normal(size=(3, 9, 8, 5))
    np.savez(tmp_path / "x.npz", images=values)
    source = open_source(tmp_path / "x.npz")
    np.testing.assert_array_equal(next(iter(source)).read(), values[0])


def test_without_tifffile_the_refusal_says_what_to_install() -> None:
    code = f"""
import sys
sys.modules["tifffile"] = None
from base.errors import ImageRefused
from images.pixels.planes import to_planes
try:
    to_planes({FIVE_TIFF!r}, 5, None)
except ImageRefused as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs tifffile; pip install 'lookalike[tiff]'" in done.stdout

"""Formats whose decoders are there or not: AVIF and JPEG 2000 of Pillow, HEIC of pillow-heif."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from base.errors import ImageRefused, RefusalReason
from images.pixels import extra_formats
from images.pixels.decode import decode
from images.sources.passed_over import PassedOver
from images.sources.sources import open_source

GRID = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
PIXELS = np.stack([GRID, GRID[::-1], GRID * 2], 2)


def encode(kind: str) -> bytes:
    """Return the pixels in a format; the decoders are installed for development."""
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind, quality=95)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "HEIF"])
def test_pixels_are_read(kind: str) -> None:
    pixels = decode(encode(kind))
    assert pixels.shape == PIXELS.shape
    assert np.abs(pixels.astype(int) - PIXELS).mean() < 6


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "HEIF"])
def test_pixels_are_counted_before_decoding(kind: str) -> None:
    with pytest.raises(ImageRefused) as caught:
        decode(encode(kind), max_pixels=100)
    assert caught.value.reason == RefusalReason.TOO_MANY_PIXELS


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "HEIF"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_damaged_files_are_refused(kind: str, share: float) -> None:
    data = encode(kind)
    with pytest.raises(ImageRefused):
        decode(data[: int(len(data) * share)])


def test_folders_list_them(tmp_path: Path) -> None:
    for number, (kind, suffixes) in enumerate(extra_formats.SUFFIXES.items()):
        (tmp_path / f"{number}{suffixes[0]}").write_bytes(encode(kind))
    items = list(open_source(tmp_path))
    assert len(items) == len(extra_formats.SUFFIXES)
    assert all(decode(bytes(item.read())).shape == PIXELS.shape for item in items)


def test_without_its_decoder_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode("HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    extra_formats._is_readable.cache_clear()
    try:
        with pytest.raises(ImageRefused, match=r"lookalike\[heif\], or convert") as caught:
            decode(data)
    finally:
        extra_formats._is_readable.cache_clear()
    assert caught.value.reason == RefusalReason.UNSUPPORTED
    passed = PassedOver()
    passed.add_file("1.HEIC")
    assert passed.summary().endswith("1 .heic (to read HEIC: pip install 'lookalike[heif]')")

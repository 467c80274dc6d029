"""Encoded bytes and plain arrays to RGB uint8 pixels, or a refusal with a named reason."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from images.errors import ImageRefused, RefusalReason
from images.items import Pixels

DEFAULT_MAX_PIXELS = 100_000_000
DEFAULT_MAX_BYTES = 128 * 2**20
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def decode(
    data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, max_bytes: int = DEFAULT_MAX_BYTES
) -> Pixels:
    """Decode an image file to RGB uint8 [H,W,3]; raises ImageRefused."""
    return np.asarray(open_rgb(data, max_pixels=max_pixels, max_bytes=max_bytes))


def open_rgb(
    data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, max_bytes: int = DEFAULT_MAX_BYTES
) -> Image.Image:
    if not data:
        raise ImageRefused(RefusalReason.EMPTY, "the file is empty")
    if len(data) > max_bytes:
        raise ImageRefused(RefusalReason.TOO_MANY_BYTES, f"{len(data)} bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise ImageRefused(RefusalReason.TOO_MANY_PIXELS, f"{image.width}x{image.height}")
        return ImageOps.exif_transpose(image).convert("RGB")
    except ImageRefused:
        raise
    except UnidentifiedImageError as error:
        raise ImageRefused(RefusalReason.NOT_AN_IMAGE, "not an image") from error
    except Exception as error:  # noqa: BLE001
        raise ImageRefused(RefusalReason.CORRUPT, str(error)) from error


def to_rgb(array: NDArray[Any]) -> Pixels:
    """Return an array of an npz or IDX file as RGB uint8 [H,W,3]; raises ImageRefused."""
    if array.dtype != np.uint8 or array.ndim not in {2, 3}:
        raise ImageRefused(RefusalReason.UNSUPPORTED, f"{array.dtype} {array.shape}")
    if array.ndim == 2:
        array = array[:, :, None]
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))

"""Encoded bytes and plain arrays to upright RGB uint8 pixels, or a refusal with a named reason.

Bytes and pixels are counted before anything is decoded. Images are turned as their EXIF
orientation says. Alpha is composited on white. 16-bit gray is scaled (65535 becomes 255), not
clipped. CMYK is converted as Pillow does it; embedded color profiles are ignored. Of an animation
or a document the first image counts.
"""

import io
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from base.errors import ImageRefused, RefusalReason
from images.items import Pixels
from images.pixels.decoding_memory import (
    WEBP,
    NeedsMemory,
    check_image,
    check_memory,
    held_whole,
    webp_size,
)
from images.pixels.image_format import kind_of, refusal, unknown_format
from images.pixels.jpeg_scans import count_scans
from images.pixels.pillow_warnings import hush_pillow

DEFAULT_MAX_PIXELS = 100_000_000
"""Width x height; 300 MB as an array."""

PILLOW_MAX_PIXELS = 178_956_970
"""Where Pillow itself stops, unless more are allowed here."""

OVERSIZE = 4
"""How many times the allowed pixels a JPEG may have that is decoded at 1/2 or less, so that those
allowed are enough. A progressive one is held whole while it is decoded, and counts whole."""

DEFAULT_MAX_BYTES = 128 * 2**20
"""Of one file."""

MAX_JPEG_SCANS = 100
"""Real ones have about 10; a small hostile file asks for thousands of passes over many pixels."""

MAX_SCANNED_PIXELS = 1_000_000_000
"""Pixels times scans of a JPEG: each scan goes over all of them."""

SCALES = (8, 4, 2)
"""What a JPEG's sides can be divided by while it is decoded: its 8 x 8 blocks give fewer pixels."""

REMEDY = "scale it down, or allow more (extract --max-pixels, LOOKALIKE_MAX_PIXELS)"

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS, _FROM_THE_RIGHT, _FROM_BELOW = {5, 6, 7, 8}, {2, 3, 6, 7}, {3, 4, 7, 8}
_EIGHT_BIT_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
_OTHER_COLORS = {"LAB", "HSV"}
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags


def decode(
    data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, max_bytes: int = DEFAULT_MAX_BYTES
) -> Pixels:
    """Decode an image file.

    Args:
        data: a JPEG, PNG, WebP, GIF, BMP or TIFF file, or of `extra_formats`.
        max_pixels: the largest width x height, counted from the header before decoding.
        max_bytes: the largest file.

    Returns:
        RGB uint8 [H,W,3], upright, contiguous; it may be read-only.

    Raises:
        ImageRefused: for anything wrong with `data`, whatever it is.
    """
    return np.asarray(open_rgb(data, max_pixels=max_pixels, max_bytes=max_bytes))


@dataclass(frozen=True, slots=True)
class Opened:
    """A decoded image and how its pixels relate to the original.

    Attributes:
        image: upright, of mode RGB.
        size: (width, height) of the upright original.
        scale: what the sides were divided by, and rounded up: 1, 2, 4 or 8.
        corner: (left, top) of the image in `image`, below 1: the rounding may lie before it.
    """

    image: Image.Image
    size: tuple[int, int]
    scale: int = 1
    corner: tuple[float, float] = (0.0, 0.0)


def open_rgb(
    data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, max_bytes: int = DEFAULT_MAX_BYTES
) -> Image.Image:
    """Decode as `decode` does, to a Pillow image of mode RGB: what resizing starts from."""
    return open_scaled(data, None, max_pixels=max_pixels, max_bytes=max_bytes).image


def open_scaled(
    data: bytes,
    least: int | None,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    max_bytes: int = DEFAULT_MAX_BYTES,
    least_oversize: int | None = None,
) -> Opened:
    """Decode as `open_rgb` does, a JPEG as small as `least` lets it be; None: always whole.

    Args:
        data: as in `decode`.
        least: pixels that both sides must keep.
        max_pixels: as in `decode`; of a JPEG, after it was scaled (see OVERSIZE).
        max_bytes: as in `decode`.
        least_oversize: as `least`, for a JPEG that has more pixels than are allowed.
    """
    kind = _admit(data, max_bytes)
    if kind == "WEBP":
        size = webp_size(data)
        _check_pixels(size, max_pixels)
        check_memory(WEBP * size[0] * size[1])
    if max_pixels > PILLOW_MAX_PIXELS:
        Image.MAX_IMAGE_PIXELS = max(max_pixels, Image.MAX_IMAGE_PIXELS or 0)
    with hush_pillow:
        try:
            image = Image.open(io.BytesIO(data), formats=(kind,))
            size, scale = image.size, 1
            if kind == "JPEG":
                _check_scans(data, size)
            oversize = image.width * image.height > max_pixels
            if oversize and (kind != "JPEG" or not _may_shrink(image, data, max_pixels)):
                _check_pixels(size, max_pixels)
            to = (least or least_oversize) if oversize else least
            if to is not None and kind == "JPEG":
                scale = _shrink(image, to)
            if image.width * image.height > max_pixels:
                _check_pixels(size, max_pixels)
            check_image(image, data, size)
            image.load()
            return _upright(image, Opened(_to_rgb(image), size, scale))
        except (ImageRefused, NeedsMemory):
            raise
        except Image.DecompressionBombError as error:
            count = int(re.findall(r"\d+", str(error))[0])
            message = f"the picture has {count:,}, {max_pixels:,} pixels are allowed; {REMEDY}"
            raise ImageRefused(RefusalReason.TOO_MANY_PIXELS, message) from error
        except Exception as error:  # hostile bytes make Pillow raise nearly anything
            raise refusal(data, kind, error) from error


def _shrink(image: Image.Image, least: int) -> int:
    """Have a JPEG that is not loaded yet decoded smaller; return by how much."""
    scale = next((scale for scale in SCALES if min(image.size) // scale >= least), 1)
    size = (image.width // scale, image.height // scale)
    return 1 if scale == 1 or image.draft(None, size) is None else scale


def _admit(data: bytes, max_bytes: int) -> str:
    """Return the kind of file, or refuse on what needs no decoding."""
    if not data:
        raise ImageRefused(RefusalReason.EMPTY, "the file is empty")
    if len(data) > max_bytes:
        message = f"the file has {len(data):,} bytes, {max_bytes:,} are allowed"
        raise ImageRefused(RefusalReason.TOO_MANY_BYTES, message)
    kind = kind_of(data)
    if kind is None:
        raise unknown_format(data)
    if kind == "JPEG" and count_scans(data, MAX_JPEG_SCANS) > MAX_JPEG_SCANS:
        message = (
            f"the JPEG has more than the {MAX_JPEG_SCANS} scans that are allowed; save it anew"
        )
        raise ImageRefused(RefusalReason.UNSUPPORTED, message)
    return kind


def _check_scans(data: bytes, size: tuple[int, int]) -> None:
    pixels = size[0] * size[1]
    if data.count(b"\xff\xda") * pixels <= MAX_SCANNED_PIXELS:
        return  # as nearly all; scans of thumbnails were counted with them
    scans = count_scans(data, max(1, MAX_SCANNED_PIXELS // pixels))
    if scans > 1 and scans * pixels > MAX_SCANNED_PIXELS:
        message = (
            f"the JPEG has {scans} scans or more of {size[0]}x{size[1]} pixels, "
            f"{MAX_SCANNED_PIXELS:,} altogether are allowed; save it anew"
        )
        raise ImageRefused(RefusalReason.TOO_MANY_PIXELS, message)


def _may_shrink(image: Image.Image, data: bytes, max_pixels: int) -> bool:
    """Return whether decoding a JPEG smaller keeps memory and time within those allowed."""
    pixels = image.width * image.height
    return pixels <= OVERSIZE * max_pixels and not held_whole(image, data)


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        message = f"the picture is {width}x{height}, {max_pixels:,} pixels are allowed"
        raise ImageRefused(RefusalReason.TOO_MANY_PIXELS, f"{message}; {REMEDY}")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = _sixteen_to_eight_bits(image)
    elif image.mode not in _EIGHT_BIT_MODES:
        message = f"pixels of kind {image.mode!r} have no agreed range; save it with 8 bits"
        if image.mode in _OTHER_COLORS:
            message = f"colors in {image.mode} are not read; convert it to RGB"
        raise ImageRefused(RefusalReason.UNSUPPORTED, message)
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white


def _sixteen_to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale to 8 bits, rounded; 12-bit TIFFs come as 0..4095, and inverted ones come inverted."""
    tags = getattr(image, "tag_v2", {})
    top = 4095 if tags.get(_BITS_PER_SAMPLE) == (12,) else 65535
    gray = np.asarray(image).astype(np.uint32)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero
        gray = top - gray
    if (key := image.info.get("transparency")) is not None:  # the one see-through value of a PNG
        gray[gray == key] = top
    return Image.fromarray(((gray * 255 + top // 2) // top).astype(np.uint8))


def _upright(image: Image.Image, opened: Opened) -> Opened:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - damaged EXIF says nothing about the pixels
        orientation = None
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    if turn is None:
        return opened
    upright, scale = opened.image.transpose(turn), opened.scale
    width, height = opened.size[::-1] if orientation in _SIDEWAYS else opened.size
    left = upright.width - width / scale if orientation in _FROM_THE_RIGHT else 0.0
    top = upright.height - height / scale if orientation in _FROM_BELOW else 0.0
    return Opened(upright, (width, height), scale, (left, top))


def to_rgb(array: NDArray[Any]) -> Pixels:
    """Return an array of an npz or IDX file as RGB.

    Args:
        array: [H,W], [H,W,1], [H,W,3] or [H,W,4] (alpha last), uint8, uint16 (scaled) or bool.

    Returns:
        uint8 [H,W,3], contiguous; it may share memory with `array`.

    Raises:
        ImageRefused: any other shape or element type, or a side of 0 pixels.
    """
    eight = _to_eight_bits(array)
    if eight.ndim == 2:
        eight = eight[:, :, None]
    if eight.ndim != 3 or eight.shape[2] not in {1, 3, 4}:
        message = f"an array of shape {array.shape} is not an RGB picture; set data.channels"
        raise ImageRefused(RefusalReason.UNSUPPORTED, message)
    if min(eight.shape) == 0:
        raise ImageRefused(RefusalReason.TOO_SMALL, f"the array has shape {array.shape}")
    if eight.shape[2] == 4:
        return np.asarray(_on_white(Image.fromarray(np.ascontiguousarray(eight))))
    return np.ascontiguousarray(np.broadcast_to(eight, (*eight.shape[:2], 3)))


def _to_eight_bits(array: NDArray[Any]) -> Pixels:
    if array.dtype == np.uint8:
        return array
    if array.dtype.newbyteorder("=") == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    message = (
        f"elements of type {array.dtype} have no agreed range; give uint8 (0 to 255) or data.range"
    )
    raise ImageRefused(RefusalReason.UNSUPPORTED, message)

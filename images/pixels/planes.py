"""Images of any number of channels and any range of values, to uint8 planes [H,W,C].

Microscopes, satellites, depth cameras: the user says how many channels there are and which values
become 0 and 255 (`channels` and `range` of a preprocessing spec). The same two values hold for all
images and all channels, so that what is brighter stays brighter. Values outside are clipped; what
is not a number becomes the lowest.
"""

import io
import logging
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from base.errors import ImageRefused, RefusalReason
from base.text import one_line
from images.items import Content, Pixels
from images.pixels.decode import DEFAULT_MAX_BYTES, DEFAULT_MAX_PIXELS, decode
from images.pixels.decoding_memory import NeedsMemory, check_memory
from images.pixels.image_format import kind_of
from images.pixels.pillow_warnings import hush_pillow

NPY_MAGIC = b"\x93NUMPY"
_QUIET = logging.NullHandler()
FLOATS = 24  # bytes for each value while it is brought to 8 bits
_DEEP_PNG = b"\x10"  # 16 bits a sample


def to_planes(
    content: Content,
    channels: int,
    low_high: tuple[float, float] | None,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Pixels:
    """Return an image as uint8 [H,W,channels].

    Args:
        content: an image file's bytes (TIFF of several planes with tifffile), the bytes of a .npy
            file, or an array [H,W] or [H,W,C].
        channels: how many there must be; a single plane serves three.
        low_high: the values that become 0 and 255; None: the whole range of uint8 or uint16.
        max_pixels: the largest width x height.

    Raises:
        ImageRefused: the content cannot be used.
    """
    values = values_of(content, channels, max_pixels=max_pixels)
    if values.shape[2] == 4 and channels == 3 and values.dtype == np.uint8:
        values = values[:, :, :3]
    if values.shape[2] == 1 and channels == 3:
        values = np.repeat(values, 3, axis=2)
    if values.shape[2] != channels:
        mismatch = f"the picture has {values.shape[2]} channel(s), the encoder sees {channels}"
        raise ImageRefused(RefusalReason.UNSUPPORTED, f"{mismatch} (data.channels)")
    return np.ascontiguousarray(to_eight_bits(values, low_high))


def to_eight_bits(values: NDArray[Any], low_high: tuple[float, float] | None) -> Pixels:
    """Scale values so that `low_high` become 0 and 255, rounded."""
    if low_high is None:
        if values.dtype == np.uint8:
            return values
        if values.dtype.newbyteorder("=") == np.uint16:
            return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        if values.dtype == np.bool_:
            return values.astype(np.uint8) * 255
        message = f"elements of type {values.dtype} have no agreed range; give data.range"
        raise ImageRefused(RefusalReason.UNSUPPORTED, message)
    low, high = low_high
    inside = values.astype(np.float64).clip(low, high)  # first: the largest floats would overflow
    scaled = np.nan_to_num((inside - low) * (255 / (high - low)), nan=0.0)
    return np.floor(scaled + 0.5).astype(np.uint8)


def values_of(content: Content, channels: int, *, max_pixels: int) -> NDArray[Any]:
    """Return the values of an image as they are stored, [H,W,C]."""
    if isinstance(content, bytes):
        values = _values_of_file(content, channels, max_pixels)
    else:
        values = content
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.dtype.kind not in "uifb":
        message = f"an array of {values.dtype} {list(values.shape)} is not a picture; give [H,W,C]"
        raise ImageRefused(RefusalReason.UNSUPPORTED, message)
    if min(values.shape) == 0:
        raise ImageRefused(RefusalReason.TOO_SMALL, f"the array has shape {values.shape}")
    _check_pixels(values.shape[1], values.shape[0], max_pixels)
    return values


def _values_of_file(data: bytes, channels: int, max_pixels: int) -> NDArray[Any]:
    if len(data) > DEFAULT_MAX_BYTES:
        message = f"the file has {len(data):,} bytes, {DEFAULT_MAX_BYTES:,} are allowed"
        raise ImageRefused(RefusalReason.TOO_MANY_BYTES, message)
    if data.startswith(NPY_MAGIC):
        return _read_npy(data)
    kind = kind_of(data)
    if kind == "TIFF":
        return _read_tiff(data, channels, max_pixels)
    if kind == "PNG" and data[24:25] == _DEEP_PNG:
        return _read_deep_png(data, max_pixels)
    return decode(data, max_pixels=max_pixels)


def _read_npy(data: bytes) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # hostile bytes make NumPy raise nearly anything
        message = f"the .npy file is damaged: {one_line(error)}"
        raise ImageRefused(RefusalReason.CORRUPT, message) from error
    return array


def _read_deep_png(data: bytes, max_pixels: int) -> NDArray[Any]:
    """Gray of 16 bits as it is; of colors Pillow keeps 8 bits only."""
    if data[25:26] != b"\x00":  # not plain gray
        message = "a color PNG of 16 bits is read with 8 only; save it as TIFF to use data.range"
        raise ImageRefused(RefusalReason.UNSUPPORTED, message)
    decode(data, max_pixels=max_pixels)  # all checks and refusals
    with hush_pillow, Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        return np.asarray(image).astype(np.uint16)


def _read_tiff(data: bytes, channels: int, max_pixels: int) -> NDArray[Any]:
    """All planes of the first series; the axes beside height and width are channels."""
    try:
        import tifffile
    except ImportError as error:
        message = "a TIFF with data.channels or data.range needs tifffile"
        message = f"{message}; pip install 'lookalike[tiff]'"
        raise ImageRefused(RefusalReason.UNSUPPORTED, message) from error
    logging.getLogger("tifffile").addHandler(_QUIET)  # it logs damage, which is a refusal here
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = file.series[0]
            axes = series.axes
            down, across = axes.index("Y"), axes.index("X")
            height, width = series.shape[down], series.shape[across]
            _check_pixels(width, height, max_pixels)
            _check_planes(math.prod(series.shape) // max(1, height * width), channels)
            check_memory(math.prod(series.shape) * (series.dtype.itemsize + FLOATS))
            inverted = int(series.keyframe.photometric) == 0  # white is zero
            values = np.moveaxis(series.asarray(), (down, across), (0, 1))
    except (ImageRefused, NeedsMemory):
        raise
    except Exception as error:  # hostile bytes make tifffile raise nearly anything
        message = f"the TIFF is damaged or not read: {one_line(error)}"
        raise ImageRefused(RefusalReason.CORRUPT, message) from error
    if inverted and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
    return values.reshape(height, width, -1)


def _check_planes(planes: int, channels: int) -> None:
    """Refuse a stack before it is decoded: 4 may be a color image with alpha."""
    if planes > max(4, channels):
        message = f"the TIFF has {planes} planes, the encoder sees {channels} (data.channels)"
        raise ImageRefused(RefusalReason.UNSUPPORTED, message)


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        message = f"the picture is {width}x{height}, {max_pixels:,} pixels are allowed"
        raise ImageRefused(RefusalReason.TOO_MANY_PIXELS, message)

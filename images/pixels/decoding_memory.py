"""How much memory decoding takes, estimated from a header, so that a caller can bound the sum.

A file of 4 KB may hold 100 million pixels. Within `at_most`, an image that needs more raises
`NeedsMemory` before its pixels are decoded; the caller may wait until there is room and try again.

Bytes for each pixel, measured with images of 20 million: 4 in Pillow's own array; as much again
where it is turned, converted or put on white; 6 for the coefficients of a JPEG of several scans,
which are held whole; 16 for WebP, whose decoder has two canvases, and for gray of 16 bits.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from PIL import Image

from images.pixels.jpeg_scans import is_interleaved

PLAIN, ALPHA, DEEP, WEBP = 8, 12, 16, 16
COEFFICIENTS = 6
_allowed: ContextVar[int | None] = ContextVar("allowed", default=None)


class NeedsMemory(Exception):  # noqa: N818 - not an error: there may be room later
    """Decoding would take more memory than is allowed now.

    Attributes:
        size: estimated bytes.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"decoding takes about {size:,} bytes")
        self.size = size


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Let no image be decoded in this context that needs more bytes."""
    token = _allowed.set(size)
    try:
        yield
    finally:
        _allowed.reset(token)


def check_memory(size: int) -> None:
    """Raise NeedsMemory where so many bytes are more than is allowed."""
    allowed = _allowed.get()
    if allowed is not None and size > allowed:
        raise NeedsMemory(size)


def check_image(image: Image.Image, data: bytes, full_size: tuple[int, int]) -> None:
    """Raise NeedsMemory where an opened image that is not loaded yet would take too much.

    Args:
        image: with the size that it will be decoded to.
        data: the file.
        full_size: (width, height) in the file.
    """
    per_pixel = PLAIN
    if image.format in {"WEBP", "AVIF", "HEIF", "JPEG2000"}:
        per_pixel = WEBP
    elif image.mode.startswith("I;16"):
        per_pixel = DEEP
    elif image.has_transparency_data:
        per_pixel = ALPHA
    size = per_pixel * image.width * image.height
    if image.format == "JPEG" and held_whole(image, data):
        size += COEFFICIENTS * full_size[0] * full_size[1]
    check_memory(size)


def held_whole(image: Image.Image, data: bytes) -> bool:
    """Return whether all of a JPEG is in memory before its first pixel is there."""
    return bool(image.info.get("progressive")) or not is_interleaved(data)


def webp_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) of a WebP's canvas, (0, 0) where it has none.

    Pillow makes the canvas when it opens the file. RFC 9649, sections 2.5 to 2.7.
    """
    kind, head = data[12:16], data[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", head, 6)
    return width & 0x3FFF, height & 0x3FFF

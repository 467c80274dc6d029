"""The format of an image file by its first bytes, and why it could not be decoded."""

import io
import struct
from collections.abc import Callable

from PIL import Image, UnidentifiedImageError

from base.errors import ImageRefused, RefusalReason
from base.text import one_line
from images.pixels.extra_formats import readable_kind
from images.pixels.unread_formats import image_format, other_content, remedy

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

_STARTS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
}
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}
_UNSUPPORTED_PHRASES = ("unsupported", "not supported", "not yet supported", "unknown pixel mode")


def kind_of(data: bytes) -> str | None:
    """Return which of FORMATS, or of those that can be read here, the first bytes announce."""
    for kind, starts in _STARTS.items():
        if data.startswith(starts):
            return kind
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    name = image_format(data)
    return None if name is None else readable_kind(name)


def unknown_format(data: bytes) -> ImageRefused:
    """Return the refusal of bytes that announce none of FORMATS."""
    if name := image_format(data):
        return ImageRefused(*remedy(name))
    message = f"the bytes are not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture"
    if content := other_content(data):
        message = f"{message}, but {content}"
    return ImageRefused(RefusalReason.NOT_AN_IMAGE, message)


def refusal(data: bytes, kind: str, error: Exception) -> ImageRefused:
    """Return the refusal for what Pillow raised on `data`, which announce themselves as `kind`."""
    if isinstance(error, Image.DecompressionBombError):
        return ImageRefused(RefusalReason.TOO_MANY_PIXELS, str(error))
    if isinstance(error, MemoryError):
        message = f"the decoded {kind} does not fit into memory"
        return ImageRefused(RefusalReason.TOO_MANY_PIXELS, message)
    if isinstance(error, UnidentifiedImageError):
        error = _opening_error(data, kind) or error
    if (kind in _IS_CUT and _IS_CUT[kind](data)) or (kind == "TIFF" and "truncated" in str(error)):
        return ImageRefused(RefusalReason.TRUNCATED, f"the {kind} ends early ({len(data)} bytes)")
    if any(phrase in str(error).lower() for phrase in _UNSUPPORTED_PHRASES):
        message = f"this sort of {kind} is not read ({one_line(error)}); convert it to PNG"
        return ImageRefused(RefusalReason.UNSUPPORTED, message)
    return ImageRefused(RefusalReason.CORRUPT, f"the {kind} is damaged: {one_line(error)}")


def _opening_error(data: bytes, kind: str) -> Exception | None:
    """Return what the format's plugin raised: Image.open swallows it and says "cannot identify"."""
    factory, _ = Image.OPEN[kind]
    try:
        factory(io.BytesIO(data), "")
    except Exception as error:  # noqa: BLE001 - the point is to have it, whatever it is
        return error
    return None


def _jpeg_is_cut(data: bytes) -> bool:
    return b"\xff\xd9" not in data[-64:]  # the end marker; some writers append a few bytes


def _png_is_cut(data: bytes) -> bool:
    return b"IEND" not in data[-64:]


def _gif_is_cut(data: bytes) -> bool:
    return not data.rstrip(b"\x00").endswith(b";")


def _riff_is_cut(data: bytes) -> bool:
    return int.from_bytes(data[4:8], "little") + 8 > len(data)


def _bmp_is_cut(data: bytes) -> bool:
    return int.from_bytes(data[2:6], "little") > len(data)


def _tiff_is_cut(data: bytes) -> bool:
    """Return whether the first directory (TIFF 6.0, section 2), written last, lies past the end."""
    order = "<" if data.startswith(b"II") else ">"
    if data[2:3] == b"+" or data[3:4] == b"+":  # BigTIFF
        return False
    try:
        (directory,) = struct.unpack_from(order + "I", data, 4)
        (entries,) = struct.unpack_from(order + "H", data, directory)
    except struct.error:
        return True
    return bool(directory + 2 + 12 * entries > len(data))


_IS_CUT: dict[str, Callable[[bytes], bool]] = {
    "JPEG": _jpeg_is_cut,
    "PNG": _png_is_cut,
    "GIF": _gif_is_cut,
    "WEBP": _riff_is_cut,
    "BMP": _bmp_is_cut,
    "TIFF": _tiff_is_cut,
}

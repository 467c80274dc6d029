"""Formats that are recognized by their first bytes so that a refusal can name them."""

from base.errors import RefusalReason

_BRANDS = {
    b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC",
    b"heim": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF", b"crx ": "Canon raw",
}  # fmt: skip
_STARTS = {
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"v/1\x01": "OpenEXR",
    b"\x00\x00\x01\x00": "ICO",
    b"icns": "ICNS",
    b"SIMPLE  =": "FITS",
    b"qoif": "QOI",
    b"DDS ": "DDS",
    b"#?RADIANCE": "Radiance HDR",
    b"gimp xcf": "GIMP",
    b"FUJIFILMCCD-RAW": "Fujifilm raw",
}
_OTHERS = {
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript document",
    b"\x93NUMPY": "an array of NumPy (.npy)",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip data",
    b"\x1aE\xdf\xa3": "a video (Matroska, WebM)",
    b"\x00\x00\x01\xba": "a video (MPEG)",
    b"\x00\x00\x01\xb3": "a video (MPEG)",
    b"FLV\x01": "a video (Flash)",
    b"\x00\x05\x16\x07": "what macOS keeps beside a file (AppleDouble)",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file with git lfs pull",
    b"{": "JSON text",
}
_NETPBM = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"Pf", b"PF")


def image_format(data: bytes) -> str | None:
    """Return the name of an image format that is not read, or None."""
    if data[4:8] == b"ftyp":
        if b"avif" in data[8:64]:
            return "AVIF"
        return _BRANDS.get(data[8:12])
    if data[128:132] == b"DICM":
        return "DICOM"
    if data.startswith(_NETPBM) and data[2:3].isspace():
        return "Netpbm"
    if _is_markup(data) and b"<svg" in data[:4096].lower():
        return "SVG"
    name = next((name for start, name in _STARTS.items() if data.startswith(start)), None)
    return "TGA" if name is None and _is_tga(data) else name


def _is_tga(data: bytes) -> bool:
    """Return whether it is a Truevision file, which only newer ones say, at their end."""
    if data[-18:].startswith(b"TRUEVISION-XFILE"):
        return True
    if len(data) < 18 or data[1] > 1 or data[16] not in {8, 15, 16, 24, 32}:
        return False
    kinds = {1, 9} if data[1] else {2, 3, 10, 11}
    return data[2] in kinds and data[12:14] != b"\0\0" != data[14:16] and data[17] < 64


def other_content(data: bytes) -> str | None:
    """Return what bytes are that are no image at all, or None."""
    if data[4:8] == b"ftyp":
        return "a video or sound (MP4, QuickTime)"
    if data.startswith(b"RIFF") and data[8:12] in {b"AVI ", b"WAVE"}:
        return "a video or sound (RIFF)"
    if _is_markup(data):
        return "a web page or XML (HTML)" if b"<html" in data[:4096].lower() else "markup (XML)"
    return next((name for start, name in _OTHERS.items() if data.startswith(start)), None)


def _is_markup(data: bytes) -> bool:
    head = data[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return head.startswith((b"<?xml", b"<!doctype", b"<svg", b"<html", b"<!--", b"<head"))


def remedy(name: str) -> tuple[RefusalReason, str]:
    """Return why an image of a format is not read, and what to do."""
    extra = "install lookalike[heif], or " if name in {"HEIC", "HEIF"} else ""
    message = f"{name} pictures are not read; {extra}convert it to JPEG, PNG or WebP"
    return RefusalReason.UNSUPPORTED, message

"""Formats that are read where their decoders are there: AVIF, JPEG 2000 and HEIF."""

import importlib.util
from functools import cache

from PIL import features

SUFFIXES = {
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".j2c"),
    "HEIF": (".heic", ".heif", ".hif"),
}
_CALLED = {"AVIF": "AVIF", "JPEG 2000": "JPEG2000", "HEIC": "HEIF", "HEIF": "HEIF"}


def suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that can be read, without loading a decoder."""
    there = {
        "AVIF": features.check("avif"),
        "JPEG2000": features.check("jpg_2000"),
        "HEIF": _is_installed("pillow_heif"),
    }
    return frozenset(suffix for kind, kinds in SUFFIXES.items() if there[kind] for suffix in kinds)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # a finder that refuses it: it cannot be imported either
        return False


def readable_kind(name: str) -> str | None:
    """Return what Pillow calls a format, if it can read it here."""
    kind = _CALLED.get(name)
    return kind if kind is not None and _is_readable(kind) else None


@cache
def _is_readable(kind: str) -> bool:
    if kind != "HEIF":
        return bool(features.check("avif" if kind == "AVIF" else "jpg_2000"))
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True

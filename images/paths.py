"""Image files on disk: which names count, how a path becomes a uri, how a file is read."""

import os
from functools import partial
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlsplit

from images.decode import DEFAULT_MAX_BYTES
from images.errors import ImageRefused, RefusalReason
from images.items import Item

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
)


def path_item(path: Path, key: str, label: str | None) -> Item:
    """Return the item of an image file at an absolute path."""
    return Item(key, path_to_uri(path), label, partial(read_file, path))


def path_to_uri(path: Path) -> str:
    """Return the path itself, or a file: uri where its name is not valid UTF-8."""
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return "file://" + quote_from_bytes(os.fsencode(path))
    return text


def uri_to_path(uri: str) -> Path:
    """The inverse of `path_to_uri`."""
    if uri.startswith("file://"):
        return Path(os.fsdecode(unquote_to_bytes(urlsplit(uri).path)))
    return Path(uri)


def read_file(path: Path) -> bytes:
    """Return a file's bytes; raises ImageRefused if it cannot be read or is no plain file."""
    try:
        if not path.is_file():
            raise ImageRefused(RefusalReason.UNREADABLE, f"{path} is missing or no plain file")
        if path.stat().st_size > DEFAULT_MAX_BYTES:
            raise ImageRefused(
                RefusalReason.TOO_MANY_BYTES, f"{path} has {path.stat().st_size} bytes"
            )
        return path.read_bytes()
    except OSError as error:
        raise ImageRefused(
            RefusalReason.UNREADABLE, f"cannot read {path}: {error.strerror}"
        ) from error

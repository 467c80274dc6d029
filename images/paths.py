"""Image files on disk: which names count, what their keys and uris are, how they are read."""

import os
from functools import partial
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from images.decode import DEFAULT_MAX_BYTES
from images.errors import ImageRefused, RefusalReason
from images.items import Item

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
)


def path_item(path: Path, key: str, label: str | None) -> Item:
    """Return the item of the image file at `path`, an absolute one."""
    return Item(
        printable(key), path_to_uri(path), label and printable(label), partial(read_file, path)
    )


def printable(name: str) -> str:
    r"""Return a file's name as valid Unicode: a byte that is no UTF-8 is written as `\xff`."""
    return os.fsencode(name).decode(errors="backslashreplace")


def path_to_uri(path: Path) -> str:
    """Return the path itself, or a file: uri if its name is no UTF-8."""
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"file://{quote_from_bytes(os.fsencode(path))}"
    return text


def uri_to_path(uri: str) -> Path:
    """Undo `path_to_uri`."""
    if uri.startswith("file://"):
        return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))))
    return Path(uri)


def read_file(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        ImageRefused: UNREADABLE if it is missing, forbidden or no plain file (a pipe would block);
            TOO_MANY_BYTES before it is read.
    """
    try:
        if not path.is_file():
            fault = "is not a plain file" if path.exists() else "does not exist"
            raise ImageRefused(RefusalReason.UNREADABLE, f"{printable(str(path))} {fault}")
        size = path.stat().st_size
        if size > DEFAULT_MAX_BYTES:
            message = f"the file has {size:,} bytes, {DEFAULT_MAX_BYTES:,} are allowed"
            raise ImageRefused(RefusalReason.TOO_MANY_BYTES, message)
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        message = f"cannot read {printable(str(path))}: {error}"
        raise ImageRefused(RefusalReason.UNREADABLE, message) from error

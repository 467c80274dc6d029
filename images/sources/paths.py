"""Image files on disk: which names count, what their keys and uris are, how they are read."""

import os
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from base.errors import ImageRefused, RefusalReason
from base.text import printable
from images.items import Item
from images.pixels import extra_formats
from images.pixels.decode import DEFAULT_MAX_BYTES

SUFFIXES = extra_formats.suffixes() | {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"
}  # fmt: skip


def path_item(
    path: str | os.PathLike[str],
    key: str,
    label: str | None,
    metadata: Mapping[str, Any] | None = None,
) -> Item:
    """Return the item of the image file at `path`, an absolute one."""
    text = os.fspath(path)
    return Item(key, path_to_uri(text), label, partial(read_file, text), metadata)


def unique_keys(names: Collection[str]) -> dict[str, str]:
    r"""Return the keys of those names, all different, that are not called as they are.

    These are the names that are not valid Unicode. Where a file is literally called `\xe9`, the
    one whose name is the byte E9 gets `@2` behind its key.
    """
    odd = {name: key for name in names if (key := printable(name)) != name}
    if not odd:
        return odd
    used = set(names) - odd.keys()
    for name in sorted(odd):
        key, number = odd[name], 2
        while odd[name] in used:
            odd[name], number = f"{key}@{number}", number + 1
        used.add(odd[name])
    return odd


def suffix_of(name: str) -> str:
    """Return a name's suffix in lower case; a Path for each of a million names would be slow."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122


def path_to_uri(path: str) -> str:
    """Return the path itself, or a file: uri if it is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"file://{quote_from_bytes(os.fsencode(path))}"
    return path


def uri_to_path(uri: str) -> Path:
    """Undo `path_to_uri`."""
    if uri.startswith("file://"):
        return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))))
    return Path(uri)


def is_there(path: Path) -> bool:
    """Return whether a path exists; Path.exists raises on forbidden or overlong ones."""
    return os.path.exists(path)  # noqa: PTH110


def read_file(path: str) -> bytes:
    """Return a file's bytes.

    Raises:
        ImageRefused: UNREADABLE if it is missing, forbidden or not a plain file (a pipe would
            block); TOO_MANY_BYTES before it is read.
    """
    file = Path(path)
    try:
        if not file.is_file():
            fault = "is not a plain file" if file.exists() else "does not exist"
            raise ImageRefused(RefusalReason.UNREADABLE, f"{printable(path)} {fault}")
        size = file.stat().st_size
        if size > DEFAULT_MAX_BYTES:
            message = f"the file has {size:,} bytes, {DEFAULT_MAX_BYTES:,} are allowed"
            raise ImageRefused(RefusalReason.TOO_MANY_BYTES, message)
        return file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        message = f"cannot read {printable(path)}: {error}"
        raise ImageRefused(RefusalReason.UNREADABLE, message) from error

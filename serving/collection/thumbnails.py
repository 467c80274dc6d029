"""Thumbnails stored beside a collection, for items without a file or with a remote one.

    thumbnails/ab/cdef….webp        SHA-256 of the key and of the image's content

so no key, whatever it contains, can become a path.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from base.errors import ImageRefused, LookalikeError
from base.files import sha256_bytes
from images.pixels.decode import DEFAULT_MAX_PIXELS
from images.pixels.thumbnails import thumbnail_of
from serving.collection.contract.locations import Location, milvus_location

if TYPE_CHECKING:
    from collections.abc import Iterable

    from images.items import Content
    from images.pixels.preprocess import PreprocessSpec

FOLDER = "thumbnails"
KEPT_SIZE = 384


def thumbnails_beside(collection: Location) -> Path | None:
    """Return the folder of a collection's thumbnails; None for a collection that has no folder."""
    return None if milvus_location(collection) else Path(collection) / FOLDER


def kept_path(folder: Path, key: str, sha256: str) -> Path:
    """Return where the thumbnail of an item is kept."""
    name = sha256_bytes(f"{key}\0{sha256}".encode())
    return folder / name[:2] / f"{name[2:]}.webp"


def kept_thumbnail(
    content: Content, spec: PreprocessSpec, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> bytes | None:
    """Return the thumbnail to keep of an image, or None if the image cannot be used."""
    try:
        return thumbnail_of(content, spec, KEPT_SIZE, max_pixels=max_pixels)
    except ImageRefused:  # its own decoding says why
        return None


def keep_all(folder: Path, items: Iterable[tuple[str, str, bytes | None]]) -> None:
    """Store the thumbnails of many items: key, sha256 and image of each.

    They are renamed into place but not synced: what a power cut takes can be made again, and two
    syncs each would be most of the time that a million of them take.
    """
    for key, sha256, image in items:
        path = kept_path(folder, key, sha256)
        if image is None or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(image)
        temporary.replace(path)


def copy_kept(collection: Path, copy: Path) -> None:
    """Copy the thumbnails of one collection's folder to another; on the disk when this returns.

    Others may write meanwhile: what comes or goes is in the copy or not. If interrupted, calling it
    again copies what is missing.

    Raises:
        LookalikeError: a thumbnail cannot be read or written.
    """
    folder, other = collection / FOLDER, copy / FOLDER
    try:
        for path in folder.glob("??/*.webp"):
            target = other / path.relative_to(folder)
            if not target.exists():  # its name stands for its content
                target.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # removed meanwhile
                    shutil.copyfile(path, target.with_suffix(".tmp")).replace(target)
    except OSError as error:
        message = f"cannot copy the thumbnails {folder} to {other}: {error.strerror}"
        raise LookalikeError(message) from error
    if other.exists() and hasattr(os, "sync"):
        os.sync()  # once: two syncs for each of a million files would take an hour

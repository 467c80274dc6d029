"""Thumbnails that a collection keeps, because its items have no file, or a far one.

    thumbnails/ab/cdef….webp        SHA-256 of the key and of the image's content

so that no key, whatever it holds, can name a path.
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

if TYPE_CHECKING:
    from collections.abc import Iterable

    from images.items import Content
    from images.pixels.preprocess import PreprocessSpec
    from serving.collection.contract.locations import Location

FOLDER = "thumbnails"
KEPT_SIZE = 384


def thumbnails_beside(collection: Location) -> Path | None:
    """Where a collection's folder has its thumbnails; None for a collection that has no folder."""
    from serving.collection.contract.locations import (
        milvus_location,  # which brings the collections' index along
    )

    return None if milvus_location(collection) else Path(collection) / FOLDER


def kept_path(folder: Path, key: str, sha256: str) -> Path:
    """Where the thumbnail of an item is kept."""
    name = sha256_bytes(f"{key}\0{sha256}".encode())
    return folder / name[:2] / f"{name[2:]}.webp"


def kept_thumbnail(
    content: Content, spec: PreprocessSpec, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> bytes | None:
    """Make the thumbnail that is kept of an image, or None if the image cannot be used."""
    try:
        return thumbnail_of(content, spec, KEPT_SIZE, max_pixels=max_pixels)
    except ImageRefused:  # its own decoding says why
        return None


def keep_all(folder: Path, items: Iterable[tuple[str, str, bytes | None]]) -> None:
    """Keep the thumbnails of many items: key, sha256 and image of each.

    They are renamed into place but not waited for: what a power cut takes can be made again, and
    two waits for the disk would be most of the time that a million of them take.
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
    """Copy what one collection's folder keeps to another; on the disk when this returns.

    Others may write meanwhile: what comes or goes is in the copy or not. Interrupted, the same
    copies what is missing.

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
        os.sync()  # once: two waits for each of a million files would take an hour

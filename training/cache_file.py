"""The decoded pictures of a large source as files in the run folder.

    cache/pictures.npy   uint8 [N,S,S,3], NumPy's format, memory-mapped
    cache/labels.npy     int64 [n], n <= N: pictures n..N-1 were refused and are unused
    cache/cache.json     written last: without it there is no cache

`cache.json` holds a stamp of the listing (keys, labels, sizes and times of the files, the stored
square); a cache with another stamp is made anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from images.errors import LookalikeError
from images.files import write_json_atomic
from images.paths import uri_to_path
from training.pictures import Pictures, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from images.preprocess import PreprocessSpec
    from images.sources import Item

FORMAT = 1


def stamp_of(items: Iterable[Item], spec: PreprocessSpec) -> str:
    """SHA-256 of what can be known about the pictures without reading them."""
    stamp = hashlib.sha256(f"{FORMAT} {spec.digest}".encode())
    for item in items:
        seen = _seen_of(item.uri)
        stamp.update(json.dumps([item.key, item.label, *seen]).encode())
    return stamp.hexdigest()


def open_cache(folder: Path, stamp: str) -> Pictures | None:
    """Returns the finished cache with this stamp, if there is one."""
    try:
        about = json.loads((folder / "cache.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if about.get("stamp") != stamp:
        return None
    labels = np.load(folder / "labels.npy")
    return Pictures(
        name=about["name"],
        images=np.load(folder / "pictures.npy", mmap_mode="r")[: len(labels)],
        labels=labels,
        classes=tuple(about["classes"]),
        refused=tuple(Refusal(**refusal) for refusal in about["refused"]),
        digest=about["digest"],
    )


def create(folder: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Makes the file for the pictures; refuses before it starts if the disk is too small."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cache.json").unlink(missing_ok=True)
    needed, free = int(np.prod(shape)), shutil.disk_usage(folder).free
    if needed > free:
        raise LookalikeError(
            f"{folder}: the decoded pictures need {needed / 1e9:.1f} GB and the disk has "
            f"{free / 1e9:.1f} GB: give --out on a larger disk, or a smaller data.stored_size"
        )
    return np.lib.format.open_memmap(folder / "pictures.npy", "w+", np.uint8, shape)


def finish(folder: Path, stamp: str, pictures: Pictures) -> None:
    """Declares the cache whole."""
    np.save(folder / "labels.npy", pictures.labels)
    about = {
        "format": FORMAT,
        "stamp": stamp,
        "name": pictures.name,
        "classes": list(pictures.classes),
        "refused": [asdict(refusal) for refusal in pictures.refused],
        "digest": pictures.digest,
    }
    write_json_atomic(folder / "cache.json", about)


def _seen_of(uri: str) -> list[int]:
    """Size and time of an item's file; nothing for an item inside an array."""
    file = uri_to_path(uri)
    if not file.is_file():
        return []
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]

"""The decoded images of a large source as files in the run folder.

    cache/pixels.bin    the pixels of the usable images, one image after another
    cache/items.jsonl   a line with the stamp, then an entry per item (`cache_index.py`)
    cache/cache.json    format, stamp and digest; written last: without it the cache is incomplete

The stamp is a SHA-256 of the listing (keys, labels, sizes and times of the files) and of what is
stored of each image. A cache with another stamp, or with other pixels than its entries say, is
made anew; one that is incomplete is resumed after its last entry.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import IO, TYPE_CHECKING, Self

import numpy as np

from base.errors import LookalikeError
from base.files import write_json_atomic
from images.sources.paths import uri_to_path
from training.data.cache_index import CacheIndex

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from images.sources.sources import Item, Source
    from training.data.dataset import ImageDataset

FORMAT = 2
FLUSH = 1000  # images that a killed process may have to decode again


def stamp_of(items: Iterable[Item], form: str) -> str:
    """SHA-256 of what can be known about the images without reading them."""
    stamp = hashlib.sha256(f"{FORMAT} {form}".encode())
    for item in items:
        seen = _seen_of(item.uri)
        stamp.update(json.dumps([item.key, item.label, *seen]).encode())
    return stamp.hexdigest()


class CacheFile:
    """The folder above: read what is there, put the rest, finish."""

    def __init__(self, folder: Path, stamp: str) -> None:
        self._folder, self._stamp = folder, stamp
        self._about = folder / "cache.json"
        self._files: tuple[IO[bytes], IO[bytes]] | None = None  # pixels, items
        self._end = 0  # of the entries that are right, in items.jsonl
        self._put = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._files:
            self._flush()
            for file in self._files:
                file.close()

    def read(self, source: Source, items: list[Item]) -> CacheIndex:
        """Return the entries of the images that are there; none where they are not right."""
        index, end = CacheIndex(source), 0
        try:
            with (self._folder / "items.jsonl").open("rb") as lines:
                header = next(lines, b"null")
                if json.loads(header) != {"stamp": self._stamp}:
                    return index
                end = len(header)
                for item, line in zip(items, lines, strict=False):
                    if line.endswith(b"\n"):  # else its writer was killed
                        index.replay(item, line)
                        end += len(line)
            if index.bytes and not index.matches(self._map(index.bytes)):
                return CacheIndex(source)
        except (OSError, ValueError, KeyError):
            return CacheIndex(source)
        self._end = end
        return index

    def is_complete(self, index: CacheIndex) -> bool:
        """Whether the cache was finished with these entries."""
        try:
            about = json.loads(self._about.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(about == self._declaration(index))

    def begin(self, index: CacheIndex, needed: int) -> int:
        """Open the files to go on after some entries; refuses if the disk is too small.

        Returns the free bytes of the disk.

        Raises:
            LookalikeError: less than what is missing of the `needed` bytes of all images.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._about.unlink(missing_ok=True)
        free = shutil.disk_usage(self._folder).free
        if needed - index.bytes > free:
            raise LookalikeError(
                f"{self._folder}: the decoded pictures need {needed / 1e9:.1f} GB and the disk has "
                f"{free / 1e9:.1f} GB: give --out on a larger disk, a smaller data.stored_size, or "
                "--set data.cache=stream"
            )
        pixels, items = ((self._folder / name).open("ab") for name in ("pixels.bin", "items.jsonl"))
        pixels.truncate(index.bytes)
        items.truncate(self._end)
        if not self._end:
            items.write((json.dumps({"stamp": self._stamp}) + "\n").encode())
        self._files = pixels, items
        return free

    def put(self, entry: str, image: NDArray[np.uint8] | None) -> None:
        """Append an image, or none where it was refused, and its entry."""
        assert self._files is not None
        pixels, items = self._files
        try:
            if image is not None:
                pixels.write(np.ascontiguousarray(image).data)
            items.write((entry + "\n").encode())
            self._put += 1
            if self._put % FLUSH == 0:
                self._flush()
        except OSError as error:
            raise LookalikeError(
                f"{self._folder}: cannot write the decoded pictures ({error.strerror}): make room, "
                "then start the same command again; what is there is kept"
            ) from error

    def _flush(self) -> None:
        """Pixels first."""
        for file in self._files or ():
            file.flush()

    def finish(self, index: CacheIndex) -> None:
        """Declare the cache complete."""
        self._flush()
        write_json_atomic(self._about, self._declaration(index))

    def _declaration(self, index: CacheIndex) -> dict[str, object]:
        return {"format": FORMAT, "stamp": self._stamp, "digest": index.digest}

    def dataset(self, index: CacheIndex) -> ImageDataset:
        """Return the images of a complete cache, memory-mapped."""
        return index.dataset(self._map(index.bytes))

    def _map(self, count: int) -> NDArray[np.uint8]:
        if not count:
            return np.zeros(0, np.uint8)
        return np.memmap(self._folder / "pixels.bin", np.uint8, "r", shape=(count,))


def _seen_of(uri: str) -> list[int]:
    """Size and time of an item's file; nothing for an item inside an array."""
    file = uri_to_path(uri)
    if not file.is_file():
        return []
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]

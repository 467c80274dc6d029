"""A source decoded once: images in memory or in a memory-mapped file.

Views are cut from what is stored. Where crops are small it should be larger than a view (`[data]
stored_size`), or every crop is an enlargement.
"""

from __future__ import annotations

import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from base.cpus import available_cpus
from base.errors import ImageRefused
from base.progress import Progress, Silent
from images.pixels.preprocess import PreprocessSpec, load_image
from images.pixels.storage_size import load_whole
from training.data.cache_file import CacheFile, stamp_of
from training.data.cache_index import CacheIndex
from training.data.sampling import spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from images.sources.sources import Item, Source
    from training.data.dataset import ImageDataset

SAMPLED = 32  # images that are decoded to estimate the size of all


@dataclass(frozen=True, kw_only=True)
class Form:
    """What is stored of each image."""

    spec: PreprocessSpec
    whole: bool = False  # in its own shape, its short side at most the spec's size; else the square

    @property
    def digest(self) -> str:
        """What a cache was made for."""
        return f"{self.spec.digest} {self.whole}"

    def load(self, item: Item) -> NDArray[np.uint8] | ImageRefused:
        """Decode one image."""
        try:
            if self.whole:
                return load_whole(item.read(), self.spec)
            return load_image(item.read(), self.spec)[0]
        except ImageRefused as refusal:
            return refusal


class PixelStore(Protocol):
    """Takes images one after another."""

    def put(self, entry: str, image: NDArray[np.uint8] | None) -> None:
        """Add the next image, or None where it was refused, and its entry of `CacheIndex.add`."""


class MemoryStore:
    """Keeps the pixels in memory."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()

    def put(self, entry: str, image: NDArray[np.uint8] | None) -> None:  # noqa: ARG002
        """Add the pixels."""
        if image is not None:
            self._bytes.write(np.ascontiguousarray(image).data)

    def pixels(self) -> NDArray[np.uint8]:
        """All of them, uint8 [bytes]."""
        return np.frombuffer(self._bytes.getbuffer(), np.uint8)


def decode_source(
    source: Source,
    spec: PreprocessSpec,
    *,
    whole: bool = False,
    limit: int | None = None,
    folder: Path | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> ImageDataset:
    """Decode every image once, on all CPUs; what cannot be used is counted, never fatal.

    Args:
        source: from `images.sources.sources.open_source`.
        spec: the square to store.
        whole: store each image in its own shape instead, see
            `images.pixels.storage_size.load_whole`.
        limit: take this many images, evenly spread over the source (a folder is sorted by class,
            its first images are all alike).
        folder: for a cache of more than `memory_limit` bytes, see `decode_to_file`.
        memory_limit: bytes; without one, or without a folder, all images stay in memory.
        progress: shows how far the work is.

    Raises:
        SourceError: not one image can be used.
        LookalikeError: the disk has no room for the cache, or a cache is damaged.
    """
    items, form = select_items(source, limit), Form(spec=spec, whole=whole)
    progress = progress or Silent()
    if folder is None or memory_limit is None or expected_bytes(items, form) <= memory_limit:
        return decode_to_memory(source, items, form, progress)
    return decode_to_file(source, items, form, folder, progress)


def decode_to_memory(
    source: Source, items: list[Item], form: Form, progress: Progress
) -> ImageDataset:
    """Decode some items of a source; raises as `decode_source`."""
    index, store = CacheIndex(source), MemoryStore()
    _decode(items, form, index, store, progress)
    return index.dataset(store.pixels())


def decode_to_file(
    source: Source, items: list[Item], form: Form, folder: Path, progress: Progress
) -> ImageDataset:
    """Decode some items of a source into a memory-mapped file; raises as `decode_source`.

    A file that is there and was made from the same images is used again, and one that was stopped
    half way is resumed.
    """
    with CacheFile(folder, stamp_of(items, form.digest)) as file:
        index = file.read(source, items)
        if not file.is_complete(index):
            needed = expected_bytes(items, form)
            free = file.begin(index, needed)
            progress.message(_announcement(folder, len(items), needed, free, index))
            _decode(items[len(index) :], form, index, file, progress)
            file.finish(index)
        return file.dataset(index)


def _announcement(folder: Path, dataset: int, needed: int, free: int, index: CacheIndex) -> str:
    kept = f", {index.bytes / 1e9:.1f} GB are there" if index.bytes else ""
    return (
        f"{dataset:,} pictures are decoded once, to about {needed / 1e9:.1f} GB in {folder} "
        f"({free / 1e9:.1f} GB free{kept})"
    )


def select_items(source: Source, limit: int | None) -> list[Item]:
    """Return all items, or so many of them, evenly spread."""
    items = list(source)
    if limit is None:
        return items
    return [items[position] for position in spread(len(items), limit)]


def expected_bytes(items: list[Item], form: Form) -> int:
    """Estimate the bytes of the decoded images from a sample of them."""
    sample = [form.load(items[position]) for position in spread(len(items), SAMPLED)]
    sizes = [image.nbytes for image in sample if not isinstance(image, ImageRefused)]
    return len(items) * sum(sizes) // max(1, len(sizes))


def _decode(
    items: list[Item], form: Form, index: CacheIndex, store: PixelStore, progress: Progress
) -> None:
    before = len(index)
    progress.begin(f"decoding {index.name}", before + len(items), before)
    try:
        for item, result in decode_in_order(items, form):
            line = index.add(item, result)
            store.put(line, None if isinstance(result, ImageRefused) else result)
            refused = len(index.refused)
            progress.update(len(index), f"{refused} refused" if refused else "")
    finally:
        progress.end()


def decode_in_order(
    items: Iterable[Item], form: Form
) -> Iterator[tuple[Item, NDArray[np.uint8] | ImageRefused]]:
    """Decode ahead in threads (Pillow works without the GIL), a bounded number of images."""
    threads = available_cpus()
    waiting: deque[tuple[Item, Future[NDArray[np.uint8] | ImageRefused]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(form.load, item)))
                if len(waiting) > 8 * threads:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()

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
from training.data.cache_index import Entries
from training.data.sampling import spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from images.sources.sources import Item, Source
    from training.data.dataset import ImageDataset

SAMPLED = 32  # images that are decoded to foretell the size of all


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


class Store(Protocol):
    """Takes images one after another."""

    def put(self, entry: str, image: NDArray[np.uint8] | None) -> None:
        """Add the next image, or none where it was refused, and what `Entries.add` says of it."""


class Memory:
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
    memory_limit: int = 2**63,
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
        folder: where a cache above `memory_limit` bytes is kept as a memory-mapped file; one that
            is there and was made from the same images is used again, one that was stopped half
            way is gone on with. Without a folder all images stay in memory.
        memory_limit: see `folder`.
        progress: shows how far the work is.

    Raises:
        SourceError: not one image can be used.
        LookalikeError: the disk has no room for the cache, or a cache is damaged.
    """
    items, form = chosen_items(source, limit), Form(spec=spec, whole=whole)
    progress = progress or Silent()
    needed = 0 if folder is None else expected_bytes(items, form)
    if folder is None or needed <= memory_limit:
        entries, memory = Entries(source), Memory()
        _decode(items, form, entries, memory, progress)
        return entries.dataset(memory.pixels())
    with CacheFile(folder, stamp_of(items, form.digest)) as file:
        entries = file.read(source, items)
        if not file.whole(entries):
            free = file.begin(entries, needed)
            progress.message(_announcement(folder, len(items), needed, free, entries))
            _decode(items[len(entries) :], form, entries, file, progress)
            file.finish(entries)
        return file.dataset(entries)


def _announcement(folder: Path, dataset: int, needed: int, free: int, entries: Entries) -> str:
    kept = f", {entries.bytes / 1e9:.1f} GB are there" if entries.bytes else ""
    return (
        f"{dataset:,} pictures are decoded once, to about {needed / 1e9:.1f} GB in {folder} "
        f"({free / 1e9:.1f} GB free{kept})"
    )


def chosen_items(source: Source, limit: int | None) -> list[Item]:
    """All items, or so many of them, evenly spread."""
    items = list(source)
    if limit is None:
        return items
    return [items[position] for position in spread(len(items), limit)]


def expected_bytes(items: list[Item], form: Form) -> int:
    """How much the decoded images will need, by a few of them."""
    sample = [form.load(items[position]) for position in spread(len(items), SAMPLED)]
    sizes = [image.nbytes for image in sample if not isinstance(image, ImageRefused)]
    return len(items) * sum(sizes) // max(1, len(sizes))


def _decode(
    items: list[Item], form: Form, entries: Entries, store: Store, progress: Progress
) -> None:
    before = len(entries)
    progress.begin(f"decoding {entries.name}", before + len(items), before)
    try:
        for item, result in in_order(items, form):
            line = entries.add(item, result)
            store.put(line, None if isinstance(result, ImageRefused) else result)
            refused = len(entries.refused)
            progress.update(len(entries), f"{refused} refused" if refused else "")
    finally:
        progress.end()


def in_order(
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

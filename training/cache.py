"""A source decoded once: uint8 pictures [N,S,S,3] in memory or in a memory-mapped file.

Views are cut from the stored square. Where crops are small the square should be larger than a view
(`[data] stored_size`), or every crop is an enlargement.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from images.cpus import available_cpus
from images.errors import ImageRefused, SourceError
from images.preprocess import PreprocessSpec, load_image
from training import cache_file
from training.pictures import NO_LABEL, Pictures, Refusal
from training.progress import Reporter, Silent
from training.sampling import spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from images.sources import Item, Source


def decode_source(
    source: Source,
    spec: PreprocessSpec,
    *,
    limit: int | None = None,
    folder: Path | None = None,
    memory_limit: int = 2**63,
    reporter: Reporter | None = None,
) -> Pictures:
    """Decodes every picture once, on all CPUs; what cannot be used is counted, never fatal.

    Args:
        source: from `images.sources.open_source`.
        spec: the square to store.
        limit: take this many pictures, evenly spread over the source (a folder is sorted by class,
            its first pictures are all alike).
        folder: where a cache above `memory_limit` bytes is kept as a memory-mapped file; one that
            is there and was made from the same pictures is used again. Without a folder all
            pictures stay in memory.
        memory_limit: see `folder`.
        reporter: told about the progress.

    Raises:
        SourceError: not one picture can be used.
        LookalikeError: the disk has no room for the cache.
    """
    items = list(source)
    if limit is not None:
        items = [items[position] for position in spread(len(items), limit)]
    shape = (len(items), spec.size, spec.size, 3)
    on_disk = folder is not None and int(np.prod(shape)) > memory_limit
    if not on_disk or folder is None:
        return _decode(source, items, spec, np.empty(shape, np.uint8), reporter or Silent())
    stamp = cache_file.stamp_of(items, spec)
    found = cache_file.open_cache(folder, stamp)
    if found is None:
        images = cache_file.create(folder, shape)
        found = _decode(source, items, spec, images, reporter or Silent())
        cache_file.finish(folder, stamp, found)
    return found


def _decode(
    source: Source,
    items: list[Item],
    spec: PreprocessSpec,
    images: NDArray[np.uint8],
    reporter: Reporter,
) -> Pictures:
    index = {name: number for number, name in enumerate(source.classes)}
    labels: list[int] = []
    refused: list[Refusal] = []
    digest = hashlib.sha256()
    reporter.begin(f"decoding {source.name}", len(items))
    try:
        for done, (item, result) in enumerate(_in_order(items, spec), start=1):
            if isinstance(result, ImageRefused):
                refused.append(
                    Refusal(key=item.key, reason=str(result.reason), message=str(result))
                )
            else:
                images[len(labels)] = result
                labels.append(NO_LABEL if item.label is None else index[item.label])
                digest.update(json.dumps([item.key, item.label]).encode())
                digest.update(hashlib.sha256(result.tobytes()).digest())
            reporter.update(done, f"{len(refused)} refused" if refused else "")
    finally:
        reporter.end()
    if not labels:
        first = refused[0]
        raise SourceError(
            f"no usable picture in {source.name}: all {len(refused)} refused, the first one "
            f"({first.key}) because: {first.message}"
        )
    return Pictures(
        name=source.name,
        images=images[: len(labels)],
        labels=np.asarray(labels, np.int64),
        classes=tuple(source.classes),
        refused=tuple(refused),
        digest=digest.hexdigest(),
    )


def _in_order(
    items: Iterable[Item], spec: PreprocessSpec
) -> Iterator[tuple[Item, NDArray[np.uint8] | ImageRefused]]:
    """Decodes ahead in threads (Pillow works without the GIL), a bounded number of pictures."""
    threads = available_cpus()
    waiting: deque[tuple[Item, Future[NDArray[np.uint8] | ImageRefused]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(_load, item, spec)))
                if len(waiting) > 8 * threads:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _load(item: Item, spec: PreprocessSpec) -> NDArray[np.uint8] | ImageRefused:
    try:
        return load_image(item.read(), spec)[0]
    except ImageRefused as refusal:
        return refusal

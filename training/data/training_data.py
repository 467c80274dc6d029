"""From a source to the images that a run trains on: `data.cache` of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from base.errors import UsageError
from training.data.cache import (
    Form,
    decode_source,
    decode_to_file,
    decode_to_memory,
    select_items,
)
from training.data.stream import open_stream

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from base.progress import Progress
    from images.items import RefusedImage
    from images.pixels.preprocess import PreprocessSpec
    from images.sources.sources import Source
    from training.data.batches import BatchReader
    from training.data.order import Order
    from training.data.settings import DataSettings


class TrainingData(Protocol):
    """The images of a run, whether they are in memory, in a file or streamed."""

    @property
    def name(self) -> str:
        """The source's."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """[N], an index into classes or NO_LABEL."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels."""

    @property
    def refused(self) -> tuple[RefusedImage, ...]:
        """The images that are known to be unusable before the run."""

    @property
    def digest(self) -> str:
        """SHA-256: two sources with one digest give the same training."""

    def __len__(self) -> int: ...

    def squares(self, positions: Iterable[int], spec: PreprocessSpec) -> NDArray[np.uint8]:
        """Return some images as the spec prepares them, [n,S,S,C]."""

    def refusals(self) -> tuple[RefusedImage, ...]:
        """Return the images that could not be used, as far as they are known."""

    def batches(self, order: Order, device: torch.device) -> BatchReader:
        """Return the reader of the batches of a run, those of `order.own`, to a device."""


def open_training_data(
    source: Source,
    settings: DataSettings,
    *,
    limit: int | None,
    folder: Path,
    memory_limit: int,
    progress: Progress,
) -> TrainingData:
    """Open the images in memory, in a file or as a stream.

    Args:
        source: the images.
        settings: with numbers for the range. `cache` "auto" keeps up to `memory_limit` bytes in
            memory and more in a file, "memory" and "disk" decide that, "stream" decodes each image
            whenever it is needed.
        limit: take this many images, evenly spread.
        folder: for the file.
        memory_limit: bytes, for "auto".
        progress: shows how far the work is.

    Raises:
        SourceError: not one image can be used.
        LookalikeError: the disk has no room for the file.
    """
    spec, whole = settings.stored, settings.whole
    if settings.cache == "auto":
        return decode_source(
            source,
            spec,
            whole=whole,
            limit=limit,
            folder=folder,
            memory_limit=memory_limit,
            progress=progress,
        )
    form = Form(spec=spec, whole=whole)
    if settings.cache == "stream":
        return open_stream(source, form, limit)
    items = select_items(source, limit)
    if settings.cache == "memory":
        return decode_to_memory(source, items, form, progress)
    return decode_to_file(source, items, form, folder, progress)


def check_enough(dataset: TrainingData, batch_size: int) -> None:
    """Refuse fewer images than a batch.

    Raises:
        UsageError: they do not make a batch.
    """
    if len(dataset) < batch_size:
        raise UsageError(
            f"{dataset.name} has {len(dataset)} usable pictures, less than one batch of "
            f"{batch_size}: add pictures or --batch-size "
            f"{max(2, len(dataset) // 2)}"
        )

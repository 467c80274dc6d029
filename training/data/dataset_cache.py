"""Where the training images are kept: `data.cache` of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.data.cache import Form, decode_source
from training.data.stream import open_stream

if TYPE_CHECKING:
    from pathlib import Path

    from base.progress import Progress
    from images.sources.sources import Source
    from training.data.dataset import ImageDataset
    from training.data.settings import DataSettings


def training_images(
    source: Source,
    data: DataSettings,
    *,
    limit: int | None,
    folder: Path,
    memory_limit: int,
    progress: Progress,
) -> ImageDataset:
    """Return the images in memory, in a file or streamed.

    Args:
        source: the images.
        data: "auto" keeps up to `memory_limit` bytes in memory and more in a file, "memory" and
            "disk" decide that, "stream" decodes each image whenever it is needed.
        limit: take this many images, evenly spread.
        folder: for the file.
        memory_limit: see `data`.
        progress: shows how far the work is.

    Raises:
        SourceError: not one image can be used.
        LookalikeError: the disk has no room for the file.
    """
    if data.cache == "stream":
        return open_stream(source, Form(spec=data.stored, whole=data.whole), limit)
    return decode_source(
        source,
        data.stored,
        whole=data.whole,
        limit=limit,
        folder=folder,
        memory_limit={"memory": 2**63, "disk": -1}.get(data.cache, memory_limit),
        progress=progress,
    )

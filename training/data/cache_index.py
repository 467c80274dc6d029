"""What is known about the images of a cache, one entry per item of the source."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import ImageRefused, SourceError
from images.items import RefusedImage
from training.data.dataset import NO_LABEL, ImageDataset
from training.data.sampling import spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from images.sources.sources import Item, Source


CHECKED = 64  # images whose pixels are compared with what was hashed


class CacheIndex:
    """Grows with each item, decoded now (`add`) or noted by a run before (`replay`)."""

    def __init__(self, source: Source) -> None:
        self.name, self._classes = source.name, tuple(source.classes)
        self._index = {name: number for number, name in enumerate(self._classes)}
        self._shapes: list[tuple[int, int, int]] = []
        self._labels: list[int] = []
        self._hashes = bytearray()  # SHA-256 of each image's pixels
        self._digest = hashlib.sha256()
        self.refused: list[RefusedImage] = []
        self.bytes = 0  # of all pixels

    def __len__(self) -> int:
        """Items, refused ones as well."""
        return len(self._labels) + len(self.refused)

    def add(self, item: Item, result: NDArray[np.uint8] | ImageRefused) -> str:
        """Take the next item; returns its entry, a line of JSON."""
        if isinstance(result, ImageRefused):
            entry: dict[str, Any] = {"reason": str(result.reason), "message": str(result)}
        else:
            pixels = hashlib.sha256(np.ascontiguousarray(result).data).hexdigest()
            entry = {"shape": result.shape, "pixels": pixels}
        self._take(item, entry)
        return json.dumps(entry)

    def replay(self, item: Item, line: bytes) -> None:
        """Take the next item as `add` described it."""
        self._take(item, json.loads(line))

    def _take(self, item: Item, entry: dict[str, Any]) -> None:
        if "shape" not in entry:
            self.refused.append(RefusedImage(item.key, item.uri, "load", **entry))
            return
        height, width, channels = entry["shape"]
        pixels = bytes.fromhex(entry["pixels"])
        self._shapes.append((height, width, channels))
        self._labels.append(NO_LABEL if item.label is None else self._index[item.label])
        self._hashes += pixels
        self.bytes += height * width * channels
        self._digest.update(json.dumps([item.key, item.label, height, width, channels]).encode())
        self._digest.update(pixels)

    def dataset(self, pixels: NDArray[np.uint8]) -> ImageDataset:
        """Return the images with these pixels, uint8 [bytes].

        Raises:
            SourceError: all were refused.
        """
        if not self._labels:
            first = self.refused[0]
            raise SourceError(
                f"no usable picture in {self.name}: all {len(self.refused)} refused, the first one "
                f"({first.key}) because: {first.message}"
            )
        shapes = np.array(self._shapes, np.int64)
        alike = bool((shapes == shapes[0]).all())
        return ImageDataset(
            name=self.name,
            images=pixels.reshape(-1, *shapes[0]) if alike else pixels.reshape(-1, shapes[0, 2]),
            sizes=None if alike else shapes[:, :2],
            labels=np.array(self._labels, np.int64),
            classes=self._classes,
            refused=tuple(self.refused),
            digest=self.digest,
        )

    @property
    def digest(self) -> str:
        """SHA-256 over key, label, shape and pixels of the usable images so far."""
        return self._digest.hexdigest()

    def matches(self, pixels: NDArray[np.uint8]) -> bool:
        """Whether pixels, uint8 [bytes], are those that were hashed, by a sample of images."""
        dataset = self.dataset(pixels)
        sample = spread(len(dataset) - 1, CHECKED).tolist()
        return all(
            hashlib.sha256(np.ascontiguousarray(dataset[position]).data).digest()
            == self._hashes[32 * position : 32 * position + 32]
            for position in [*sample, len(dataset) - 1]
        )

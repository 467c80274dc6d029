"""Decoded images with their labels, and those that were refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from images.pixels.preprocess import PreprocessSpec, preprocess
from training.data.batches import BatchReader, array_batches
from training.data.pixel_array import PixelArray

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from numpy.typing import NDArray

    from images.items import RefusedImage
    from training.data.order import Order

NO_LABEL = -1


@dataclass(frozen=True, kw_only=True)
class ImageDataset(PixelArray):
    """The usable images of a source, decoded.

    `digest` is a SHA-256 over key, label and pixels of each image in order: two sources with one
    digest give the same training.
    """

    name: str
    labels: NDArray[np.int64]  # [N], an index into classes or NO_LABEL
    classes: tuple[str, ...]
    refused: tuple[RefusedImage, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    def squares(self, positions: Iterable[int], spec: PreprocessSpec) -> NDArray[np.uint8]:
        """Return some images as the spec prepares them, [n,S,S,C]."""
        return stack_squares([self[position] for position in positions], spec)

    def refusals(self) -> tuple[RefusedImage, ...]:
        """Return the images that could not be used, as far as they are known."""
        return self.refused

    def batches(self, order: Order, device: torch.device) -> BatchReader:
        """Return the reader of the batches of a run."""
        return array_batches(self, order, device)


def stack_squares(images: Sequence[NDArray[np.uint8]], spec: PreprocessSpec) -> NDArray[np.uint8]:
    """Return images [h,w,C] as the spec prepares them, [n,S,S,C]."""
    if not images:
        return np.zeros((0, spec.size, spec.size, spec.channels), np.uint8)
    return np.stack([preprocess(image, spec) for image in images])

"""Decoded images with their labels, and those that were refused."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from images.pixels.preprocess import PreprocessSpec, preprocess

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

NO_LABEL = -1


@dataclass(frozen=True, kw_only=True)
class RefusedImage:
    """One image that could not be used."""

    key: str
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """The usable images of a source, decoded.

    Images of one size are one array. Others lie one after another, row by row, in an array of
    pixels, and `sizes` tells them apart.

    `digest` is a SHA-256 over key, label and pixels of each image in order: two sources with one
    digest give the same training.
    """

    name: str
    images: NDArray[np.uint8]  # [N,H,W,C], or [pixels,C] where `sizes` are given
    sizes: NDArray[np.int64] | None = None  # [N,2]: height and width
    labels: NDArray[np.int64]  # [N], an index into classes or NO_LABEL
    classes: tuple[str, ...]
    refused: tuple[RefusedImage, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each image begins among the pixels, [N]."""
        assert self.sizes is not None
        return np.concatenate([[0], self.sizes.prod(1).cumsum()[:-1]])

    def __getitem__(self, position: int) -> NDArray[np.uint8]:
        """One image [H,W,C]."""
        if self.sizes is None:
            image: NDArray[np.uint8] = self.images[position]
            return image
        height, width = self.sizes[position]
        start = self.starts[position]
        return self.images[start : start + height * width].reshape(height, width, -1)

    def squares(self, positions: Iterable[int], spec: PreprocessSpec) -> NDArray[np.uint8]:
        """Return some images as the spec prepares them, [n,S,S,C]."""
        found = [preprocess(self[position], spec) for position in positions]
        return (
            np.stack(found)
            if found
            else np.zeros((0, spec.size, spec.size, spec.channels), np.uint8)
        )

    def canvas(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return some images in the upper left corners of black areas of one size, [n,H,W,C]."""
        if self.sizes is None:
            return self.images[positions]
        return together([self[position] for position in positions])

    def refusals(self) -> tuple[RefusedImage, ...]:
        """Return the images that could not be used, as far as they are known."""
        return self.refused


def together(dataset: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Images [h,w,C] in the upper left corners of black areas of one size, [n,H,W,C]."""
    height, width = (max(image.shape[side] for image in dataset) for side in (0, 1))
    canvas = np.zeros((len(dataset), height, width, dataset[0].shape[2]), np.uint8)
    for area, image in zip(canvas, dataset, strict=True):
        area[: image.shape[0], : image.shape[1]] = image
    return canvas

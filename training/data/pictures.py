"""Decoded pictures with their labels, and those that were refused."""

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
class Refusal:
    """One picture that could not be used."""

    key: str
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The usable pictures of a source, decoded.

    Pictures of one size are one array. Others lie one after another, row by row, in an array of
    pixels, and `sizes` tells them apart.

    `digest` is a SHA-256 over key, label and pixels of each picture in order: two sources with one
    digest give the same training.
    """

    name: str
    images: NDArray[np.uint8]  # [N,H,W,C], or [pixels,C] where `sizes` are given
    sizes: NDArray[np.int64] | None = None  # [N,2]: height and width
    labels: NDArray[np.int64]  # [N], an index into classes or NO_LABEL
    classes: tuple[str, ...]
    refused: tuple[Refusal, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each picture begins among the pixels, [N]."""
        assert self.sizes is not None
        return np.concatenate([[0], self.sizes.prod(1).cumsum()[:-1]])

    def __getitem__(self, position: int) -> NDArray[np.uint8]:
        """One picture [H,W,C]."""
        if self.sizes is None:
            picture: NDArray[np.uint8] = self.images[position]
            return picture
        height, width = self.sizes[position]
        start = self.starts[position]
        return self.images[start : start + height * width].reshape(height, width, -1)

    def squares(self, positions: Iterable[int], spec: PreprocessSpec) -> NDArray[np.uint8]:
        """Return some pictures as the spec prepares them, [n,S,S,C]."""
        found = [preprocess(self[position], spec) for position in positions]
        return (
            np.stack(found)
            if found
            else np.zeros((0, spec.size, spec.size, spec.channels), np.uint8)
        )

    def canvas(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return some pictures in the upper left corners of black areas of one size, [n,H,W,C]."""
        if self.sizes is None:
            return self.images[positions]
        return together([self[position] for position in positions])

    def refusals(self) -> tuple[Refusal, ...]:
        """Return the pictures that could not be used, as far as they are known."""
        return self.refused


def together(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures [h,w,C] in the upper left corners of black areas of one size, [n,H,W,C]."""
    height, width = (max(picture.shape[side] for picture in pictures) for side in (0, 1))
    canvas = np.zeros((len(pictures), height, width, pictures[0].shape[2]), np.uint8)
    for area, picture in zip(canvas, pictures, strict=True):
        area[: picture.shape[0], : picture.shape[1]] = picture
    return canvas

"""Images uint8 in one array, of one size or one after another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class PixelArray:
    """Decoded images, in memory or memory-mapped.

    Images of one size are one array. Others lie one after another, row by row, in an array of
    pixels, which `sizes` divides into images.
    """

    images: NDArray[np.uint8]  # [N,H,W,C], or [pixels,C] where `sizes` are given
    sizes: NDArray[np.int64] | None = None  # [N,2]: height and width

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

    def canvas(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return some images in the upper left corners of black areas of one size, [n,H,W,C]."""
        if self.sizes is None:
            return self.images[positions]
        return pad_to_canvas([self[position] for position in positions])


def pad_to_canvas(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Images [h,w,C] in the upper left corners of black areas of one size, [n,H,W,C]."""
    height, width = (max(image.shape[side] for image in images) for side in (0, 1))
    canvas = np.zeros((len(images), height, width, images[0].shape[2]), np.uint8)
    for area, image in zip(canvas, images, strict=True):
        area[: image.shape[0], : image.shape[1]] = image
    return canvas

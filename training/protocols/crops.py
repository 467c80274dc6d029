"""Near-duplicates: is one crop of an image found by another crop of it?

A collection is asked for the same kind of thing, or for the same photo. Retrieval by labels
measures the first; this the second, without labels. One does not follow from the other: what
gathers a kind makes its images harder to tell from one another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from training.protocols.knn import as_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    Pixels = NDArray[np.uint8]  # [N,S,S,C]

LEAST_SIDE, MOST_SIDE = 0.5, 0.9  # of a crop, in sides of its image


def crop_pairs(images: Pixels, seed: int = 11) -> tuple[Pixels, Pixels]:
    """Return two random square crops of each image, scaled back to its size.

    Args:
        images: uint8 [N,S,S,C], any number of channels.
        seed: decides every draw.
    """
    random = np.random.default_rng(seed)
    first, second = np.empty_like(images), np.empty_like(images)
    side = images.shape[1]
    for out in (first, second):
        for number, image in enumerate(images):
            length = random.uniform(LEAST_SIDE, MOST_SIDE) * side
            top, left = random.uniform(0, side - length, 2)
            out[number] = _cut(image, top, left, length)
    return first, second


def _cut(image: Pixels, top: float, left: float, length: float) -> Pixels:
    """Return the square of `length` pixels scaled to [S,S,C], bilinear."""
    side = image.shape[0]
    centers = (np.arange(side) + 0.5) / side * length - 0.5
    wide = image.astype(np.float32)
    for axis, start in enumerate((top, left)):
        position = np.clip(start + centers, 0, side - 1)
        low = position.astype(np.int64)
        share = (position - low).astype(np.float32).reshape(-1, *[1] * (2 - axis))
        below, above = wide.take(low, axis), wide.take(np.minimum(low + 1, side - 1), axis)
        wide = below + (above - below) * share
    return np.rint(wide).astype(np.uint8)


def crop_recall(first: ArrayLike | Tensor, second: ArrayLike | Tensor) -> float:
    """Share of rows of `first` [N,D] whose nearest row of `second` [N,D] is the same image's."""
    nearest = (as_rows(first) @ as_rows(second).T).argmax(1).numpy()
    return float(np.mean(nearest == np.arange(len(nearest))))

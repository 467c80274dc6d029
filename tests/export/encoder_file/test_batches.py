"""Encoding in batches: the same rows as at once, whatever the batch."""

import numpy as np
import pytest
from numpy.typing import NDArray

from export.encoder_file.batches import encode_in_batches

IMAGES = np.arange(7 * 2 * 2 * 3, dtype=np.uint8).reshape(7, 2, 2, 3)


def both(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    flat = images.reshape(len(images), 12).astype(np.float32)
    return flat, flat[:, :2] + 1


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_rows_stand_in_order_whatever_the_batch(size: int) -> None:
    sizes: list[int] = []

    def encode(
        images: NDArray[np.uint8],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        sizes.append(len(images))
        return both(images)

    for outputs in zip(encode_in_batches(encode, IMAGES, size), both(IMAGES), strict=True):
        np.testing.assert_array_equal(*outputs)
    assert sum(sizes) == 7
    assert max(sizes) == min(size, 7)


def test_no_images_keep_the_widths() -> None:
    first, second = encode_in_batches(both, IMAGES[:0], 4)
    assert (first.shape, second.shape) == ((0, 12), (0, 2))


def test_progress_counts_images() -> None:
    seen: list[tuple[int, int]] = []
    encode_in_batches(both, IMAGES, 3, lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]

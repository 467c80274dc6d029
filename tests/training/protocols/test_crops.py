"""Crops of an image, and how often one finds the other."""

import numpy as np
import pytest
from PIL import Image

from training.protocols.crops import _cut, crop_pairs, crop_recall


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_crops_keep_shape_and_channels_and_differ(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, channels), np.uint8)
    first, second = crop_pairs(images)
    assert first.shape == second.shape == images.shape
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, crop_pairs(images)[0])


def test_a_cut_is_what_pillow_enlarges() -> None:
    y, x = np.mgrid[0:32, 0:32]
    image = np.stack([8 * x, 8 * y, 4 * (x + y)], -1).astype(np.uint8)
    expected = Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR, (4, 6, 24, 26))
    inner = np.s_[2:-2, 2:-2]  # at its edge Pillow does not look outside of the box
    np.testing.assert_allclose(_cut(image, 6, 4, 20)[inner], np.asarray(expected)[inner], atol=1)


def test_recall_counts_the_rows_that_find_themselves() -> None:
    rows = np.eye(4)
    assert crop_recall(rows, 3 * rows) == 1
    assert crop_recall(rows, rows[[0, 1, 3, 2]]) == 0.5

"""Images for checks where no real ones are at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

WAVES = 6


def generated_images(
    count: int, size: int, seed: int = 0, *, channels: int = 3
) -> NDArray[np.uint8]:
    """Draw images with structure at several scales: uint8 [count,size,size,channels].

    Each is a sum of colored waves of random direction and length with a little noise, stretched to
    the full range of values; the first two are plain black and plain white. Noise alone would not
    do: an encoder sees every noise image as the same.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    images = np.empty((count, size, size, channels), np.uint8)
    for image in images:
        drawn = rng.normal(0, 0.1, (size, size, channels))
        for _ in range(WAVES):
            turns = rng.normal(0, 3, 2)
            phase = rng.uniform(0, 2 * np.pi)
            wave = np.sin(2 * np.pi * (turns[0] * x + turns[1] * y) + phase)
            drawn += wave[..., None] * rng.uniform(-1, 1, channels)
        low, high = drawn.min(), drawn.max()
        image[:] = np.rint(255 * (drawn - low) / (high - low))
    images[:1] = 0
    images[1:2] = 255
    return images

"""Vectors as embeddings lie: of real images, moved as a camera would move them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from images.sources.sources import open_source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]


class Images:
    """Fashion-MNIST's images of one split and the projection that makes vectors of them.

    Each vector is of an image shifted by up to 3 pixels, mirrored half the time, re-lit and with
    noise on it, projected on the principal components of the set and brought to length one.
    """

    def __init__(self, split: str, dim: int, like: Images | None = None) -> None:
        items = list(open_source(f"fashion-mnist:{split}"))
        self.images = np.stack([np.asarray(item.read()) for item in items]).reshape(-1, 28, 28)
        if like is None:
            flat = self.images[::6].reshape(-1, 784).astype(np.float32) / 255
            self.mean = flat.mean(0)
            _, _, components = np.linalg.svd(flat - self.mean, full_matrices=False)
            self.projection = components[:dim].T.astype(np.float32)
        else:
            self.mean, self.projection = like.mean, like.projection

    def vectors(self, count: int, random: np.random.Generator) -> Vectors:
        """Return vectors of length one, float32 [count, dim]."""
        result = np.empty((count, self.projection.shape[1]), np.float32)
        for start, size in portions(count, 20_000):
            result[start : start + size] = self._draw(size, random)
        return result

    def _draw(self, count: int, random: np.random.Generator) -> Vectors:
        drawn = self.images[random.integers(len(self.images), size=count)]
        drawn = np.where(random.random((count, 1, 1)) < 0.5, drawn, drawn[:, :, ::-1])
        padded = np.pad(drawn, ((0, 0), (3, 3), (3, 3)))
        top, left = random.integers(7, size=(2, count, 1))
        rows, columns = top + np.arange(28), left + np.arange(28)
        moved = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
        x = moved.reshape(count, -1).astype(np.float32) / 255
        x *= random.uniform(0.7, 1.3, (count, 1)).astype(np.float32)
        x += 0.03 * random.standard_normal(x.shape, np.float32)
        z: Vectors = (x - self.mean) @ self.projection
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        return z


def portions(count: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield start and size of the chunks of a count."""
    for start in range(0, count, size):
        yield start, min(size, count - start)

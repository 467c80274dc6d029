"""Items whose vectors lie in clusters, as embeddings do, and collections tuned on them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.collection import Collection, Record, create_collection

Vectors = NDArray[np.float32]


def clustered(count: int, seed: int, dim: int) -> Vectors:
    """Return unit vectors around 40 centers: float32 [count, dim]."""
    centers = np.random.default_rng(0).standard_normal((40, dim))
    random = np.random.default_rng(seed)
    vectors = centers[random.integers(40, size=count)]
    vectors = vectors + 0.5 * random.standard_normal((count, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors.astype(np.float32)
    return unit


def numbered(vectors: Vectors, first: int = 0) -> list[Record]:
    """Return an item for each vector; key and metadata follow from its number."""
    return [
        Record(f"{first + n:06}", vector, "", metadata={"n": n % 10})
        for n, vector in enumerate(vectors)
    ]


def tuned_collection(folder: Path, *, memory: int | None = None, index: str = "auto") -> Collection:
    """Make a collection of 2,400 items of 128 numbers, tuned to recall 0.9."""
    collection = create_collection(folder, "ab" * 32, 128, recall=0.9, memory=memory, index=index)
    collection.add(numbered(clustered(2400, 1, 128)))
    collection.tune(threads=1)
    return collection


def flip(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))

"""Data sets that differ in what makes a neighbor hard to find, for `promise_kept`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.search_vectors import Images

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    # Draws so many vectors of length one by a seed, float32 [count, dim]. Another phase is another
    # section of the distribution, for what drifts.
    Source = Callable[[int, int, int], Vectors]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What is put in, what happens to it, and what is promised.

    Attributes:
        name: of the distribution, for people.
        source: draws items and queries.
        dim: length of a vector.
        size: items at the end, before removals.
        recall: the recall@10 that is promised.
        grown: share of the items that is added after tuning, with the upkeep of a service.
        drift: whether what is added is from another section of the distribution.
        removed: share that is removed at the end, "near": all that is nearest to some points.
        bytes_each: memory asked for, in bytes an item; None: no limit.
        index: as in `collection create --index`.
    """

    name: str
    source: Source
    dim: int
    size: int
    recall: float = 0.99
    grown: float = 0.0
    drift: bool = False
    removed: float = 0.0
    near: bool = False
    bytes_each: int | None = None
    index: str = "auto"


def unit(x: NDArray[Any]) -> Vectors:
    """Rows brought to length one."""
    vectors: Vectors = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return vectors


@cache
def _dataset(split: str, dim: int) -> Images:
    return Images(split, dim, _dataset("train", dim) if split == "test" else None)


def dataset(dim: int) -> Source:
    """Embeddings of real images; queries (odd seeds) are of images that are not among them."""

    def draw(count: int, seed: int, phase: int) -> Vectors:
        split = "test" if seed % 2 else "train"
        return _dataset(split, dim).vectors(count, np.random.default_rng(seed + 1000 * phase))

    return draw


def clusters(dim: int, count: int, spread: float, unequal: float = 0.0) -> Source:
    """Around points; `unequal` is the exponent of Zipf's law for how many are around each."""

    def draw(n: int, seed: int, phase: int) -> Vectors:
        centers = unit(np.random.default_rng(phase).standard_normal((count, dim)))
        random = np.random.default_rng(seed)
        weights = np.arange(1, count + 1.0) ** -unequal
        nearest_center = random.choice(count, n, p=weights / weights.sum())
        noise = random.standard_normal((n, dim)) * (spread / np.sqrt(dim))
        return unit(centers[nearest_center] + noise)

    return draw


def nested(dim: int) -> Source:
    """Clusters of clusters of clusters, each an eighth as wide."""

    def draw(n: int, seed: int, phase: int) -> Vectors:
        fixed, random = np.random.default_rng(phase), np.random.default_rng(seed)
        x = np.zeros((n, dim))
        for level in range(3):
            centers = fixed.standard_normal((20, dim)) / 8**level
            x += centers[random.integers(20, size=n)]
        return unit(x + random.standard_normal((n, dim)) / 200)

    return draw


def uniform(dim: int) -> Source:
    """Everywhere alike: nothing that an index could use."""

    def draw(n: int, seed: int, phase: int) -> Vectors:
        return unit(np.random.default_rng(seed + 1000 * phase).standard_normal((n, dim)))

    return draw


def decaying(dim: int, power: float) -> Source:
    """Gaussian with a spectrum that falls as a power, as activations have it."""

    def draw(n: int, seed: int, phase: int) -> Vectors:
        scale = np.arange(1, dim + 1.0) ** -power
        return unit(np.random.default_rng(seed + 1000 * phase).standard_normal((n, dim)) * scale)

    return draw


def surface(dim: int, inner: int) -> Source:
    """Return a curved surface of few dimensions."""

    def draw(n: int, seed: int, phase: int) -> Vectors:
        fixed = np.random.default_rng(phase)
        first, second = fixed.standard_normal((inner, 64)), fixed.standard_normal((64, dim))
        z = np.random.default_rng(seed).standard_normal((n, inner))
        return unit(np.tanh(z @ first) @ second)

    return draw


def copies(dim: int, distinct: int, jitter: float) -> Source:
    """Return a few vectors again and again, exactly (0) or nearly."""

    def draw(n: int, seed: int, phase: int) -> Vectors:
        originals = unit(np.random.default_rng(phase).standard_normal((distinct, dim)))
        random = np.random.default_rng(seed)
        x = originals[random.integers(distinct, size=n)]
        return unit(x + jitter * random.standard_normal(x.shape))

    return draw


def rectified(dim: int) -> Source:
    """Of no negative number and many zeros, as after a ReLU."""

    def draw(n: int, seed: int, phase: int) -> Vectors:
        mixing = np.random.default_rng(phase).standard_normal((16, dim))
        z = np.random.default_rng(seed).standard_normal((n, 16))
        return unit(np.maximum(z @ mixing - 1.0, 0) + 1e-3)

    return draw


AROUND_50, AROUND_200 = clusters(32, 50, 0.5), clusters(64, 200, 0.5)
AROUND_100 = clusters(384, 100, 0.3)
OWN: dict[str, Any] = {"index": "PCA64,IVF512,SQ8"}
ELSEWHERE: dict[str, Any] = {"grown": 0.4, "drift": True}
EMPTIED: dict[str, Any] = {"removed": 0.3, "near": True}
CHURN: dict[str, Any] = {"grown": 0.3, "removed": 0.2, "index": "IVF512,RaBitQ"}
DATA_SETS = [
    DataSet(name="pictures", source=dataset(128), dim=128, size=200_000),
    DataSet(name="pictures", source=dataset(128), dim=128, size=40_000, grown=0.45),
    DataSet(name="pictures", source=dataset(128), dim=128, size=40_000, removed=0.3),
    DataSet(name="pictures", source=dataset(128), dim=128, size=60_000, bytes_each=250),
    DataSet(name="pictures", source=dataset(128), dim=128, size=60_000, bytes_each=100),
    DataSet(name="pictures", source=dataset(128), dim=128, size=60_000, bytes_each=1, recall=0.95),
    DataSet(name="clusters", source=AROUND_200, dim=64, size=50_000),
    DataSet(name="clusters, unequal", source=clusters(64, 500, 0.3, 1.0), dim=64, size=50_000),
    DataSet(
        name="clusters, grown",
        source=AROUND_50,
        dim=32,
        size=50_000,
        **ELSEWHERE,
    ),
    DataSet(
        name="clusters, grown",
        source=AROUND_50,
        dim=32,
        size=50_000,
        **ELSEWHERE,
        bytes_each=100,
    ),
    DataSet(name="clusters, emptied", source=AROUND_200, dim=64, size=40_000, **EMPTIED),
    DataSet(
        name="clusters, emptied",
        source=AROUND_200,
        dim=64,
        size=40_000,
        **EMPTIED,
        bytes_each=80,
    ),
    DataSet(name="nested clusters", source=nested(96), dim=96, size=40_000, recall=0.95),
    DataSet(name="uniform", source=uniform(8), dim=8, size=50_000),
    DataSet(name="uniform", source=uniform(24), dim=24, size=30_000, recall=0.9),
    DataSet(name="decaying spectrum", source=decaying(256, 1.0), dim=256, size=25_000),
    DataSet(name="surface", source=surface(200, 6), dim=200, size=40_000, recall=0.998),
    DataSet(name="exact copies", source=copies(64, 2000, 0.0), dim=64, size=40_000),
    DataSet(name="near copies", source=copies(64, 2000, 0.02), dim=64, size=40_000, bytes_each=100),
    DataSet(name="rectified", source=rectified(128), dim=128, size=30_000),
    DataSet(
        name="decaying spectrum",
        source=decaying(128, 1.2),
        dim=128,
        size=40_000,
        **OWN,
    ),
    DataSet(
        name="pictures",
        source=dataset(128),
        dim=128,
        size=40_000,
        grown=0.3,
        removed=0.2,
        index="IVF512,RaBitQ",
    ),
    # Long ones, which are proposed by their principal axes where that will do
    DataSet(name="pictures", source=dataset(512), dim=512, size=40_000, grown=0.45),
    DataSet(name="clusters, grown", source=AROUND_100, dim=384, size=40_000, **ELSEWHERE),
    DataSet(name="clusters, emptied", source=AROUND_100, dim=384, size=40_000, **EMPTIED),
    DataSet(name="decaying spectrum", source=decaying(512, 0.5), dim=512, size=25_000),
]

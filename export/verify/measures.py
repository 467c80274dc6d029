"""How close two ways from images to vectors are, row by row and neighbor by neighbor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]  # [N, D]

NEIGHBORS = 10  # of each image, whose overlap is measured
TIE = 1e-6  # cosines nearer than this are in no order


def relative_error(actual: Vectors, expected: Vectors) -> NDArray[np.float64]:
    """Return per row of [N,D] the largest difference, in units of the largest expected value."""
    difference = np.abs(actual.astype(np.float64) - expected).max(axis=1)
    scale = np.abs(expected.astype(np.float64)).max(axis=1)
    relative: NDArray[np.float64] = difference / np.maximum(scale, np.finfo(np.float32).tiny)
    return relative


def cosines(actual: Vectors, expected: Vectors) -> NDArray[np.float64]:
    """Return the cosine per row of [N,D]; 1 where both rows are zero."""
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    zero = ~a.any(axis=1) & ~b.any(axis=1)
    products = (a * b).sum(axis=1) / np.where(lengths == 0, 1, lengths)
    return np.where(zero, 1.0, products)


def neighbor_overlap(actual: Vectors, expected: Vectors, k: int) -> float:
    """Return the mean share of each row's k nearest other rows, by cosine, that are expected ones.

    A neighbor that is as near as the k-th expected one counts too: ties have no order.
    """
    k = min(k, len(actual) - 1)
    similarities, expected_similarities = _similarities(actual), _similarities(expected)
    nearest = np.argpartition(-similarities, k - 1, axis=1)[:, :k]
    kth = -np.partition(-expected_similarities, k - 1, axis=1)[:, k - 1 : k]
    return float((np.take_along_axis(expected_similarities, nearest, axis=1) >= kth - TIE).mean())


def _similarities(vectors: Vectors) -> NDArray[np.float64]:
    """Return the cosines of all pairs [N,N]; a row is not its own neighbor."""
    rows = vectors.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(lengths == 0, 1, lengths)
    products: NDArray[np.float64] = rows @ rows.T
    np.fill_diagonal(products, -np.inf)
    return products

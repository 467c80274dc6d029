"""A teacher's embeddings to what a student should say of the same images.

Embeddings of one kind of image share most of their direction: their mean is removed, so that a
student learns what tells them from each other. Then each may be moved to its neighbors, by a linear
map that is fitted without labels,

    W = (G'G + r N/1000 I)^-1 G'T,   G = centered unit rows [N,D],   T = mean of the k nearest rows

which brings images of one kind closer together; and at last they are turned to their principal
directions, of which the first E are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]

FITTED = 20_000  # rows that the map is fitted on, at most
BLOCK = 1024  # rows whose similarities are held at a time
RIDGE = 1e-4  # r, times the number of rows
TINY = 1e-12


def student_targets(
    embeddings: Rows,
    *,
    embedding_dim: int,
    neighbors: int,
    fitted: NDArray[np.int64] | None = None,
) -> Rows:
    """Return what a student should say, unit rows float32 [N,E].

    Args:
        embeddings: the teacher's, [N,D]; not changed, may be memory-mapped.
        embedding_dim: E, at most D.
        neighbors: rows that a target is the mean of, its own among them; 1 leaves it as it is.
        fitted: positions of the rows that mean and map are fitted to; None: all.

    Raises:
        ValueError: no rows, or all are the same.
    """
    sample = _spread_rows(embeddings, fitted)
    mean = _unit(sample).mean(0)
    rows = _unit(_unit(sample) - mean)
    if not np.abs(rows).max(initial=0.0) > TINY:
        raise ValueError("the embeddings are all the same")
    smoothing = np.eye(rows.shape[1])
    if neighbors > 1:
        smoothing = _neighbor_map(rows, neighbors)
    moved = rows @ smoothing
    _, directions = np.linalg.eigh(moved.T @ moved)  # ascending
    projection = (smoothing @ directions[:, : -embedding_dim - 1 : -1]).astype(np.float32)
    targets = np.empty((len(embeddings), projection.shape[1]), np.float32)
    for start in range(0, len(embeddings), BLOCK):
        block = _unit(_unit(embeddings[start : start + BLOCK]) - mean)
        targets[start : start + BLOCK] = _unit(block @ projection)
    return targets


def nearest_means(rows: Rows, neighbors: int) -> Rows:
    """Mean of the k nearest rows of each unit row [N,D], by cosine, itself among them; [N,D]."""
    count = min(neighbors, len(rows))
    means = np.empty_like(rows)
    for start in range(0, len(rows), BLOCK):
        similarity = rows[start : start + BLOCK] @ rows.T
        nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        means[start : start + BLOCK] = rows[nearest].mean(1)
    return means


def _neighbor_map(rows: Rows, neighbors: int) -> NDArray[np.float64]:
    """W [D,D] of the module's docstring."""
    wide = rows.astype(np.float64)
    gram = wide.T @ wide + RIDGE * len(rows) * np.eye(rows.shape[1])
    means = nearest_means(rows, neighbors).astype(np.float64)
    return np.asarray(np.linalg.solve(gram, wide.T @ means), np.float64)


def _spread_rows(embeddings: Rows, fitted: NDArray[np.int64] | None) -> Rows:
    positions = np.arange(len(embeddings)) if fitted is None else fitted
    step = max(1, -(-len(positions) // FITTED))
    return np.asarray(embeddings[positions[::step]], np.float32)


def _unit(rows: Rows) -> Rows:
    unit: Rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), TINY)
    return unit

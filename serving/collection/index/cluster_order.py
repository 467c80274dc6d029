"""The order in which vectors enter a graph: cluster by cluster, so that neighbors lie together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import faiss
import numpy as np

from serving.collection.index.proposer import ADDED_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.collection.contract.scores import Ids, Vectors

CLUSTER = 256  # items of a cluster, on average,
MOST_CLUSTERS = 1024  # but no more clusters than that: they would cost more than they save
TRAINING_SAMPLE = 40  # vectors a cluster is learned from


def cluster_order(vectors_at: Callable[[Ids], Vectors], rows: Ids, threads: int) -> Ids:
    """Return the positions in `rows` int64 [n], those of one k-means cluster after another.

    Args:
        vectors_at: gives the vectors float32 [m, D] of some rows.
        rows: int64 [n].
        threads: of the processor.
    """
    clusters = min(len(rows) // CLUSTER, MOST_CLUSTERS)
    if clusters < 2:
        return np.arange(len(rows))
    faiss.omp_set_num_threads(threads)
    sample = vectors_at(rows[:: max(1, len(rows) // (clusters * TRAINING_SAMPLE))])
    kmeans = faiss.Kmeans(
        sample.shape[1],
        clusters,
        niter=4,
        spherical=True,
        max_points_per_centroid=TRAINING_SAMPLE,
        min_points_per_centroid=1,
    )
    kmeans.train(sample)
    assigned = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), ADDED_AT_ONCE):
        block = slice(start, start + ADDED_AT_ONCE)
        assigned[block] = kmeans.index.search(vectors_at(rows[block]), 1)[1][:, 0]
    order: Ids = np.argsort(assigned, kind="stable")
    return order

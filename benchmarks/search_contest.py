"""Our index against another library's: at equal recall, a hundred queries in turns, one thread.

Turns of one query would measure how fast each recovers from the other: a scan of 2 GB, or a walk
over long vectors, leaves nothing of ours in the processor's caches.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from base.cpus import available_cpus
from benchmarks.search_rivals import EFFORTS, NEIGHBORS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from benchmarks.search_rivals import Search, Vectors

TURN = 100  # queries that one is asked before it is the other's turn
PASSES = 3  # over all queries,
MOST_SECONDS = 60.0  # but no turn begins when so much time has been taken


class Truth:
    """What the best answer to some queries is.

    Args:
        vectors: float32 [N, E], of length one; those that are searched.
        queries: float32 [Q, E], of length one.
    """

    def __init__(self, vectors: Vectors, queries: Vectors) -> None:
        self.vectors, self.queries = vectors, queries
        faiss.omp_set_num_threads(available_cpus())
        product = faiss.METRIC_INNER_PRODUCT
        self.floors = faiss.knn(queries, vectors, NEIGHBORS, metric=product)[0][:, -1]

    def recall(self, way: Search) -> float:
        """Share of the ten nearest that are found; what ties with the tenth counts."""
        neighbors: NDArray[np.int64] = np.stack([way(query[None]) for query in self.queries])
        scores = np.einsum("qkd,qd->qk", self.vectors[neighbors], self.queries)
        hits = (scores >= self.floors[:, None] - 1e-6).sum(1)
        return float(hits.clip(max=NEIGHBORS).mean()) / NEIGHBORS


def contest(
    ours: Search,
    with_effort: Callable[[int], Search],
    our_truth: Truth,
    their_truth: Truth,
) -> dict[str, Any]:
    """Median milliseconds of a query of both, at our recall or the least above it."""
    reached = our_truth.recall(ours)
    for effort in EFFORTS:
        theirs = with_effort(effort)
        other = their_truth.recall(theirs)
        if other >= reached:
            break
    faiss.omp_set_num_threads(1)
    queries = their_truth.queries
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for start in PASSES * [*range(0, len(queries), TURN)]:
        if sum(map(sum, seconds.values())) > MOST_SECONDS:
            break
        for name, way in (("ours", ours), ("theirs", theirs)):
            for query in queries[start : start + TURN]:
                begun = time.perf_counter()
                way(query[None])
                seconds[name].append(time.perf_counter() - begun)
    medians = {f"{name}_ms": 1000 * statistics.median(each) for name, each in seconds.items()}
    return medians | {"effort": effort, "ours_recall10": reached, "theirs_recall10": other}

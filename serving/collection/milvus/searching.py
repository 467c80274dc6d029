"""The nearest items of one query among what Milvus proposes.

Milvus sums float32, or numbers that its index has rounded, and leaves the order of equal scores
open. Scores are therefore computed again from the stored vectors, as a collection in a folder does,
and as long as an item that Milvus left out could tie with the last hit, more is asked for.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.errors import UsageError
from serving.collection.index.flat_index import MARGIN, ROUNDING, SCORE_DIGITS

MOST_HITS = 16_384  # Milvus' largest answer
MOST_AT_ONCE = 64  # queries of one call

Vectors = NDArray[np.float32]
Scores = NDArray[np.float64]
Scored = tuple[float, dict[str, Any]]
Ask = Callable[[Vectors, int], list[list[dict[str, Any]]]]
"""Queries [Q, E] and a limit -> for each the entities with vector and Milvus' score, best first."""


def cosines(vectors: Vectors, query: Vectors) -> Scores:
    """Scores [N] of vectors [N, E] and a query [E], in [-1, 1]; as `FlatIndex.exact_scores`."""
    sums: Scores = (vectors * query.astype(np.float64)).sum(axis=1)
    return np.clip(np.round(sums, SCORE_DIGITS), -1.0, 1.0)


def nearest(queries: Vectors, k: int, min_score: float | None, ask: Ask) -> list[list[Scored]]:
    """For each query [Q, E] its best entities with their scores, equal scores by id.

    Raises:
        UsageError: k is more than Milvus gives.
    """
    if k > MOST_HITS:
        raise UsageError(f"k is {k}; Milvus gives at most {MOST_HITS} neighbors")
    found: list[list[Scored]] = []
    limit = min(k + MARGIN, MOST_HITS)
    at_once = max(1, min(MOST_AT_ONCE, MOST_HITS // limit))
    for start in range(0, len(queries), at_once):
        part = queries[start : start + at_once]
        for query, proposed in zip(part, ask(part, limit), strict=True):
            found.append(_settled(query, k, min_score, proposed, ask))
    return found


def _settled(
    query: Vectors, k: int, min_score: float | None, proposed: list[dict[str, Any]], ask: Ask
) -> list[Scored]:
    limit = min(k + MARGIN, MOST_HITS)
    while True:
        hits = best(_scored(query, proposed), k, min_score)
        if len(proposed) < limit or limit == MOST_HITS:
            return hits
        floor = hits[k - 1][0] if len(hits) == k else min_score
        if floor is not None and proposed[-1]["distance"] + ROUNDING < floor:
            return hits
        limit = min(4 * limit, MOST_HITS)
        (proposed,) = ask(query[None], limit)


def best(scored: Iterable[Scored], k: int, min_score: float | None) -> list[Scored]:
    """Return the k best by score and then by id, without what scores too little."""
    kept = (one for one in scored if min_score is None or one[0] >= min_score)
    return sorted(kept, key=lambda one: (-one[0], one[1]["id"]))[:k]


def _scored(query: Vectors, proposed: list[dict[str, Any]]) -> list[Scored]:
    if not proposed:
        return []
    vectors = np.asarray([found["entity"]["vector"] for found in proposed], np.float32)
    scores = cosines(vectors, query).tolist()
    return [
        (score, found["entity"] | {"id": found["id"]})
        for score, found in zip(scores, proposed, strict=True)
    ]


def nearest_of_all(
    queries: Vectors,
    k: int,
    min_score: float | None,
    pages: Iterable[list[dict[str, Any]]],
) -> list[list[Scored]]:
    """As `nearest`, comparing every entity of the pages, each with id and vector."""
    found: list[list[Scored]] = [[] for _ in queries]
    for page in pages:
        vectors = np.asarray([one["vector"] for one in page], np.float32)
        for number, query in enumerate(queries):
            scores = cosines(vectors, query)
            if len(found[number]) == k:
                candidates = np.flatnonzero(scores >= found[number][-1][0])
            else:
                candidates = np.arange(len(page))
            new = [(float(scores[row]), {"id": page[row]["id"]}) for row in candidates.tolist()]
            found[number] = best([*found[number], *new], k, min_score)
    return found

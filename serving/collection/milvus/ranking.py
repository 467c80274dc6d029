"""The nearest items of a query among what Milvus proposes.

Milvus sums float32, or numbers that its index has rounded, and leaves the order of equal scores
open. Scores are therefore computed again from the stored vectors, as in a collection in a folder,
and more are fetched while an item that Milvus left out could tie with the last hit.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from base.errors import UsageError
from serving.collection.contract.scores import MARGIN, ROUNDING, SCORE_DIGITS, Scores, Vectors

MOST_HITS = 16_384  # Milvus' largest answer
MOST_AT_ONCE = 64  # queries of one call

Scored = tuple[float, dict[str, Any]]
Ask = Callable[[Vectors, int], list[list[dict[str, Any]]]]
"""Maps queries [Q, E] and a limit to the entities of each, with vector and score, best first."""


def cosines(vectors: Vectors, query: Vectors) -> Scores:
    """Return the scores [N] of vectors [N, E] and a query [E], as `FlatIndex.exact_scores`."""
    sums: Scores = (vectors * query.astype(np.float64)).sum(axis=1)
    return np.clip(np.round(sums, SCORE_DIGITS), -1.0, 1.0)


def nearest(queries: Vectors, k: int, min_score: float | None, ask: Ask) -> list[list[Scored]]:
    """Return the best entities of each query [Q, E] with their scores, equal scores by id.

    Raises:
        UsageError: k is more than Milvus returns.
    """
    if k > MOST_HITS:
        raise UsageError(f"k is {k}; Milvus gives at most {MOST_HITS} neighbors", param="k")
    results: list[list[Scored]] = []
    limit = min(k + MARGIN, MOST_HITS)
    at_once = max(1, min(MOST_AT_ONCE, MOST_HITS // limit))
    for start in range(0, len(queries), at_once):
        batch = queries[start : start + at_once]
        for query, proposed in zip(batch, ask(batch, limit), strict=True):
            results.append(_settled(query, k, min_score, proposed, ask))
    return results


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
    vectors = np.asarray([hit["entity"]["vector"] for hit in proposed], np.float32)
    scores = cosines(vectors, query).tolist()
    return [
        (score, hit["entity"] | {"id": hit["id"]})
        for score, hit in zip(scores, proposed, strict=True)
    ]


def nearest_of_all(
    queries: Vectors,
    k: int,
    min_score: float | None,
    pages: Iterable[list[dict[str, Any]]],
) -> list[list[Scored]]:
    """Search as `nearest`, comparing every entity of the pages, each with id and vector."""
    results: list[list[Scored]] = [[] for _ in queries]
    for page in pages:
        vectors = np.asarray([one["vector"] for one in page], np.float32)
        for number, query in enumerate(queries):
            scores = cosines(vectors, query)
            if len(results[number]) == k:
                candidates = np.flatnonzero(scores >= results[number][-1][0])
            else:
                candidates = np.arange(len(page))
            new = [(float(scores[row]), {"id": page[row]["id"]}) for row in candidates.tolist()]
            results[number] = best([*results[number], *new], k, min_score)
    return results

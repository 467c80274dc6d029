"""Retrieval: is what is found first of the query's class?

With R gallery images of the query's class, and rel(i) = 1 where the i-th nearest is one of them:

    recall@k      1 if any of the first k is relevant, else 0
    precision@k   share of the first k that is relevant
    R-precision   precision@R
    mAP@R         (1/R) sum_{i <= R} precision@i rel(i)   (Musgrave et al. 2020, section 3.2)

each averaged over the queries that have a relevant image at all (R > 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from training.protocols.knn import as_labels, as_rows, chunk_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, kw_only=True)
class RetrievalScores:
    """Means over the queries, each in [0,1]."""

    recall: dict[int, float]  # by k
    precision: dict[int, float]  # by k
    r_precision: float
    map_at_r: float
    errors: dict[str, float]  # standard errors of "precision@k", "r_precision", "map@r"
    queries: int  # that have a label and at least one relevant gallery image


def retrieval_scores(
    queries: ArrayLike | Tensor,
    query_labels: ArrayLike | Tensor,
    gallery: ArrayLike | Tensor | None = None,
    gallery_labels: ArrayLike | Tensor | None = None,
    *,
    ks: tuple[int, ...] = (1, 5, 10),
) -> RetrievalScores:
    """All scores by cosine similarity.

    Args:
        queries: features [Q,D].
        query_labels: [Q] of int; -1 is unlabeled and left out.
        gallery: features [G,D]. Without one every query searches among the other queries: itself
            is excluded.
        gallery_labels: [G] of int; unlabeled images are left out.
        ks: the depths to report.

    Raises:
        ValueError: a k below 1 or beyond the gallery, or no query that could find anything.
    """
    values = torch.cat([*_values_in_blocks(queries, query_labels, gallery, gallery_labels, ks)])
    counted = len(values)
    if not counted:
        raise ValueError("no labeled query has a picture of its class to find")
    totals = torch.stack([values.sum(0), values.square().sum(0)])
    mean, square = totals / counted
    means = mean.tolist()
    errors = ((square - mean.square()).clamp_min(0) / counted).sqrt().tolist()
    names = [*(f"precision@{k}" for k in ks), "r_precision", "map@r"]
    return RetrievalScores(
        recall=dict(zip(ks, means[: len(ks)], strict=True)),
        precision=dict(zip(ks, means[len(ks) : -2], strict=True)),
        r_precision=means[-2],
        map_at_r=means[-1],
        errors=dict(zip(names, errors[len(ks) :], strict=True)),
        queries=counted,
    )


class QueryScores(NamedTuple):
    """What each query finds, float64 [Q] of those that have a relevant image, in their order."""

    recall_at_1: NDArray[np.float64]
    map_at_r: NDArray[np.float64]


def query_scores(
    queries: ArrayLike | Tensor,
    query_labels: ArrayLike | Tensor,
    gallery: ArrayLike | Tensor | None = None,
    gallery_labels: ArrayLike | Tensor | None = None,
) -> QueryScores:
    """Return recall@1 and AP@R per query, to compare encoders query by query.

    Args and errors as `retrieval_scores`; empty where no query has a relevant image.
    """
    blocks = [*_values_in_blocks(queries, query_labels, gallery, gallery_labels, (1,))]
    recall, _, _, map_at_r = torch.cat(blocks).numpy().T
    return QueryScores(recall, map_at_r)


def _values_in_blocks(
    queries: ArrayLike | Tensor,
    query_labels: ArrayLike | Tensor,
    gallery: ArrayLike | Tensor | None,
    gallery_labels: ArrayLike | Tensor | None,
    ks: tuple[int, ...],
) -> Iterator[Tensor]:
    """Yield the values of a block of queries, float64 [q, 2 len(ks) + 2]; the first is empty."""
    alone = gallery is None
    query_rows, query_kinds = _labeled(queries, query_labels)
    gallery_rows, kinds = (query_rows, query_kinds)
    if gallery is not None and gallery_labels is not None:
        gallery_rows, kinds = _labeled(gallery, gallery_labels)
    reach = len(gallery_rows) - alone
    if not ks or min(ks) < 1 or max(ks) > reach:
        raise ValueError(f"k must lie between 1 and the {reach} pictures to search, got {ks}")
    yield torch.zeros(0, 2 * len(ks) + 2, dtype=torch.float64)
    step = chunk_of(len(gallery_rows))
    for start in range(0, len(query_rows), step):
        similarity = query_rows[start : start + step] @ gallery_rows.T  # [q,G]
        relevant = query_kinds[start : start + step, None] == kinds  # [q,G]
        if alone:
            rows = torch.arange(len(similarity))
            similarity[rows, start + rows] = -torch.inf
            relevant[rows, start + rows] = False
        has = relevant.any(1)
        yield _values(similarity[has], relevant[has], ks)


def _values(similarity: Tensor, relevant: Tensor, ks: tuple[int, ...]) -> Tensor:
    """[recall@k..., precision@k..., R-precision, mAP@R] of each row; float64 [q, 2 len(ks) + 2]."""
    total = relevant.sum(1)  # R, [q]
    depth = max(*ks, int(total.max()) if len(total) else 0)
    order = similarity.topk(min(depth, similarity.shape[1]), dim=1).indices
    hit = relevant.gather(1, order).double()  # [q,depth]
    hits = hit.cumsum(1)
    recall = [(hits[:, k - 1] > 0).double() for k in ks]
    precision = [hits[:, k - 1] / k for k in ks]
    rank = torch.arange(1, hit.shape[1] + 1)
    within = rank <= total[:, None]
    r_precision = (hit * within).sum(1) / total
    map_at_r = (hits / rank * hit * within).sum(1) / total
    return torch.stack([*recall, *precision, r_precision, map_at_r], 1)


def recall_at_k(
    queries: ArrayLike | Tensor,
    query_labels: ArrayLike | Tensor,
    gallery: ArrayLike | Tensor | None = None,
    gallery_labels: ArrayLike | Tensor | None = None,
    *,
    k: int = 1,
) -> float:
    """Recall@k in [0,1], see `retrieval_scores`."""
    scores = retrieval_scores(queries, query_labels, gallery, gallery_labels, ks=(k,))
    return scores.recall[k]


def precision_at_k(
    queries: ArrayLike | Tensor,
    query_labels: ArrayLike | Tensor,
    gallery: ArrayLike | Tensor | None = None,
    gallery_labels: ArrayLike | Tensor | None = None,
    *,
    k: int = 10,
) -> float:
    """Precision@k in [0,1], see `retrieval_scores`."""
    scores = retrieval_scores(queries, query_labels, gallery, gallery_labels, ks=(k,))
    return scores.precision[k]


def _labeled(features: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> tuple[Tensor, Tensor]:
    numbers = as_labels(labels)
    return as_rows(features)[numbers >= 0], numbers[numbers >= 0]

"""How often the labels of the nearest gallery images name a query's class.

Cosine similarity, votes weighted with exp(similarity / 0.1), and k = 200: the protocol of Wu et al.
2018 (section 3.4) that contrastive methods report. Where classes are smaller than 200 images, so
many neighbors are mostly of other classes: then k is the size of the smallest class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

CHUNK = 512  # queries at a time, fewer where the gallery is large
CELLS = 2**26  # similarities held at a time: 256 MiB
LEAST_K, MOST_K = 5, 200  # fewer votes than 5 are noise, whatever the size of a class


def choose_k(gallery_labels: ArrayLike | Tensor) -> int:
    """Return how many neighbors vote: as many as the smallest class has, from 5 to 200.

    Args:
        gallery_labels: [G] of int; -1 is unlabeled and does not count.
    """
    labels = as_labels(gallery_labels)
    sizes = torch.bincount(labels[labels >= 0])
    smallest = int(sizes[sizes > 0].min()) if len(sizes) else 0
    return min(MOST_K, max(LEAST_K, smallest))


def chunk_of(gallery: int) -> int:
    """How many queries are compared with so many gallery images at a time."""
    return max(1, min(CHUNK, CELLS // max(1, gallery)))


def as_rows(features: ArrayLike | Tensor) -> Tensor:
    """Features as L2-normalized fp32 rows [N,D] on the CPU."""
    tensor = (
        features.detach() if isinstance(features, Tensor) else torch.as_tensor(np.array(features))
    )
    return functional.normalize(tensor.float().cpu(), dim=1)


def as_labels(labels: ArrayLike | Tensor) -> Tensor:
    """Labels as int64 [N] on the CPU."""
    tensor = labels.detach() if isinstance(labels, Tensor) else torch.as_tensor(np.array(labels))
    return tensor.long().cpu()


def knn_predict(
    queries: ArrayLike | Tensor,
    gallery: ArrayLike | Tensor,
    gallery_labels: ArrayLike | Tensor,
    *,
    k: int | None = None,
    temperature: float = 0.1,
) -> NDArray[np.int64]:
    """Labels for queries by weighted vote of their k nearest labeled gallery images.

    Args:
        queries: features [Q,D].
        gallery: features [G,D].
        gallery_labels: [G] of int; -1 is unlabeled and does not vote.
        k: neighbors that vote, None: `choose_k`; all of the gallery where it holds fewer.
        temperature: a vote weighs exp(cosine / temperature).

    Returns:
        Labels [Q].

    Raises:
        ValueError: nothing in the gallery is labeled.
    """
    labels = as_labels(gallery_labels)
    labeled = labels >= 0
    gallery_rows, labels = as_rows(gallery)[labeled], labels[labeled]
    if not len(labels):
        raise ValueError("kNN needs a labeled gallery, and no gallery picture has a label")
    classes, k = int(labels.max()) + 1, choose_k(labels) if k is None else k
    answers = []
    for chunk in torch.split(as_rows(queries), chunk_of(len(gallery_rows))):
        similarity, neighbor = (chunk @ gallery_rows.T).topk(
            min(k, len(gallery_rows)), dim=1
        )  # [q,k]
        weight = ((similarity - 1) / temperature).exp()  # the 1 cancels out and avoids overflow
        votes = torch.zeros(len(chunk), classes).scatter_add_(1, labels[neighbor], weight)
        answers.append(votes.argmax(1))
    empty = torch.zeros(0, dtype=torch.int64)
    return np.asarray(torch.cat(answers or [empty]).numpy(), np.int64)


def knn_accuracy(
    queries: ArrayLike | Tensor,
    query_labels: ArrayLike | Tensor,
    gallery: ArrayLike | Tensor,
    gallery_labels: ArrayLike | Tensor,
    *,
    k: int | None = None,
    temperature: float = 0.1,
) -> float:
    """Share of labeled queries whose class `knn_predict` names, in [0,1].

    Raises:
        ValueError: no query or no gallery image is labeled.
    """
    truth = as_labels(query_labels)
    labeled = truth >= 0
    if not bool(labeled.any()):
        raise ValueError("kNN accuracy needs labeled queries, and no query has a label")
    answers = knn_predict(
        as_rows(queries)[labeled], gallery, gallery_labels, k=k, temperature=temperature
    )
    return float(np.mean(answers == truth[labeled].numpy()))

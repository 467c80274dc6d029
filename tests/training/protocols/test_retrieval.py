import numpy as np
import pytest

from training.protocols import knn
from training.protocols.retrieval import precision_at_k, recall_at_k, retrieval_scores


def slow_scores(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    k: int,
    *,
    alone: bool,
) -> dict[str, float]:
    """The definitions, one query after the other."""
    rows = []
    for i, (q, label) in enumerate(zip(queries, query_labels, strict=True)):
        cosine = gallery @ q / np.linalg.norm(gallery, axis=1)
        order = [int(j) for j in np.argsort(-cosine) if not (alone and j == i)]
        hit = [bool(gallery_labels[j] == label) and bool(label >= 0) for j in order]
        total = sum(hit)
        if not total:
            continue
        precisions = [sum(hit[: n + 1]) / (n + 1) for n in range(len(hit))]
        rows.append(
            {
                "recall": float(any(hit[:k])),
                "precision": precisions[k - 1],
                "r_precision": precisions[total - 1],
                "map_at_r": sum(p for p, h in zip(precisions[:total], hit, strict=False) if h)
                / total,
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def clusters(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, count)
    centers = np.random.default_rng(99).normal(size=(5, 6))
    return rng.normal(size=(count, 6)) + centers[labels], labels


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("alone", [False, True])
def test_the_scores_are_the_slow_ones(k: int, alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "CHUNK", 8)
    queries, labels = clusters(1, 30)
    gallery, gallery_labels = (queries, labels) if alone else clusters(2, 50)
    expected = slow_scores(queries, labels, gallery, gallery_labels, k, alone=alone)
    sides = () if alone else (gallery, gallery_labels)
    scores = retrieval_scores(queries, labels, *sides, ks=(k,))
    assert scores.recall[k] == pytest.approx(expected["recall"])
    assert scores.precision[k] == pytest.approx(expected["precision"])
    assert scores.r_precision == pytest.approx(expected["r_precision"])
    assert scores.map_at_r == pytest.approx(expected["map_at_r"])
    assert recall_at_k(queries, labels, *sides, k=k) == scores.recall[k]
    assert precision_at_k(queries, labels, *sides, k=k) == scores.precision[k]


def test_a_perfect_and_a_hopeless_search() -> None:
    features, labels = np.eye(3).repeat(4, 0), np.arange(3).repeat(4)
    good = retrieval_scores(features, labels, ks=(1, 3))
    assert (good.recall, good.precision) == ({1: 1.0, 3: 1.0}, {1: 1.0, 3: 1.0})
    assert (good.r_precision, good.map_at_r, good.queries) == (1.0, 1.0, 12)
    bad = retrieval_scores(features, labels, np.eye(3), np.array([1, 2, 0]), ks=(1,))
    assert (bad.recall, bad.map_at_r) == ({1: 0.0}, 0.0)


def test_queries_that_can_find_nothing_are_left_out() -> None:
    queries, labels = np.eye(3), np.array([0, 7, -1])
    scores = retrieval_scores(queries, labels, np.eye(3), np.array([0, 1, 2]), ks=(1,))
    assert (scores.queries, scores.recall[1]) == (1, 1.0)


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(ValueError, match=r"between 1 and the 2 pictures to search, got \(1, 3\)"):
        retrieval_scores(np.eye(3), np.zeros(3), ks=(1, 3))
    with pytest.raises(ValueError, match="has a picture of its class"):
        retrieval_scores(np.eye(3), np.arange(3), ks=(1,))

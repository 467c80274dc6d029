import math

import numpy as np
import pytest
import torch

from training.protocols import knn
from training.protocols.knn import choose_k, knn_accuracy, knn_predict


def slow_predict(
    queries: np.ndarray, gallery: np.ndarray, labels: np.ndarray, k: int, temperature: float
) -> list[int]:
    """The vote, one query and one neighbor after the other."""
    answers = []
    for q in queries:
        near = [
            (float(q @ g / (np.linalg.norm(q) * np.linalg.norm(g))), int(label))
            for g, label in zip(gallery, labels, strict=True)
        ]
        votes: dict[int, float] = {}
        for similarity, label in sorted(near, reverse=True)[:k]:
            votes[label] = votes.get(label, 0.0) + math.exp(similarity / temperature)
        answers.append(max(votes, key=lambda label: votes[label]))
    return answers


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.1), (20, 1.0), (500, 0.07)])
def test_the_vote_is_the_slow_one(
    k: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knn, "CHUNK", 16)  # more chunks than one
    rng = np.random.default_rng(k)
    labels = rng.integers(0, 4, 60)
    gallery = rng.normal(size=(60, 5)) + labels[:, None]
    query_labels = rng.integers(0, 4, 37)
    queries = rng.normal(size=(37, 5)) + query_labels[:, None]
    expected = slow_predict(queries, gallery, labels, k, temperature)
    predicted = knn_predict(queries, gallery, labels, k=k, temperature=temperature)
    assert predicted.tolist() == expected
    accuracy = knn_accuracy(queries, query_labels, gallery, labels, k=k, temperature=temperature)
    assert accuracy == pytest.approx(np.mean(np.array(expected) == query_labels))


def test_tensors_do_as_well_as_arrays() -> None:
    rng = torch.Generator().manual_seed(0)
    gallery, queries = torch.randn(20, 3, generator=rng), torch.randn(6, 3, generator=rng)
    labels = torch.arange(20) % 3
    from_tensors = knn_predict(queries, gallery, labels, k=5)
    from_arrays = knn_predict(queries.numpy(), gallery.numpy(), labels.numpy(), k=5)
    assert from_tensors.tolist() == from_arrays.tolist()


def test_the_unlabeled_do_not_count() -> None:
    gallery = np.array([[1.0, 0], [0, 1], [1, 0.01]])
    labels = np.array([0, 1, -1])
    assert knn_predict(np.array([[1.0, 0.01]]), gallery, labels, k=1).tolist() == [0]
    queries = np.array([[1.0, 0], [1, 0]])
    assert knn_accuracy(queries, np.array([0, -1]), gallery, labels, k=1) == 1.0


def test_a_cold_temperature_overflows_nothing() -> None:
    gallery = np.eye(3)
    assert knn_predict(np.eye(3), gallery, np.arange(3), temperature=1e-3).tolist() == [0, 1, 2]


def test_no_queries_give_no_answers() -> None:
    assert knn_predict(np.zeros((0, 3)), np.eye(3), np.arange(3)).shape == (0,)


def test_data_without_labels_is_told_so() -> None:
    nothing = np.full(3, -1)
    with pytest.raises(ValueError, match="no gallery picture has a label"):
        knn_predict(np.eye(3), np.eye(3), nothing)
    with pytest.raises(ValueError, match="no query has a label"):
        knn_accuracy(np.eye(3), nothing, np.eye(3), np.arange(3))


@pytest.mark.parametrize(
    ("sizes", "k"), [((300, 250), 200), ((300, 40), 40), ((9, 7, 8), 7), ((90, 1), 5), ((), 5)]
)
def test_as_many_neighbors_vote_as_the_smallest_class_has(sizes: tuple[int, ...], k: int) -> None:
    labels = np.repeat(2 * np.arange(len(sizes)), sizes)  # a number that no image has is no class
    assert choose_k(np.concatenate([labels, [-1] * 3])) == k


def test_a_small_class_is_not_outvoted_where_k_is_not_given() -> None:
    labels = np.repeat([0, 1], [10, 300])
    angles = np.where(labels == 0, 0.0, 0.1) + np.linspace(0, 0.01, len(labels))
    gallery = np.stack([np.cos(angles), np.sin(angles)], 1)
    small = gallery[:10], labels[:10]
    assert knn_accuracy(*small, gallery, labels) == 1
    assert knn_accuracy(*small, gallery, labels, k=200) == 0

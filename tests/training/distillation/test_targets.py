import numpy as np
import pytest
from numpy.typing import NDArray

from training.distillation.targets import nearest_means, student_targets


def _rows(count: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def test_nearest_means_agree_with_a_slow_search() -> None:
    rows = _rows(2100, 5)  # more than two blocks
    means = nearest_means(rows, 3)
    for position in (0, 1023, 1024, 2099):
        nearest = sorted(range(len(rows)), key=lambda i: -float(rows[position] @ rows[i]))[:3]
        assert position in nearest
        np.testing.assert_allclose(means[position], rows[nearest].mean(0), rtol=1e-5, atol=1e-6)


def test_one_neighbor_and_all_dimensions_keep_the_centered_similarities() -> None:
    embeddings = _rows(50, 8) + np.float32(0.5)
    targets = student_targets(embeddings, embedding_dim=8, neighbors=1)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    centered = unit - unit.mean(0)
    centered /= np.linalg.norm(centered, axis=1, keepdims=True)
    np.testing.assert_allclose(targets @ targets.T, centered @ centered.T, atol=1e-5)


def test_targets_are_unit_rows_of_the_width_even_with_fewer_images() -> None:
    targets = student_targets(_rows(6, 32), embedding_dim=16, neighbors=5)
    assert targets.shape == (6, 16)
    np.testing.assert_allclose(np.linalg.norm(targets, axis=1), 1, atol=1e-5)


def test_neighbors_bring_images_of_a_kind_together() -> None:
    random = np.random.default_rng(0)
    kinds = random.integers(10, size=600)
    centers = random.normal(size=(10, 32))
    embeddings = (centers[kinds] + 1.5 * random.normal(size=(600, 32))).astype(np.float32)

    def contrast(rows: NDArray[np.float32]) -> float:
        similarity, same = rows @ rows.T, kinds[:, None] == kinds
        return float(similarity[same].mean() - similarity[~same].mean())

    plain = student_targets(embeddings, embedding_dim=32, neighbors=1)
    moved = student_targets(embeddings, embedding_dim=32, neighbors=5)
    assert contrast(moved) > contrast(plain) + 0.1


def test_embeddings_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="all the same"):
        student_targets(np.ones((9, 4), np.float32), embedding_dim=2, neighbors=2)


def test_labels_bring_classes_together_that_neighbors_do_not() -> None:
    random = np.random.default_rng(1)
    kinds = random.integers(4, size=800)
    centers = 0.35 * random.normal(size=(4, 48))
    embeddings = (centers[kinds] + random.normal(size=(800, 48))).astype(np.float32)
    few = np.where(random.random(800) < 0.2, kinds, -1)
    fitted = np.arange(600)

    def contrast(labels: NDArray[np.int64] | None) -> float:
        rows = student_targets(
            embeddings, embedding_dim=8, neighbors=5, fitted=fitted, labels=labels
        )[600:]
        similarity, same = rows @ rows.T, kinds[600:, None] == kinds[600:]
        return float(similarity[same].mean() - similarity[~same].mean())

    assert contrast(few) > contrast(None) + 0.05
    without = few.copy()
    without[600:] = -1  # labels of rows that are not fitted change nothing
    assert contrast(without) == contrast(few)

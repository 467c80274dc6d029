"""Label-free figures against slow, obvious NumPy versions and known cases."""

import numpy as np
import pytest
from numpy.typing import NDArray

from training.protocols.geometry import alignment, effective_rank, feature_std, uniformity

Rows = NDArray[np.float64]
RANDOM = np.random.default_rng(3)


def unit(rows: Rows) -> Rows:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_alignment_against_a_loop() -> None:
    first, second = RANDOM.normal(size=(2, 20, 6))
    pairs = zip(unit(first), unit(second), strict=True)
    expected = np.mean([np.linalg.norm(a - b) ** 2 for a, b in pairs])
    assert alignment(first, second) == pytest.approx(expected, rel=1e-5)
    assert alignment(first, 3 * first) == pytest.approx(0, abs=1e-10)


def test_uniformity_against_a_loop() -> None:
    rows = unit(RANDOM.normal(size=(15, 6)))
    potentials = [
        np.exp(-2 * np.linalg.norm(rows[i] - rows[j]) ** 2) for i in range(15) for j in range(i)
    ]
    assert uniformity(rows * 7) == pytest.approx(np.log(np.mean(potentials)), rel=1e-5)
    assert uniformity(np.ones((5, 3))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_effective_rank_against_the_singular_values(shape: tuple[int, int]) -> None:
    h = RANDOM.normal(size=shape) * np.linspace(0.01, 3, shape[1])
    singular = np.linalg.svd(h, compute_uv=False)
    share = singular / singular.sum() + 1e-7
    assert effective_rank(h) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-6)


def test_effective_rank_of_known_cases() -> None:
    assert effective_rank(np.eye(8)) == pytest.approx(8, rel=1e-4)
    assert effective_rank(np.ones((9, 4))) == pytest.approx(1, rel=1e-4)


def test_the_deviation_of_known_cases() -> None:
    assert feature_std(np.ones((9, 4))) == pytest.approx(0, abs=1e-6)
    assert feature_std(np.concatenate([np.eye(5), -np.eye(5)])) == pytest.approx(1)
    rows = unit(RANDOM.normal(size=(500, 64)))
    assert feature_std(rows) == pytest.approx(8 * rows.std(0).mean(), rel=0.02)

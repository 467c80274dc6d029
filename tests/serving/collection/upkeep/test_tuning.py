"""How a recall is proven: enough queries, and an interval that covers the truth."""

import numpy as np
import pytest

from serving.collection.upkeep.tuning import interval, queries_needed


@pytest.mark.parametrize("target", [0.5, 0.9, 0.99, 0.999])
def test_enough_queries_prove_a_recall(target: float) -> None:
    assert interval([1.0] * queries_needed(target))[0] >= target


def test_the_interval_is_wilsons_for_yes_or_no() -> None:
    """Of 90 out of 100, as tables give it."""
    low, high = interval([1.0] * 90 + [0.0] * 10)
    assert low == pytest.approx(0.8256, abs=1e-4)
    assert high == pytest.approx(0.9448, abs=1e-4)


def test_the_interval_covers_the_truth() -> None:
    random = np.random.default_rng(0)
    truth, covered = 0.97, 0
    for _ in range(300):
        low, high = interval(list(random.binomial(10, truth, 200) / 10))
        covered += low <= truth <= high
    assert covered >= 0.92 * 300

import numpy as np
import pytest

from training.data.sampling import spread


@pytest.mark.parametrize(("total", "count"), [(10, 3), (1000, 999), (7, 7), (5, 9), (3, 0), (0, 4)])
def test_positions_are_ascending_and_as_many_as_asked(total: int, count: int) -> None:
    positions = spread(total, count)
    assert len(positions) == min(total, count)
    assert (np.diff(positions) > 0).all()
    assert set(positions.tolist()) <= set(range(total))
    assert positions.tolist() == spread(total, count).tolist()


def test_a_sorted_list_is_covered_evenly() -> None:
    labels = np.arange(1000) // 100
    assert np.bincount(labels[spread(1000, 50)], minlength=10).tolist() == [5] * 10


@pytest.mark.parametrize("period", [2, 5, 10])
def test_a_list_that_takes_turns_is_covered_too(period: int) -> None:
    labels = np.arange(1000) % period
    counts = np.bincount(labels[spread(1000, 200)], minlength=period)
    assert counts.min() > 0.4 * 200 / period

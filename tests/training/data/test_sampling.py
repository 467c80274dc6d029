import numpy as np
import pytest

from training.data.sampling import MOST_HELD_OUT, hold_out, spread


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


def test_labeled_images_are_held_out_where_there_are_two_labels() -> None:
    labels = np.array([-1, 0, 1, -1] * 50)
    out = hold_out(labels, 0.2, 8)
    assert len(out) == 20
    assert (labels[out] >= 0).all()
    assert (np.diff(out) > 0).all()
    assert len(hold_out(np.where(labels > 0, 0, -1), 0.2, 8)) == 40  # one label tells nothing apart


def test_a_batch_is_left_to_train_on() -> None:
    labels = np.arange(40) % 2
    assert len(hold_out(labels, 0.5, 32)) == 8
    assert len(hold_out(labels, 0.5, 40)) == 0
    assert len(hold_out(labels, 0.0, 8)) == 0
    assert len(hold_out(np.arange(50_000) % 2, 0.1, 8)) == MOST_HELD_OUT

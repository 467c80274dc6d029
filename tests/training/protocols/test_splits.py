import numpy as np
import pytest

from training.protocols.intervals import around, wilson
from training.protocols.splits import balanced_split, query_split, validation_split

LABELS = np.repeat([0, 1, 2], [100, 60, 3])


def test_a_fifth_is_tested_one_of_each_stretch() -> None:
    split = query_split(100)
    assert split.reshape(20, 5).sum(1).tolist() == [1] * 20
    assert query_split(4).sum() == 0


def test_a_fraction_takes_equally_many_of_each_class() -> None:
    split = balanced_split(LABELS, 0.1, seed=0)
    assert np.bincount(LABELS[split]).tolist() == [5, 5, 3]  # the third gives all it has
    np.testing.assert_array_equal(split, balanced_split(LABELS, 0.1, seed=0))
    assert (split != balanced_split(LABELS, 0.1, seed=1)).any()
    assert np.bincount(LABELS[balanced_split(LABELS, 0.001, seed=0)]).tolist() == [1, 1, 1]


def test_images_are_held_back_in_every_class() -> None:
    split = validation_split(LABELS, 0.2, seed=0)
    assert np.bincount(LABELS[split]).tolist() == [20, 12, 1]


@pytest.mark.parametrize(("share", "count"), [(0.0, 10), (0.5, 40), (0.93, 1000), (1.0, 7)])
def test_wilsons_interval_holds_what_the_normal_test_does_not_reject(
    share: float, count: int
) -> None:
    low, high = wilson(share, count)
    assert 0 <= low <= share <= high <= 1
    for edge in {low, high} - {0.0, 1.0}:  # p at an edge is 1.96 deviations from the share
        assert abs(share - edge) == pytest.approx(1.959964 * (edge * (1 - edge) / count) ** 0.5)


def test_the_interval_of_a_mean() -> None:
    assert around(0.5, 0.1) == pytest.approx((0.304, 0.696), abs=1e-4)
    assert around(0.01, 0.1)[0] == 0

import math

import numpy as np
import pytest

from training.optim.schedule import Scaling, peak_learning_rate, warmup_cosine


@pytest.mark.parametrize(
    ("rate", "scaling", "batch_size", "expected"),
    [
        (0.3, "linear", 4096, 4.8),
        (0.3, "linear", 256, 0.3),
        (0.075, "sqrt", 4096, 4.8),
        (0.075, "sqrt", 256, 1.2),
        (1.0, "linear", 512, 2.0),
        (2e-3, "none", 512, 2e-3),
    ],
)
def test_scaling_with_the_batch(
    rate: float, scaling: Scaling, batch_size: int, expected: float
) -> None:
    assert peak_learning_rate(rate, scaling, batch_size) == pytest.approx(expected)


def test_every_rate_is_that_of_the_original() -> None:
    peak, steps, warmup = 4.8, 50, 10
    rates = warmup_cosine(peak, steps, warmup)
    assert rates.shape == (steps,)
    for step in range(steps):
        if step < warmup:
            expected = peak * step / warmup
        else:
            expected = peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
        assert rates[step] == pytest.approx(expected, abs=1e-12)
    assert rates.argmax() == warmup
    assert rates[30] == pytest.approx(peak / 2)


def test_no_warm_up_starts_at_the_peak() -> None:
    np.testing.assert_allclose(warmup_cosine(1.0, 2, 0), [1.0, 0.5])
    np.testing.assert_allclose(warmup_cosine(0.5, 1, 0), [0.5])


def test_a_warm_up_may_be_as_long_as_the_run() -> None:
    np.testing.assert_allclose(warmup_cosine(1.0, 4, 4), [0, 0.25, 0.5, 0.75])


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="11 steps does not fit a run of 10"):
        warmup_cosine(1.0, 10, 11)

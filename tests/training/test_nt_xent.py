from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from training.nt_xent import nt_xent


def slow_nt_xent(z: np.ndarray, temperature: float) -> float:
    """Equation 1 of the paper, one pair after the other; rows 0..N-1 and N..2N-1 are the views."""
    views = len(z)
    n = views // 2

    def similarity(i: int, j: int) -> float:
        return float(z[i] @ z[j] / (np.linalg.norm(z[i]) * np.linalg.norm(z[j])))

    def loss(i: int, j: int) -> float:
        above = math.exp(similarity(i, j) / temperature)
        below = sum(math.exp(similarity(i, k) / temperature) for k in range(views) if k != i)
        return -math.log(above / below)

    return sum(loss(k, k + n) + loss(k + n, k) for k in range(n)) / views


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("pictures", [1, 2, 7])
def test_the_loss_is_the_papers_formula(pictures: int, temperature: float) -> None:
    z = np.random.default_rng(pictures).normal(size=(2 * pictures, 5))
    expected = slow_nt_xent(z, temperature)
    assert nt_xent(torch.tensor(z), temperature).item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_that_of_the_papers_formula() -> None:
    z = np.random.default_rng(3).normal(size=(6, 4))
    tensor = torch.tensor(z, requires_grad=True)
    nt_xent(tensor, 0.5).backward()  # type: ignore[no-untyped-call]
    assert tensor.grad is not None
    for row, column in ((0, 0), (2, 3), (5, 1)):
        step = np.zeros_like(z)
        step[row, column] = 1e-5
        slope = (slow_nt_xent(z + step, 0.5) - slow_nt_xent(z - step, 0.5)) / 2e-5
        assert tensor.grad[row, column].item() == pytest.approx(slope, abs=1e-5)


def test_views_that_are_all_alike_cost_the_logarithm_of_the_candidates() -> None:
    assert nt_xent(torch.ones(16, 3), 0.1).item() == pytest.approx(math.log(15), rel=1e-5)


def test_the_order_of_the_views_matters() -> None:
    a, b = torch.eye(4)[:2], torch.eye(4)[:2]
    assert nt_xent(torch.cat([a, b]), 0.1) < 0.01 < nt_xent(torch.cat([a, b.flip(0)]), 0.1)


def test_the_loss_stays_in_fp32_under_autocast() -> None:
    z = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(z, 0.1)
    assert loss.dtype is torch.float32
    assert loss.item() == nt_xent(z, 0.1).item()


def test_a_tiny_temperature_and_a_zero_row_give_finite_numbers() -> None:
    z = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    z[3] = 0
    z.requires_grad_()
    loss = nt_xent(z, 0.001)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_an_odd_number_of_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="got 5 rows"):
        nt_xent(torch.ones(5, 2), 0.1)

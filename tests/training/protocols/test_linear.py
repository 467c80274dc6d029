"""The solved probe against the optimum of a slow, exact Newton's method."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.protocols import linear
from training.protocols.linear import GRID, linear_probe, objective, solve
from training.protocols.splits import validation_split

Rows = NDArray[np.float64]
RANDOM = np.random.default_rng(5)
LABELS = RANDOM.integers(0, 3, 60)
FEATURES = RANDOM.normal(size=(60, 4)) + 0.8 * np.eye(3, 4)[LABELS]


def slow_objective(point: Rows, x: Rows, y: NDArray[np.int64], l2: float) -> float:
    value = 0.0
    for row, label in zip(x, y, strict=True):
        logits = row @ point[:-1] + point[-1]
        value -= logits[label] - np.log(np.exp(logits).sum())
    return float(value + l2 / 2 * (point[:-1] ** 2).sum())


def newton(x: Rows, y: NDArray[np.int64], l2: float) -> Rows:
    """The optimum by full Newton steps on the flattened problem, to machine precision."""
    count, classes = len(x), 3
    rows = np.concatenate([x, np.ones((count, 1))], 1)
    point = np.zeros((rows.shape[1], classes))
    penalty = np.repeat(np.r_[np.full(x.shape[1], l2), 0.0], classes)
    for _ in range(30):
        p = np.exp(rows @ point)
        p /= p.sum(1, keepdims=True)
        gradient = (rows.T @ (p - np.eye(classes)[y])).ravel() + penalty * point.ravel()
        hessian = np.diag(penalty)
        for row, q in zip(rows, p, strict=True):
            hessian += np.kron(np.outer(row, row), np.diag(q) - np.outer(q, q))
        point -= np.linalg.lstsq(hessian, gradient, rcond=1e-12)[0].reshape(point.shape)
    return point


@pytest.mark.parametrize("l2", [100.0, 1.0, 1e-3])
def test_the_solution_is_the_optimum(l2: float) -> None:
    x, y = torch.from_numpy(FEATURES), torch.from_numpy(LABELS)
    solution = solve(x, y, l2, x.new_zeros(5, 3), iterations=500)
    _, gradient = objective(solution, x, y, l2)
    assert gradient.abs().max() < 1e-7
    exact = newton(FEATURES, LABELS, l2)
    np.testing.assert_allclose(solution[:-1], exact[:-1], atol=1e-5)
    np.testing.assert_allclose(  # the biases are free up to one number
        solution[-1] - solution[-1].mean(), exact[-1] - exact[-1].mean(), atol=1e-5
    )


def test_the_objective_in_blocks_against_a_loop_and_differences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "ROWS", 3 * 7)  # seven rows at a time
    x, y = torch.from_numpy(FEATURES), torch.from_numpy(LABELS)
    point = torch.from_numpy(RANDOM.normal(size=(5, 3)))
    value, gradient = objective(point, x, y, 0.7)
    assert float(value) == pytest.approx(slow_objective(point.numpy(), FEATURES, LABELS, 0.7) / 60)
    for position in ((0, 0), (3, 2), (4, 1)):
        step = np.zeros((5, 3))
        step[position] = 1e-5
        up, down = (slow_objective(point.numpy() + s, FEATURES, LABELS, 0.7) for s in (step, -step))
        assert float(gradient[position]) == pytest.approx((up - down) / 2e-5 / 60, rel=1e-4)


def test_the_strength_is_chosen_on_images_held_back() -> None:
    # one of many dimensions tells the class, most of the time: a weak strength overfits
    x = RANDOM.normal(size=(200, 100))
    y = (x[:, 0] + 0.5 * RANDOM.normal(size=200) > 0).astype(np.int64)
    grid = tuple(10.0**power for power in range(3, -4, -1))
    probe = linear_probe(x, y, grid=grid)
    held = validation_split(y, 0.2, 0)
    accuracies = [linear_probe(x[~held], y[~held], grid=(l2,)).logits(x[held]) for l2 in grid]
    shares = [float(np.mean(solution.argmax(1).numpy() == y[held])) for solution in accuracies]
    assert probe.validation_accuracy == pytest.approx(max(shares))
    assert probe.l2 == grid[int(np.argmax(shares))]  # the strongest of equals


def test_shift_and_scale_of_the_features_do_not_matter() -> None:
    plain = linear_probe(FEATURES, LABELS, grid=(1.0,))
    moved = linear_probe(FEATURES * 7 - 3, LABELS, grid=(1.0,))
    np.testing.assert_allclose(
        plain.logits(FEATURES), moved.logits(FEATURES * 7 - 3), rtol=1e-6, atol=1e-6
    )


def test_the_grid_is_the_papers() -> None:
    assert len(GRID) == 45
    assert GRID[0] == pytest.approx(1e5)
    assert GRID[-1] == pytest.approx(1e-6)
    ratios = np.array(GRID[1:]) / GRID[:-1]
    np.testing.assert_allclose(ratios, ratios[0])


def test_too_few_images_are_told() -> None:
    with pytest.raises(ValueError, match="two classes"):
        linear_probe(FEATURES, np.zeros(60, np.int64))
    with pytest.raises(ValueError, match="three pictures of a class"):
        linear_probe(FEATURES[:4], np.array([0, 0, 1, 1]))

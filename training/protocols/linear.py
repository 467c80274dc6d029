"""The linear probe on frozen features, solved: multinomial logistic regression by L-BFGS.

The transfer protocol of Chen et al. 2020 (appendix B.8, after Kornblith et al. 2019): for each of
45 strengths l2 between 1e-6 and 1e5, evenly spaced on a logarithmic scale,

    minimize over W, b   sum_i -log softmax(W x_i + b)[y_i] + l2/2 ||W||^2

on a split of the training images; keep the strength that is best on the others; solve once more on
all of them. Features are centered, which the free b makes up for, and divided by one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from training.protocols.splits import validation_split

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from base.progress import OnProgress

GRID = tuple(float(10**exponent) for exponent in np.linspace(5, -6, 45))
VALIDATION_SHARE = 0.2
MAX_ITERATIONS = 200  # per strength; each starts from the last one's solution
ROWS = 2**24  # logits held at a time


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A solved probe; logits of features x [N,D] are (x - center) / scale @ weight + bias."""

    weight: Tensor  # [D,C]
    bias: Tensor  # [C]
    center: Tensor  # [D]
    scale: float
    l2: float
    validation_accuracy: float  # of l2 on the images held back, in [0,1]

    def logits(self, features: ArrayLike | Tensor) -> Tensor:
        """[N,D] -> [N,C]."""
        x = torch.as_tensor(features, dtype=self.weight.dtype, device=self.weight.device)
        return (x - self.center) / self.scale @ self.weight + self.bias


def linear_probe(
    features: ArrayLike | Tensor,
    labels: NDArray[np.int64],
    *,
    grid: tuple[float, ...] = GRID,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Probe:
    """Choose the strength and solves the probe.

    Args:
        features: h [N,D]; solved in its precision and on its device.
        labels: [N], 0 to C-1.
        grid: strengths, from strong to weak.
        seed: decides which images are held back.
        on_progress: called with the strengths that are done and all strengths.

    Raises:
        ValueError: fewer than two classes, or too few images to hold some back.
    """
    x = torch.as_tensor(features)
    held = validation_split(labels, VALIDATION_SHARE, seed)
    classes = int(labels.max()) + 1 if len(labels) else 0
    if len(np.unique(labels)) < 2:
        raise ValueError("a linear probe needs pictures of two classes to learn from")
    if not held.any():
        raise ValueError("a linear probe needs three pictures of a class to choose its strength")
    center = x.mean(0)
    scale = max(float((x - center).square().mean().sqrt()), 1e-12)
    x = (x - center) / scale
    y = torch.from_numpy(labels).to(x.device)
    fitting, checking = (torch.from_numpy(mask).to(x.device) for mask in (~held, held))
    solution = x.new_zeros(x.shape[1] + 1, classes)
    best, best_solution = (-1.0, grid[0]), solution
    for done, l2 in enumerate(grid, start=1):
        solution = solve(x[fitting], y[fitting], l2, solution)
        guessed = (x[checking] @ solution[:-1] + solution[-1]).argmax(1)
        accuracy = float((guessed == y[checking]).double().mean())
        if accuracy > best[0]:
            best, best_solution = (accuracy, l2), solution
        if on_progress is not None:
            on_progress(done, len(grid))
    final = solve(x, y, best[1], best_solution)
    return Probe(
        weight=final[:-1],
        bias=final[-1],
        center=center,
        scale=scale,
        l2=best[1],
        validation_accuracy=best[0],
    )


def solve(
    x: Tensor, y: Tensor, l2: float, start: Tensor, *, iterations: int = MAX_ITERATIONS
) -> Tensor:
    """Return the optimum for one strength: features [N,D], labels [N], start and result [D+1,C].

    The last row is the bias. Stops where no entry of the gradient of the mean is above 1e-6.
    """
    point = start.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [point],
        max_iter=iterations,
        tolerance_grad=1e-6 if x.dtype == torch.float32 else 1e-10,
        tolerance_change=0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        value, point.grad = objective(point.detach(), x, y, l2)
        return value

    solver.step(closure)  # type: ignore[no-untyped-call]
    return point.detach()


def objective(point: Tensor, x: Tensor, y: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """Value and gradient of the objective / N at W, b = point [D+1,C]; rows in blocks."""
    weight, gradient = point[:-1], torch.zeros_like(point)
    value = x.new_zeros(())
    step = max(1, ROWS // point.shape[1])
    for start in range(0, len(x), step):
        rows, truth = x[start : start + step], y[start : start + step, None]
        logs = torch.log_softmax(rows @ weight + point[-1], 1)
        value -= logs.gather(1, truth).sum()
        wrong = logs.exp_().scatter_add_(1, truth, logs.new_full(truth.shape, -1))  # p - onehot
        gradient[:-1] += rows.T @ wrong
        gradient[-1] += wrong.sum(0)
    value += l2 / 2 * weight.square().sum()
    gradient[:-1] += l2 * weight
    return value / len(x), gradient / len(x)

"""Learning rates: scaling with the batch size, and one rate per step as a plain array.

An array has no state: a resumed run reads the rate of its step and cannot be off by one epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from training.errors import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

Scaling = Literal["linear", "sqrt", "none"]
SCALINGS: tuple[Scaling, ...] = ("linear", "sqrt", "none")


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """The table [schedule] of a recipe: warm-up (give at most one length of it) and cosine."""

    learning_rate: float
    scaling: Scaling = "linear"
    warmup_epochs: float | None = None
    warmup_fraction: float | None = None  # of the run

    def __post_init__(self) -> None:
        require(
            self.learning_rate > 0, f"schedule.learning_rate = {self.learning_rate}: not above 0"
        )
        require(
            self.warmup_epochs is None or self.warmup_fraction is None,
            "schedule has warmup_epochs and warmup_fraction: give one of them",
        )
        fraction = self.warmup_fraction or 0.0
        require(0 <= fraction < 1, f"schedule.warmup_fraction = {fraction}: must be in [0,1)")
        require((self.warmup_epochs or 0.0) >= 0, "schedule.warmup_epochs must not be negative")


def peak_learning_rate(learning_rate: float, scaling: Scaling, batch_size: int) -> float:
    """Return the rate after warm-up.

    "linear" is learning_rate * B / 256 (0.3 in section 2), "sqrt" is learning_rate * sqrt(B)
    (0.075 in appendix B.1; equal to the linear rule at B = 4096), "none" is learning_rate itself.
    """
    if scaling == "linear":
        return learning_rate * batch_size / 256
    if scaling == "sqrt":
        return learning_rate * math.sqrt(batch_size)
    return learning_rate


def warmup_cosine(peak: float, steps: int, warmup_steps: int) -> NDArray[np.float64]:
    """Linear warm-up from 0, then a cosine to 0 without restarts (section 2; model_util.py).

    Args:
        peak: the rate at the end of the warm-up.
        steps: T, length of the run.
        warmup_steps: W; the rate of step t < W is peak * t / W.

    Returns:
        [T], the rate of each step; entry t >= W is peak * (1 + cos(pi (t - W) / (T - W))) / 2.

    Raises:
        ValueError: unless 0 <= W <= T.
    """
    if not 0 <= warmup_steps <= steps:
        raise ValueError(f"a warm-up of {warmup_steps} steps does not fit a run of {steps}")
    step = np.arange(steps, dtype=np.float64)
    rising = peak * step / max(1, warmup_steps)
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    falling = peak * (1 + np.cos(np.pi * progress)) / 2
    return np.where(step < warmup_steps, rising, falling)

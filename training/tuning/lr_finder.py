"""A sweep over learning rates that shows which ones a recipe learns at (Smith 2015, section 3.3).

A network that is thrown away takes a few hundred real steps while the rate grows exponentially. Too
low, the loss stays; at the right size it falls; too high, it rises again. Suggested is the rate at
which the smoothed loss falls fastest, per factor of the rate. No run is written.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from base.cpus import available_cpus
from base.errors import UsageError
from base.progress import Progress, Silent
from training.compute import choose_device
from training.data.training_data import check_enough, open_training_data
from training.data.value_range import resolve_range
from training.errors import TrainingDivergedError
from training.optim.schedule import peak_learning_rate
from training.parallel.launch import launch_of
from training.precision import settle_precision
from training.train import CACHE_IN_MEMORY
from training.trainer import Trainer
from training.weights.start_weights import load_start_weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from images.sources.sources import Source
    from training.recipes.recipe import Recipe

STEPS = 200
RANGES = {"lars": (1e-2, 1e2), "sgd": (1e-4, 1e1), "adamw": (1e-6, 1e-1)}
SMOOTHING = 0.9  # share of the past in the running mean
WARM_UP = 0.05  # of the sweep: the first losses say nothing about the rate
WINDOW = 0.1  # of the sweep, over which a slope is taken
LEAST_FALL = 0.005  # of the first loss; less is noise
HOPELESS = 1.5  # times the first loss: the sweep ends


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Rates and the loss that each step had, shorter than planned where the loss ran away."""

    rates: list[float]
    losses: list[float]
    smoothed: list[float]

    @property
    def steepest(self) -> float | None:
        """Where the smoothed loss falls fastest before its minimum; None: it never does."""
        losses, lowest = np.array(self.smoothed), int(np.argmin(self.smoothed))
        first = math.ceil(WARM_UP * len(losses))
        fall = losses[first] - losses[lowest]
        if lowest - first < 2 or fall < LEAST_FALL * abs(losses[first]):
            return None
        half, last = math.ceil(WINDOW * len(losses) / 2), len(losses) - 1
        positions = np.arange(first, lowest + 1)
        before, after = np.maximum(positions - half, 0), np.minimum(positions + half, last)
        logarithms = np.log(self.rates)
        slopes = (losses[after] - losses[before]) / (logarithms[after] - logarithms[before])
        return self.rates[int(positions[np.argmin(slopes)])]

    @property
    def minimum(self) -> float:
        """The rate of the lowest smoothed loss; where the loss is about to rise."""
        return self.rates[int(np.argmin(self.smoothed))]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a sweep says about a recipe.

    Attributes:
        suggested: a peak rate, after scaling with the batch size.
        learning_rate: what to write as schedule.learning_rate for it.
        minimum_tenth: the usual other rule, a tenth of the rate with the lowest loss.
    """

    recipe: str
    batch_size: int
    scaling: str
    suggested: float
    learning_rate: float
    minimum_tenth: float
    sweep: Sweep

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def sweep(step: Callable[[float], float], rates: NDArray[np.float64]) -> Sweep:
    """Take one step per rate until the rates or the hope end.

    Args:
        step: takes a step at a rate, returns the loss before it or raises TrainingDivergedError.
        rates: [T], rising.
    """
    losses: list[float] = []
    smoothed: list[float] = []
    mean = 0.0
    for rate in rates:
        try:
            loss = step(float(rate))
        except TrainingDivergedError:
            break
        if not math.isfinite(loss):
            break
        losses.append(loss)
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING ** len(losses)))  # without the bias of its start at 0
        if smoothed[-1] > HOPELESS * smoothed[0]:
            break
    return Sweep(rates=[float(r) for r in rates[: len(losses)]], losses=losses, smoothed=smoothed)


def find_learning_rate(
    source: Source,
    recipe: Recipe,
    *,
    device: str = "auto",
    limit: int | None = None,
    steps: int = STEPS,
    progress: Progress | None = None,
) -> Finding:
    """Sweep the rates of a recipe's optimizer on the images of a source.

    Args:
        source: the images.
        recipe: its batch size, network, loss and optimizer are used, its schedule is not.
        device: as for `train.train`.
        limit: as for `train.train`.
        steps: length of the sweep.
        progress: shows how far the work is.

    Raises:
        UsageError: several processes, less images than a batch, or the loss fell at no rate.
    """
    if launch_of().world > 1:
        raise UsageError("--find-lr takes one process: leave torchrun out")
    progress = progress or Silent()
    recipe = replace(recipe, data=resolve_range(recipe.data, source))
    target = choose_device(device)
    torch.set_num_threads(available_cpus())
    recipe = settle_precision(recipe, target, progress)
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        images = open_training_data(
            source,
            recipe.data,
            limit=limit,
            folder=Path(folder),
            memory_limit=CACHE_IN_MEMORY,
            progress=progress,
        )
        check_enough(images, recipe.training.batch_size)
        batch = recipe.training.batch_size
        length = replace(recipe.training, epochs=None, samples=steps * batch, progressive=None)
        trainer = Trainer(replace(recipe, training=length), images, target)
        if recipe.encoder.weights is not None:
            load_start_weights(trainer.model.encoder, recipe)
        progress.begin("learning rates", steps)
        try:
            result = sweep(
                _stepper(trainer, progress), np.geomspace(*RANGES[recipe.optimizer.name], steps)
            )
        finally:
            progress.end()
    return _finding(recipe, result)


def _stepper(trainer: Trainer, progress: Progress) -> Callable[[float], float]:
    def step(rate: float) -> float:
        trainer.learning_rates[trainer.step] = rate
        trainer.advance()
        loss = trainer.take_loss()
        progress.update(trainer.step, f"loss {loss:.3f}  lr {rate:.2e}")
        return loss

    return step


def _finding(recipe: Recipe, result: Sweep) -> Finding:
    if result.steepest is None:
        raise UsageError(
            f"the loss fell at no rate from {result.rates[0]:.1e} to {result.rates[-1]:.1e}: the "
            "batch is too small for a sweep, or the views are too hard"
        )
    schedule, batch = recipe.schedule, recipe.training.batch_size
    factor = peak_learning_rate(1.0, schedule.scaling, batch)
    return Finding(
        recipe=recipe.name,
        batch_size=batch,
        scaling=schedule.scaling,
        suggested=result.steepest,
        learning_rate=result.steepest / factor,
        minimum_tenth=result.minimum / 10,
        sweep=result,
    )

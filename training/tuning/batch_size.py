"""The largest batch that fits memory, found by taking real steps with ever larger ones.

Each size is tried with the trainer itself on made-up images, two steps long, so that activations,
gradients, the optimizer's state and the loss over all pairs are what a run has. Memory is read off:
on CUDA the allocator's peak, on a CPU the process's. Sizes double; the next one is only tried where
a line through the last two says that it fits; in the end one and a half of the last is tried.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from base.errors import UsageError
from base.memory import available_memory, forget_peak, peak_memory, resident_memory
from training.data.dataset import NO_LABEL, ImageDataset
from training.parallel.launch import launch_of
from training.trainer import Trainer

if TYPE_CHECKING:
    from base.progress import Progress
    from training.recipes.recipe import Recipe

SMALLEST = 16
LARGEST = 4096  # the paper's; above it figure 9 gains nothing
FEWEST_STEPS = 200  # of a run: fewer updates learn less however large the batch
PER_EPOCH = 4  # steps: a batch is to be a sample of the images, not most of them
SHARE = 0.85  # of the memory, the rest is for decoding, measuring and the system
SLOW = 20.0  # seconds a step on a CPU: larger ones are not tried


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What was found.

    Attributes:
        batch_size: the choice.
        reason: why not a larger one.
        tried: bytes at the peak by batch size; None where memory ran out.
    """

    batch_size: int
    reason: str
    tried: dict[int, int | None]


def auto_batch_size(recipe: Recipe, device: torch.device, dataset: int, progress: Progress) -> Fit:
    """Choose the batch size for a recipe on a device.

    Args:
        recipe: its own batch size is not looked at.
        device: where the run will be.
        dataset: how many there are; a quarter of them is the most that is chosen.
        progress: gets what is tried, as messages.

    Raises:
        UsageError: several processes, memory cannot be measured here, or not even the smallest
            batch fits.
    """
    if launch_of().world > 1:
        raise UsageError("--batch-size auto measures one process: give a number under torchrun")
    budget = _budget(recipe, device, dataset)
    base = 0 if device.type == "cuda" else resident_memory() or 0  # what the process holds already
    cap, reason = _cap(recipe, dataset)
    tried: dict[int, int | None] = {}
    batch, best = min(SMALLEST, cap), 0
    while True:
        peak, seconds = _measure(recipe, device, batch, base)
        tried[batch] = peak
        fits = peak is not None and peak <= budget
        used = "no memory left" if peak is None else f"{peak / 2**30:.2f} GB"
        progress.message(
            f"batch of {batch}: {used} of {budget / 2**30:.1f} GB, {seconds:.2f} s a step"
        )
        best = max(best, batch if fits else 0)
        if best == 0:
            raise UsageError(f"not even a batch of {batch} fits {budget / 2**30:.1f} GB of memory")
        if best >= cap:
            return Fit(batch_size=best, reason=reason, tried=tried)
        if device.type == "cpu" and seconds > SLOW:
            return Fit(batch_size=best, reason=f"a step takes {seconds:.0f} s", tried=tried)
        larger = _next(tried, best, budget, cap)
        if larger is None:
            return Fit(batch_size=best, reason="memory", tried=tried)
        batch = larger


def _cap(recipe: Recipe, dataset: int) -> tuple[int, str]:
    """Return the largest power of two that makes sense for so many images and so short a run."""
    caps = [(LARGEST, f"the paper's largest is {LARGEST}")]
    caps.append((dataset // PER_EPOCH, f"there are {dataset} pictures"))
    seen = recipe.training.samples or round((recipe.training.epochs or 1) * dataset)
    caps.append((seen // FEWEST_STEPS, f"the run would have fewer than {FEWEST_STEPS} steps"))
    cap, reason = min(caps)
    return max(2, 2 ** int(np.log2(max(2, cap)))), reason


def _next(tried: dict[int, int | None], best: int, budget: float, cap: int) -> int | None:
    """Return the next size to try: twice the best, or half as much more where twice is too much."""
    for size in (2 * best, best + best // 2):
        if size > cap or size in tried:
            continue
        expected = _expected(tried, size)
        if expected is None or expected <= budget:
            return size
    return None


def _expected(tried: dict[int, int | None], size: int) -> float | None:
    """Bytes on the line through the two largest sizes that fitted; None where there is one."""
    fitted = sorted((batch, peak) for batch, peak in tried.items() if peak is not None)[-2:]
    if len(fitted) < 2:
        return None
    (b0, p0), (b1, p1) = fitted
    return p1 + (size - b1) * (p1 - p0) / (b1 - b0)


def _budget(recipe: Recipe, device: torch.device, dataset: int) -> float:
    """Bytes for a step; on CUDA the images live there too where they take less than half."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        stored = dataset * recipe.data.channels * recipe.data.stored_side**2
        return SHARE * (free - stored if stored < free // 2 else free)
    free_ram, peak = available_memory(), peak_memory()
    if free_ram is None or peak is None:
        raise UsageError("--batch-size auto cannot read the memory of this system: give a number")
    return SHARE * free_ram


def _measure(
    recipe: Recipe, device: torch.device, batch: int, base: int
) -> tuple[int | None, float]:
    """Peak bytes of a step beyond `base`, and its seconds."""
    rng = np.random.default_rng(0)
    side, channels = recipe.data.stored_side, recipe.data.channels
    dataset = ImageDataset(
        name="made up",
        images=rng.integers(0, 256, (batch, side, side, channels), dtype=np.uint8),
        labels=np.full(batch, NO_LABEL),
        classes=(),
        refused=(),
        digest="",
    )
    micro = recipe.training.micro_batch
    training = replace(
        recipe.training,
        batch_size=batch,
        micro_batch=micro if micro and batch % micro == 0 else None,
        epochs=None,
        samples=4 * batch,
    )
    trainer: Trainer | None = None
    seconds = 0.0
    _forget_peak(device)
    try:
        trainer = Trainer(replace(recipe, training=training), dataset, device)
        for _ in range(2):
            began = time.perf_counter()
            trainer.advance()
            trainer.take_loss()  # waits for the accelerator
            seconds = time.perf_counter() - began
        return _peak(device) - base, seconds
    except torch.OutOfMemoryError:
        return None, seconds
    finally:
        trainer = None
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        forget_peak()


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return peak_memory() or 0

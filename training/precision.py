"""What `training.precision = "auto"` comes to on a CPU: the faster of fp32 and bf16, by their time.

That the hardware multiplies bf16 does not settle it: on a CPU with AVX512_BF16 it doubles the speed
of ResNets and halves that of depthwise networks, whose convolutions oneDNN has no bf16 kernel for.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from training.compute import choose_precision
from training.data.dataset import NO_LABEL, ImageDataset
from training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Literal

    from base.progress import Progress
    from training.recipes.recipe import Recipe

    Seconds = Mapping[Literal["fp32", "bf16"], float]

IMAGES = 16  # in a step that is timed
ROUNDS = 3  # steps of each that are timed, in turns
LONG = 10.0  # seconds; after that one round is enough
WORTH = 0.95  # bf16 has to take less than that share of the time of fp32, which is more exact


def settle_precision(
    recipe: Recipe,
    device: torch.device,
    progress: Progress,
    *,
    measure: Callable[[Recipe, torch.device], Seconds] | None = None,
) -> Recipe:
    """Return the recipe with a precision in place of "auto"; on CUDA as it is.

    Args:
        recipe: as it will be trained.
        device: where.
        progress: gets what was measured, as a message.
        measure: returns the seconds of a step in each precision; `step_seconds` if None.
    """
    if recipe.training.precision != "auto" or device.type != "cpu":
        return recipe
    faster: Literal["fp32", "bf16"] = "fp32"
    if choose_precision("auto", device) is torch.bfloat16:  # else emulated: a tenth of the speed
        seconds = (measure or step_seconds)(recipe, device)
        faster = "bf16" if seconds["bf16"] < WORTH * seconds["fp32"] else "fp32"
        progress.message(
            f"precision {faster}: a step of {IMAGES} pictures takes {seconds['fp32']:.2g} s in "
            f"fp32 and {seconds['bf16']:.2g} s in bf16 here (--set training.precision sets it)"
        )
    return replace(recipe, training=replace(recipe.training, precision=faster))


def step_seconds(
    recipe: Recipe,
    device: torch.device,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Literal["fp32", "bf16"], float]:
    """Return the seconds of the fastest step in fp32 and in bf16, on made-up images.

    Both take steps in turns, so that other load on the machine meets both; the first step of each
    is not timed. torch's random state stays as it was.
    """
    began = clock()
    fastest: dict[Literal["fp32", "bf16"], float] = {}
    with torch.random.fork_rng(devices=[]):
        trainers: dict[Literal["fp32", "bf16"], Trainer] = {
            "fp32": _trainer(recipe, device, "fp32"),
            "bf16": _trainer(recipe, device, "bf16"),
        }
        for trainer in trainers.values():
            trainer.advance()
        for _ in range(ROUNDS):
            for name, trainer in trainers.items():
                start = clock()
                trainer.advance()
                fastest[name] = min(fastest.get(name, np.inf), clock() - start)
            if clock() - began > LONG:
                break
    return fastest


def _trainer(recipe: Recipe, device: torch.device, name: Literal["fp32", "bf16"]) -> Trainer:
    training = replace(
        recipe.training,
        batch_size=IMAGES,
        micro_batch=None,
        epochs=None,
        samples=(1 + ROUNDS) * IMAGES,
        progressive=None,
        compile=False,
        precision=name,
    )
    side, channels = recipe.data.stored_side, recipe.data.channels
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, side, side, channels), dtype=np.uint8)
    dataset = ImageDataset(
        name="made up",
        images=images,
        labels=np.full(IMAGES, NO_LABEL),
        classes=(),
        refused=(),
        digest="",
    )
    return Trainer(replace(recipe, training=training), dataset, device)

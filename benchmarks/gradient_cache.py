"""Memory and gradient of a batch of 4096 images in chunks of 256, against a batch of 256.

    python -m benchmarks.gradient_cache [--short]

Memory: the peak of a process that makes optimizer steps as the train command does, one process per
batch size, the network of the recipe small-cpu at 32 px. Gradient: the cached one against that
of one graph over the whole batch whose batch norms work on the same chunks, as the relative error
of the gradient of each weight (largest of all), and against the plain step with the batch norms
frozen; on fewer images, for the graph over 4096 needs 16 times the memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.report import publish
from training import cpu_tuning

if TYPE_CHECKING:
    from torch import Tensor

    from training.recipes.recipe import Recipe
    from training.trainer import Trainer

LARGE, SMALL = 4096, 256


def main() -> None:
    """Measure, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="one step of 4096 instead of three")
    parser.add_argument("--steps-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--gradients", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps_of:
        cpu_tuning.prepare()
        print(json.dumps(measure_steps(arguments.steps_of, arguments.steps)))
    elif arguments.gradients:
        print(json.dumps(compare_gradients(1024, micro_batch=SMALL)))
    else:
        steps = 1 if arguments.short else 3
        small = child("--steps-of", str(SMALL), "--steps", str(8 * steps))
        large = child("--steps-of", str(LARGE), "--steps", str(steps))
        report(small, large, child("--gradients"))


def child(*arguments: str) -> dict[str, float]:
    """Return what a process of its own measures."""
    command = [sys.executable, "-m", "benchmarks.gradient_cache", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def make_trainer(images: int, micro_batch: int) -> Trainer:
    """Return a run whose batch is all of its images, which are noise."""
    import numpy as np
    import torch

    from base.cpus import available_cpus
    from training.data.dataset import ImageDataset
    from training.trainer import Trainer

    torch.set_num_threads(available_cpus())
    pixels = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    labels = np.full(images, -1)
    noise = ImageDataset(
        name="noise", images=pixels, labels=labels, classes=(), refused=(), digest=""
    )
    return Trainer(recipe(images, micro_batch), noise, torch.device("cpu"))


def recipe(images: int, micro_batch: int) -> Recipe:
    """ResNet-18's layout with 16 to 128 channels at 32 px, in fp32."""
    from training.recipes.recipe_files import load_recipe

    return load_recipe(
        "small-cpu",
        [
            "data.image_size=32",
            "data.stored_size=32",
            "encoder.stem=small",
            "training.precision=fp32",
            "training.samples=1_000_000",
            f"training.batch_size={images}",
            f"training.micro_batch={micro_batch}",
        ],
    )


def measure_steps(images: int, steps: int) -> dict[str, float]:
    """Peak memory of this process before and after some steps in MB, and seconds a step."""
    trainer = make_trainer(images, SMALL)
    before = peak_mb()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        trainer.advance()
        seconds.append(time.perf_counter() - start)
    # the median: the first steps of a process are slow
    return {"before_mb": before, "peak_mb": peak_mb(), "seconds": statistics.median(seconds)}


def peak_mb() -> float:
    """Of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def compare_gradients(images: int, micro_batch: int) -> dict[str, float]:
    """Relative errors of the cached gradient."""
    return {
        "same_chunks": relative_error(images, micro_batch, frozen=False),
        "frozen": relative_error(images, micro_batch, frozen=True),
        "pictures": images,
        "micro_batch": micro_batch,
    }


def relative_error(images: int, micro_batch: int, *, frozen: bool) -> float:
    """Return the largest over all weights of |cached - whole| / |whole|."""
    import torch

    from training.optim.losses import contrastive_loss

    cached, whole = make_trainer(images, micro_batch), make_trainer(images, micro_batch)
    for trainer in (cached, whole):
        trainer.model.train(not frozen)
        trainer.fetch()
    z = torch.cat([whole.project(chunk) for chunk in range(images // micro_batch)])
    rows = whole.shard.join(z[None])
    contrastive_loss(rows, recipe(images, micro_batch).loss).backward()  # type: ignore[no-untyped-call]
    cached.advance()
    pairs = zip(gradients(cached), gradients(whole), strict=True)
    return max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs)


def gradients(trainer: Trainer) -> list[Tensor]:
    """Of all weights."""
    return [p.grad for p in trainer.model.parameters() if p.grad is not None]


def report(small: dict[str, float], large: dict[str, float], error: dict[str, float]) -> None:
    """Print the table and the JSON line."""
    table = Table(title="ResNet-18 of width 1/4 at 32 px, fp32, chunks of 256 pictures")
    for column in ("batch", "peak MB", "of it before the first step", "pictures/s"):
        table.add_column(column, justify="right")
    for batch, values in ((SMALL, small), (LARGE, large)):
        rate = batch / values["seconds"]
        table.add_row(
            str(batch), f"{values['peak_mb']:.0f}", f"{values['before_mb']:.0f}", f"{rate:.0f}"
        )
    metrics = {
        "peak_memory_4096_over_256": round(large["peak_mb"] / small["peak_mb"], 3),
        "gradient_max_relative_error": error["same_chunks"],
        "gradient_max_relative_error_frozen_norms": error["frozen"],
        "speed_4096_over_256": round(16 * small["seconds"] / large["seconds"], 3),
    }
    publish(
        "gradient_cache",
        metrics=metrics,
        details={"batch_256": small, "batch_4096": large, "gradients": error},
        tables=[table],
        packages=["torch"],
    )


if __name__ == "__main__":
    main()

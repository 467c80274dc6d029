"""SimCLR as lightly's documentation trains it, in a process of its own.

    python -m benchmarks.lightly_simclr IMAGES.npy RECIPE SETTINGS...

Its SimCLRTransform on PIL images, a DataLoader, its NTXentLoss, one forward per view, SGD;
float32 in PyTorch's default layout. The recipe gives the encoder, and the augmentation's strengths
and probabilities. Nothing of what our train command sets for its process is set.

Reads lines "WORKERS STEPS" and answers each with the seconds that so many steps took, from the
loader's first batch to the one after the last step: starting workers costs nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

os.environ["LIGHTLY_DID_VERSION_CHECK"] = "True"  # it asks a server otherwise
import numpy as np
import torch
from PIL import Image

from base.cpus import available_cpus
from benchmarks.augmentation_speed import lightly_transform
from training.recipes.build_model import encoder_of
from training.recipes.recipe_files import load_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from training.recipes.recipe import Recipe


class LightlyProcess:
    """The process, started and asked for steps."""

    def __init__(self, images: NDArray[np.uint8], recipe: str, settings: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name) / "images.npy"
        np.save(file, images)
        environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.lightly_simclr", str(file), recipe, *settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # its input ends, and so does it
        self._folder.cleanup()

    def steps(self, workers: int, steps: int, batch: int) -> tuple[int, float]:
        """Return samples and seconds of so many steps."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(workers, steps, file=self._process.stdin, flush=True)
        return steps * batch, float(self._process.stdout.readline())


def main(images: str, recipe: str, *settings: str) -> None:
    """Answer until standard input ends."""
    torch.set_num_threads(available_cpus())
    contender = Lightly(np.load(images), load_recipe(recipe, settings))
    for line in sys.stdin:
        workers, steps = map(int, line.split())
        print(contender.seconds(workers, steps), flush=True)


class Lightly:
    """The training loop of lightly's SimCLR example."""

    def __init__(self, images: NDArray[np.uint8], recipe: Recipe) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        self._batch_size = recipe.training.batch_size
        self._views = Views(images, lightly_transform(recipe.augmentation, recipe.data.image_size))
        encoder = encoder_of(recipe)
        width = encoder.feature_dim
        self._model = torch.nn.Sequential(encoder, SimCLRProjectionHead(width, width, 128)).train()
        self._criterion = NTXentLoss(recipe.loss.temperature)
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=0.06)

    def seconds(self, workers: int, steps: int) -> float:
        """Wall time of so many steps."""
        batches = self._batches(workers, steps + 1)
        batch = next(batches)
        start = time.perf_counter()
        for _ in range(steps):
            self._step(*batch)
            batch = next(batches)
        return time.perf_counter() - start

    def _batches(self, workers: int, count: int) -> Iterator[list[Tensor]]:
        sampler = torch.utils.data.RandomSampler(
            self._views, replacement=True, num_samples=count * self._batch_size
        )
        loader: Any = torch.utils.data.DataLoader(
            self._views, self._batch_size, sampler=sampler, num_workers=workers
        )
        return iter(loader)

    def _step(self, first: Tensor, second: Tensor) -> None:
        loss = self._criterion(self._model(first), self._model(second))
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()


class Views(torch.utils.data.Dataset[Any]):
    """Two views of each image."""

    def __init__(self, images: NDArray[np.uint8], transform: Any) -> None:
        self._images, self._transform = images, transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> list[Tensor]:
        views: list[Tensor] = self._transform(Image.fromarray(self._images[index]))
        return views


if __name__ == "__main__":
    main(*sys.argv[1:])

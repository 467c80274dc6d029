"""The contests of training_speed: the ways to take a training step. Imports torch."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from benchmarks.lightly_simclr import LightlyProcess
from benchmarks.timing import in_turns
from images.items import Item
from images.sources.sources import open_source
from training.compute import choose_precision, compiled
from training.data.cache import decode_source
from training.optim.optimizers import build_optimizer, set_learning_rate
from training.recipes.build_model import build_model
from training.recipes.recipe_files import load_recipe
from training.train import train
from training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from images.items import Pixels
    from training.recipes.recipe import Recipe

    Rates = dict[str, list[float]]
    Way = Callable[[], int | tuple[int, float]]

LIGHTLY = {0: "lightly, 0 workers", 2: "lightly, 2 workers"}
SMALL = 32  # px; larger images come in different shapes
FULL = ("encoder.name=resnet18",)


@dataclass(frozen=True, kw_only=True)
class Contest:
    """One size of image."""

    recipe: str
    settings: tuple[str, ...]
    steps: int  # of each way in a round
    lightly: bool = False

    def load(self) -> Recipe:
        """Return the recipe with the settings."""
        return load_recipe(self.recipe, [*self.settings])

    def compiled(self) -> Contest:
        """Return the same contest of compiled networks."""
        return replace(self, settings=(*self.settings, "training.compile=true"))


def _photos(size: int, batch: int) -> tuple[str, ...]:
    """Return the recipe imagenet at another size: crops from images that are larger by 8/7."""
    stored = size * 8 // 7
    sizes = (f"data.image_size={size}", f"data.stored_size={stored}")
    more = (f"data.evaluation_resize={stored}", f"training.batch_size={batch}")
    return (*FULL, *sizes, *more, "encoder.stem=imagenet")


CPU = {
    "32": Contest(
        recipe="cifar10",
        settings=(*FULL, "encoder.width=0.25", "training.batch_size=256"),
        steps=2,
        lightly=True,
    ),
    "96": Contest(recipe="imagenet", settings=_photos(96, 64), steps=1),
    "224": Contest(recipe="imagenet", settings=_photos(224, 16), steps=1),
}
CUDA = {
    "32": Contest(recipe="cifar10", settings=FULL, steps=50),
    "96": Contest(recipe="imagenet", settings=_photos(96, 512), steps=20),
    "224": Contest(recipe="imagenet", settings=_photos(224, 256), steps=10),
}


def run(
    contest: Contest, source: str | None, device: torch.device, rounds: int
) -> tuple[Rates, dict[str, object]]:
    """Return samples per second of each way in each round, and what they were measured on."""
    recipe = contest.load()
    batch, steps = recipe.training.batch_size, contest.steps
    spec = recipe.data.stored
    images = decode_source(
        open_source(source) if source else Clouds(2 * batch, spec.size),
        spec,
        whole=recipe.data.whole,
        limit=8 * batch,
    )
    about: dict[str, object] = {
        "recipe": [contest.recipe, *contest.settings],
        "pictures": images.name,
        "precision": str(choose_precision(recipe.training.precision, device)),
    }
    trainer = Trainer(recipe, images, device)
    if device.type == "cuda":  # before the limit takes some, too
        _steps(trainer.advance, 2, batch, device)
        about["peak_memory_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
    limit = Limit(recipe, device)
    ways: dict[str, Way] = {
        "lookalike": partial(_steps, trainer.advance, steps, batch, device),
        "limit": partial(_steps, limit.advance, steps, batch, device),
    }
    if contest.lightly and importlib.util.find_spec("lightly"):
        with LightlyProcess(
            images.squares(range(len(images)), spec), contest.recipe, contest.settings
        ) as other:
            for workers, name in LIGHTLY.items():
                ways[name] = partial(other.steps, workers, steps, batch)
            rates = in_turns(ways, rounds)
    else:
        rates = in_turns(ways, rounds)
    return rates, about


def _steps(advance: Callable[[], None], steps: int, batch: int, device: torch.device) -> int:
    for _ in range(steps):
        advance()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return steps * batch


class Limit:
    """What no step can do without: forward, loss, backward, update, on views that are there."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._model: nn.Module = build_model(recipe, device).train()
        if recipe.training.compile:
            self._model = compiled(self._model, device)
        self._optimizer = build_optimizer(self._model, recipe.optimizer)
        set_learning_rate(self._optimizer, 1e-3)
        self._temperature = recipe.loss.temperature
        self._dtype = choose_precision(recipe.training.precision, device)
        size = recipe.data.image_size
        views = torch.rand(2 * recipe.training.batch_size, 3, size, size, device=device)
        self._views = views.contiguous(memory_format=torch.channels_last)

    def advance(self) -> None:
        """Take one step."""
        half = self._dtype is torch.bfloat16
        with torch.autocast(self._views.device.type, dtype=torch.bfloat16, enabled=half):
            z = self._model(self._views)
        loss = _contrast(z.float(), self._temperature)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


def _contrast(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the paper's loss as it is written."""
    z = functional.normalize(z, dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    positive = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    return functional.cross_entropy(logits, positive)


class Clouds:
    """A source of generated photographs: soft colors under fine grain.

    Large ones are upright, level and square in turns, as photographs are.
    """

    name, classes = "generated", ()

    def __init__(self, count: int, side: int) -> None:
        random = np.random.default_rng(0)
        long = side * 4 // 3 if side > SMALL else side
        shapes = ((side, long), (long, side), (side, side))
        self._images = [_cloud(random, *shapes[number % 3]) for number in range(count)]

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Item]:
        for number, image in enumerate(self._images):
            yield Item(f"{number:05}", f"memory:///{number}", None, partial(_same, image))


def _same(image: Pixels) -> Pixels:
    return image


def _cloud(random: np.random.Generator, height: int, width: int) -> Pixels:
    soft = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    colors = np.asarray(soft.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = random.integers(-12, 13, colors.shape, dtype=np.int16)
    return (colors + grain).clip(0, 255).astype(np.uint8)


def accuracy(
    contest: Contest, images: str, evaluation: str, device: str, samples: int
) -> dict[str, float]:
    """Train on so many samples of a SOURCE; the kNN accuracy that the run measures at its end."""
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            open_source(images),
            load_recipe(contest.recipe, [*contest.settings, f"training.samples={samples}"]),
            Path(folder) / "run",
            device=device,
            evaluation=open_source(evaluation),
        )
    return {"minutes": round(result.elapsed_s / 60, 2), "samples": samples, **result.quality}

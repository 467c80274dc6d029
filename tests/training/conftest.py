"""A source of images in memory and a recipe that trains on it in a second."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

# before torch is loaded, as the train command does: see training/cpu_tuning.py
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
import torch

from images.sources.sources import Item
from training.recipes.recipe_files import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from images.items import Content
    from training.recipes.recipe import Recipe

TINY = (
    "data.image_size=16",
    "data.stored_size=20",
    "encoder.width=0.125",
    "encoder.stem=small-stride2",
    "augmentation.crop_area=[0.08, 1.0]",  # the paper's, however the recipe is tuned
    "training.batch_size=8",
    "training.samples=96",
    "training.log_every=2",
    "training.precision=fp32",  # "auto" would be bf16 on some CPUs: other figures, other tolerances
    "training.evaluations=2",
    "training.held_out=0",
)


@dataclass(frozen=True)
class Arrays:
    """A source of arrays; `content` may hold anything an item can read."""

    name: str
    contents: list[Content]
    labels: list[str] | None

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.labels or [])))

    def __len__(self) -> int:
        return len(self.contents)

    def __iter__(self) -> Iterator[Item]:
        for number, content in enumerate(self.contents):
            label = self.labels[number] if self.labels else None
            yield Item(f"{number:04}", f"memory:///{number}", label, partial(_same, content))


def _same(content: Content) -> Content:
    return content


def colored(count: int, seed: int = 0, *, size: int = 24) -> tuple[list[Content], list[str]]:
    """Images of two classes: noise that is redder, and noise that is bluer."""
    rng = np.random.default_rng(seed)
    contents: list[Content] = []
    labels = []
    for number in range(count):
        image: NDArray[np.uint8] = rng.integers(0, 150, (size, size, 3), dtype=np.uint8)
        image[..., 0 if number % 2 else 2] += 100
        contents.append(image)
        labels.append("red" if number % 2 else "blue")
    return contents, labels


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trains on one thread: for images this small two threads mostly wait for each other."""
    before = torch.get_num_threads()
    monkeypatch.setattr("training.train.available_cpus", lambda: 1)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_source() -> Callable[..., Arrays]:
    """make_source(count=40, seed=0, labeled=True, name="arrays") -> a source."""

    def make(
        count: int = 40, seed: int = 0, *, labeled: bool = True, name: str = "arrays"
    ) -> Arrays:
        contents, labels = colored(count, seed)
        return Arrays(name, contents, labels if labeled else None)

    return make


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., Recipe]:
    """make_recipe("table.key=value", ...) -> a recipe of 12 steps at 16 px."""

    def make(*overrides: str) -> Recipe:
        return load_recipe("small-cpu", [*TINY, *overrides])

    return make

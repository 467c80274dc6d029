"""Memory must not grow with the length of a run."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

from base.memory import resident_memory
from base.progress import Silent
from training.train import train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from training.recipes.recipe import Recipe


class Watch(Silent):
    """Notes memory (bytes) and live objects at some steps."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.memory, self.objects = steps, list[int](), list[int]()

    def update(self, done: int, figures: str = "") -> None:
        if figures and done in self.steps:
            gc.collect()
            self.memory.append(resident_memory() or 0)
            self.objects.append(len(gc.get_objects()))


@pytest.mark.skipif(resident_memory() is None, reason="needs Linux's /proc")
def test_memory_stays_flat_over_many_epochs(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe(
        "training.epochs=68", "training.evaluations=20", "training.checkpoint_minutes=0.005"
    )
    watch = Watch(60, 200, 340)
    train(make_source(), recipe, tmp_path, progress=watch)
    # Twice 140 steps: what is kept grows in both, while an allocator that has served other tests
    # before may take another block once. One kept batch of views is 0.1 MB, a kept graph more.
    first, second, third = watch.memory
    assert min(second - first, third - second) < 12 * 2**20
    first, second, third = watch.objects
    assert max(second - first, third - second) < 140  # less than one object a step

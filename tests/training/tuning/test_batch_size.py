from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from base.errors import UsageError
from base.progress import Silent
from training.tuning import batch_size
from training.tuning.batch_size import auto_batch_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.recipes.recipe import Recipe

CPU = torch.device("cpu")
GB = 2**30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """machine(room, per_picture, base=0, seconds=1) -> the sizes that will be tried on it."""

    def make(room: float, per_image: float, *, base: float = 0, seconds: float = 1.0) -> list[int]:
        tried: list[int] = []

        def measure(_r: object, _d: object, batch: int, _b: int) -> tuple[int | None, float]:
            tried.append(batch)
            peak = base + batch * per_image
            return (int(peak) if peak <= room else None), seconds * batch / 1024

        monkeypatch.setattr(batch_size, "_budget", lambda *_: room)
        monkeypatch.setattr(batch_size, "_measure", measure)
        return tried

    return make


@pytest.mark.parametrize(
    ("room", "per_image", "expected"),
    [(100, 1, 96), (64, 1, 64), (1000, 1, 768), (10_000, 1, 4096), (17, 1, 16)],
)
def test_the_largest_batch_that_fits_is_found(
    machine: Callable[..., list[int]],
    make_recipe: Callable[..., Recipe],
    room: int,
    per_image: int,
    expected: int,
) -> None:
    tried = machine(room, per_image)
    recipe = make_recipe("training.epochs=100000")
    fit = auto_batch_size(recipe, CPU, 100_000, Silent())
    assert fit.batch_size == expected
    assert list(fit.tried) == tried
    assert fit.reason == ("memory" if expected < 4096 else "the paper's largest is 4096")
    # a line through two sizes estimates the third, so that nothing beyond memory is tried
    assert max(tried) <= room or len(tried) <= 3


def test_small_sets_and_short_runs_keep_small_batches(
    machine: Callable[..., list[int]], make_recipe: Callable[..., Recipe]
) -> None:
    machine(1e9, 1)
    few = auto_batch_size(make_recipe("training.epochs=100000"), CPU, 300, Silent())
    assert (few.batch_size, few.reason) == (64, "there are 300 pictures")
    short = auto_batch_size(make_recipe("training.samples=10000"), CPU, 100_000, Silent())
    assert short.batch_size == 32
    assert "fewer than 200 steps" in short.reason


def test_a_slow_machine_is_not_kept_busy(
    machine: Callable[..., list[int]], make_recipe: Callable[..., Recipe]
) -> None:
    tried = machine(1e9, 1, seconds=100)
    fit = auto_batch_size(make_recipe("training.epochs=100000"), CPU, 100_000, Silent())
    assert (fit.batch_size, fit.reason) == (256, "a step takes 25 s")
    assert max(tried) == 256


def test_no_room_at_all_is_an_error(
    machine: Callable[..., list[int]],
    make_recipe: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(10, 1)
    with pytest.raises(UsageError, match="not even a batch of 16 fits"):
        auto_batch_size(make_recipe("training.epochs=100000"), CPU, 100_000, Silent())
    for name, value in (("RANK", 0), ("WORLD_SIZE", 2), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UsageError, match="give a number under torchrun"):
        auto_batch_size(make_recipe(), CPU, 100, Silent())


def test_real_steps_are_measured(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe("training.samples=12800", "data.image_size=32", "data.stored_size=32")
    fit = auto_batch_size(recipe, CPU, 256, Silent())
    assert fit.batch_size == 64
    assert list(fit.tried) == [16, 32, 64]
    peak = fit.tried[64]
    assert peak is not None
    # 128 views of 32 px in a narrow ResNet-18; next to nothing where freed memory is used again
    assert peak < GB

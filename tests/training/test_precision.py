"""The precision of a run whose recipe leaves it to the machine; no test depends on its speed."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.training.runs import Notes
from training import precision
from training.precision import settle_precision, step_seconds
from training.recipes.recipe_files import load_recipe
from training.run_folder.checkpoint import load_checkpoint
from training.train import train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from training.recipes.recipe import Recipe

CPU = torch.device("cpu")


@pytest.fixture
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.compute.cpu_flags", lambda: {"avx512_bf16"})


@pytest.mark.usefixtures("with_bf16")
@pytest.mark.parametrize(
    ("fp32", "bf16", "expected"),
    [(1.0, 0.5, "bf16"), (1.0, 2.0, "fp32"), (1.0, 0.98, "fp32")],
)
def test_the_faster_one_is_taken(
    make_recipe: Callable[..., Recipe], fp32: float, bf16: float, expected: str
) -> None:
    notes, recipe = Notes(), make_recipe("training.precision=auto")
    settled = settle_precision(recipe, CPU, notes, measure=lambda *_: {"fp32": fp32, "bf16": bf16})
    assert settled == make_recipe(f"training.precision={expected}")
    assert f"precision {expected}: a step of 16 pictures" in "\n".join(notes.lines)


def test_nothing_is_timed_where_nothing_is_to_be_settled(
    make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: Any) -> Any:
        raise AssertionError

    auto, fixed = make_recipe("training.precision=auto"), make_recipe("training.precision=bf16")
    assert settle_precision(fixed, CPU, Notes(), measure=measure) is fixed
    assert settle_precision(auto, torch.device("cuda"), Notes(), measure=measure) is auto
    monkeypatch.setattr("training.compute.cpu_flags", frozenset)  # where bf16 is emulated
    settled = settle_precision(auto, CPU, Notes(), measure=measure)
    assert settled.training.precision == "fp32"


def test_each_takes_steps_in_turns_and_the_fastest_counts(
    make_recipe: Callable[..., Recipe],
) -> None:
    durations = [5.0, 1.0, 2.0, 3.0, 4.0, 0.5]  # fp32, bf16, fp32, ...
    ticks = itertools.accumulate(itertools.chain.from_iterable((0.0, d) for d in durations))
    times = iter([0.0, *ticks])
    state = torch.get_rng_state()
    recipe = make_recipe("training.progressive=[[0.0, 8], [0.5, 16]]", "training.batch_size=32")
    seconds = step_seconds(recipe, CPU, clock=_without_budget(times))
    assert seconds == {"fp32": 2.0, "bf16": 0.5}
    assert torch.equal(torch.get_rng_state(), state)


def _without_budget(times: Any) -> Callable[[], float]:
    """Return the clock of that test, which stands still where the whole is looked at."""
    calls = itertools.count()

    def clock() -> float:
        call = next(calls)
        return 0.0 if call and call % 5 == 0 else float(next(times))

    return clock


@pytest.mark.usefixtures("with_bf16")
def test_a_run_keeps_what_was_settled_when_it_started(
    make_source: Callable[..., Any],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figures = iter([{"fp32": 1.0, "bf16": 0.5}])  # a second measurement would raise
    monkeypatch.setattr(precision, "step_seconds", lambda *_: next(figures))
    recipe, run, notes = make_recipe("training.precision=auto"), tmp_path / "run", Notes()
    result = train(make_source(), recipe, run, device="cpu", progress=notes)
    assert result.recipe.training.precision == "bf16"
    assert load_recipe(str(run / "recipe.toml")).training.precision == "bf16"
    assert load_checkpoint(run).recipe["training"]["precision"] == "bf16"
    assert "bfloat16 on cpu" in "\n".join(notes.lines)
    for again in (recipe, result.recipe):
        resumed = train(make_source(), again, run, device="cpu", resume=True)
        assert resumed.recipe == result.recipe

"""Training that is stopped and goes on: the run that would have been, bit for bit."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.training.runs import Interrupt, assert_same_run
from training.recipes.recipe_files import load_recipe
from training.run_folder.checkpoint import load_checkpoint, load_encoder
from training.train import TrainResult, train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from training.recipes.recipe import Recipe


@pytest.mark.parametrize("optimizer", ["adamw", "lars", "sgd"])
def test_a_stopped_and_resumed_run_is_the_run_that_would_have_been(
    optimizer: str,
    make_source: Callable[..., Any],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    # 15 steps of which every fifth ends an epoch; the stops are not at an epoch's end
    recipe = make_recipe(
        f"optimizer.name={optimizer}", "training.samples=120", "training.log_every=3"
    )
    source = make_source()
    train(source, recipe, tmp_path / "straight")
    run = tmp_path / "stopped"
    for resume, step in ((False, 3), (True, 9)):
        stopped = train(source, recipe, run, resume=resume, progress=Interrupt(step))
        assert (stopped.finished, stopped.step) == (False, step)
    assert train(source, recipe, run, resume=True).finished
    assert_same_run(tmp_path / "straight", run)


def test_two_threads_resume_bit_for_bit_too(
    make_source: Callable[..., Any],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.train.available_cpus", lambda: 2)
    recipe = make_recipe("training.samples=32", "training.log_every=1", "training.evaluations=0")
    train(make_source(), recipe, tmp_path / "straight")
    train(make_source(), recipe, tmp_path / "stopped", progress=Interrupt(2))
    assert load_checkpoint(tmp_path / "stopped").step == 2
    train(make_source(), recipe, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_a_stop_between_two_metrics_lines_keeps_the_loss_so_far(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    from training.trainer import Trainer

    recipe, source = make_recipe("training.log_every=4"), make_source()
    train(source, recipe, tmp_path / "straight")
    run, advance = tmp_path / "stopped", Trainer.advance

    def advance_and_stop(self: Trainer) -> None:
        advance(self)
        if self.step in {3, 6}:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", advance_and_stop)
        assert train(source, recipe, run).step == 3
        assert load_checkpoint(run).pending["steps"] == 3
        assert train(source, recipe, run, resume=True).step == 6
    train(source, recipe, run, resume=True)
    assert_same_run(tmp_path / "straight", run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_after_the_step_and_handlers_come_back(
    number: signal.Signals,
    make_source: Callable[..., Any],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    before = signal.getsignal(number)
    result = train(make_source(), make_recipe(), tmp_path / "run", progress=Interrupt(4, number))
    assert (result.finished, result.step) == (False, 4)
    assert load_checkpoint(tmp_path / "run").step == 4
    assert signal.getsignal(number) is before


@pytest.fixture
def usual_ctrl_c() -> Iterator[None]:
    """Python's own handler, which a shell that ignores SIGINT in the background leaves out."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_ctrl_c")
def test_a_second_ctrl_c_stops_at_once(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    class Twice(Interrupt):
        def update(self, done: int, figures: str = "") -> None:
            super().update(done, figures)
            super().update(done, figures)

    with pytest.raises(KeyboardInterrupt):
        train(make_source(), make_recipe(), tmp_path / "run", progress=Twice(4))
    assert load_checkpoint(tmp_path / "run").step == 0


def test_a_resumed_run_may_be_killed_before_its_first_step(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """A folder with a recipe and no checkpoint is a run that was killed while it decoded."""
    (tmp_path / "recipe.toml").write_text("half")
    result: TrainResult = train(make_source(), make_recipe(), tmp_path)
    assert result.finished
    assert load_recipe(tmp_path / "recipe.toml") == make_recipe()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_run_stops_and_resumes(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    source, recipe = make_source(), make_recipe()
    train(source, recipe, tmp_path, device="cuda", progress=Interrupt(4))
    assert train(source, recipe, tmp_path, device="cuda", resume=True).finished
    assert load_encoder(tmp_path).quality["loss"] < 3

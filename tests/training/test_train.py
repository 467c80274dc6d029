from __future__ import annotations

import dataclasses
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch

from images.errors import ArtefactError, UsageError
from training.checkpoint import describe, load_checkpoint, load_encoder, save_checkpoint
from training.errors import TrainingDivergedError
from training.metrics import read_metrics
from training.progress import Silent
from training.recipe_files import load_recipe
from training.train import TrainResult, train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from training.recipe import Recipe

TIMES = {"samples_per_s", "elapsed_s"}  # the figures that are not the same twice


class Interrupt(Silent):
    """Sends a signal to this process when the run reports some step."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def update(self, done: int, figures: str = "") -> None:
        if figures and done == self.step:
            os.kill(os.getpid(), self.number)


class Notes(Silent):
    """Keeps the lines that were said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def figures(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(run)]


def assert_same_run(one: Path, other: Path) -> None:
    a, b = load_checkpoint(one), load_checkpoint(other)
    for part in ("encoder", "head"):
        for key, value in getattr(a, part).items():
            assert torch.equal(value, getattr(b, part)[key]), key
    states = a.optimizer["state"], b.optimizer["state"]
    for number, state in states[0].items():
        for key, value in state.items():
            assert torch.equal(value, states[1][number][key]), (number, key)
    assert figures(one) == figures(other)
    assert (a.step, a.quality, a.pending) == (b.step, b.quality, b.pending)


def test_a_run_leaves_its_artefacts(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run = tmp_path / "a" / "run"
    recipe = make_recipe("training.samples=320", "training.log_every=5")
    notes = Notes()
    result = train(make_source(), recipe, run, reporter=notes)
    assert result.finished
    assert (result.step, result.steps, result.pictures, result.refused) == (40, 40, 40, ())
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoint.pt",
        "metrics.jsonl",
        "recipe.toml",
        "report.html",
        "tensorboard",
    ]
    assert load_recipe(run / "recipe.toml") == recipe
    lines = read_metrics(run)
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == list(range(5, 41, 5))
    assert training[-1].keys() == {"step", "samples", "epoch", "loss", "learning_rate", *TIMES}
    assert (training[-1]["samples"], training[-1]["epoch"]) == (320, 8.0)
    knn = {line["step"]: line["knn_accuracy"] for line in lines if "knn_accuracy" in line}
    assert list(knn) == [0, 20, 40]
    measured = {"alignment", "uniformity", "rankme", "feature_std"}
    assert result.quality.keys() == {"loss", "knn_accuracy", *measured}
    assert result.quality["loss"] == training[-1]["loss"]
    assert result.quality["knn_accuracy"] == knn[40]
    assert describe(run)["finished"]
    assert describe(run)["report"] == str(run / "report.html")
    assert load_encoder(run).quality == result.quality
    assert "40 pictures, resnet18 0.125x" in notes.lines[0]
    assert "16 px, 40 steps of 8, float32 on cpu" in notes.lines[0]


def test_training_brings_the_views_of_a_picture_together(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Against a run that sees the same views and does not move."""
    settings = ["training.batch_size=20", "training.samples=800", "training.evaluations=0"]
    settings += ["loss.temperature=0.5", "augmentation.grayscale=0"]
    settings += ["augmentation.jitter_probability=0"]  # colour is what tells these pictures apart
    losses = []
    for name, rate in (("moves", "2e-3"), ("stays", "1e-12")):
        recipe = make_recipe(*settings, f"schedule.learning_rate={rate}")
        train(make_source(), recipe, tmp_path / name)
        lines = read_metrics(tmp_path / name)
        losses.append(sum(line["loss"] for line in lines[len(lines) // 2 :]))
    assert losses[0] < 0.95 * losses[1]  # five seeds: 0.86 to 0.92


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
        stopped = train(source, recipe, run, resume=resume, reporter=Interrupt(step))
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
    train(make_source(), recipe, tmp_path / "stopped", reporter=Interrupt(2))
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
    result = train(make_source(), make_recipe(), tmp_path / "run", reporter=Interrupt(4, number))
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
        train(make_source(), make_recipe(), tmp_path / "run", reporter=Twice(4))
    assert load_checkpoint(tmp_path / "run").step == 0


def test_a_finished_run_is_left_as_it_is(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    first = train(make_source(), make_recipe(), tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    again = train(make_source(), make_recipe(), tmp_path, resume=True)
    assert dataclasses.replace(again, elapsed_s=first.elapsed_s) == first
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_run_of_a_version_with_fewer_recipe_keys_goes_on(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run, source, recipe = tmp_path / "run", make_source(), make_recipe()
    train(source, recipe, run, reporter=Interrupt(2))
    kept = load_checkpoint(run)
    tables = {**kept.recipe, "loss": {"temperature": kept.recipe["loss"]["temperature"]}}
    save_checkpoint(run, dataclasses.replace(kept, recipe=tables, recipe_digest="0" * 64))
    with pytest.raises(ArtefactError, match="another recipe"):
        train(source, make_recipe("loss.margin=0.5"), run, resume=True)
    assert train(source, recipe, run, resume=True).finished
    assert load_checkpoint(run).recipe_digest == recipe.digest


def test_a_run_is_not_overwritten_nor_joined_to_strangers(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run, source, recipe = tmp_path / "run", make_source(), make_recipe()
    with pytest.raises(UsageError, match="holds no run to resume: drop --resume"):
        train(source, recipe, run, resume=True)
    assert not run.exists()
    train(source, recipe, run, reporter=Interrupt(2))
    kept = (run / "checkpoint.pt").read_bytes()
    with pytest.raises(UsageError, match="already holds a run: add --resume"):
        train(source, recipe, run)
    other = make_recipe("loss.temperature=0.3")
    with pytest.raises(
        ArtefactError, match=r"another recipe \([0-9a-f]{12}, this one is [0-9a-f]{12}\)"
    ):
        train(source, other, run, resume=True)
    strangers: tuple[tuple[Any, dict[str, Any], str], ...] = (
        (make_source(seed=1), {}, r"as SOURCE \(40 of arrays, now 40 of arrays\)"),
        (source, {"limit": 20}, r"as SOURCE \(40 of arrays, now 20 of arrays\)"),
        (source, {"evaluation": make_source(10, 5)}, r"as --eval \(none, now 10 of arrays\)"),
    )
    for pictures, options, message in strangers:
        with pytest.raises(ArtefactError, match=message):
            train(pictures, recipe, run, resume=True, **options)
    assert (run / "checkpoint.pt").read_bytes() == kept


def test_a_folder_that_is_something_else_is_not_written_to(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    for out in ("photos", "file"):
        with pytest.raises(UsageError, match="exists and is no run folder: give another --out"):
            train(make_source(), make_recipe(), tmp_path / out)
    with pytest.raises(UsageError, match="cannot make the run folder"):
        train(make_source(), make_recipe(), tmp_path / "file" / "run")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["mine.jpg"]


def test_less_than_a_batch_is_refused_with_the_remedy(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"6 usable pictures, less than one batch of 8.*size 3"):
        train(make_source(6), make_recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_refused_pictures_are_listed_and_not_fatal(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    source = make_source()
    contents = [b"", *source.contents[1:-1], b"not a picture"]
    result = train(dataclasses.replace(source, contents=contents), make_recipe(), tmp_path)
    assert result.pictures == 38
    lines = [json.loads(line) for line in (tmp_path / "refused.jsonl").read_text().splitlines()]
    assert [(line["key"], line["reason"]) for line in lines] == [
        ("0000", "empty"),
        ("0039", "not-an-image"),
    ]
    assert describe(tmp_path)["source"]["refused"] == 2


def test_pictures_without_labels_train_as_well(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    notes = Notes()
    result = train(make_source(labelled=False), make_recipe(), tmp_path, reporter=notes)
    assert "the pictures have no labels: kNN accuracy is not measured, RankMe is" in notes.lines
    measured = {"alignment", "uniformity", "rankme", "feature_std"}
    assert result.quality.keys() == {"loss", *measured}
    last = [line for line in read_metrics(tmp_path) if "rankme" in line][-1]
    assert {name: last[name] for name in measured} == {
        name: result.quality[name] for name in measured
    }
    labelled = train(make_source(), make_recipe(), tmp_path / "labelled")
    assert labelled.quality["loss"] == result.quality["loss"]  # labels never touch the training


def test_a_run_that_collapses_raises_the_alarm(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    notes = Notes()
    recipe = make_recipe("schedule.learning_rate=30.0", "optimizer.weight_decay=0.1")
    train(make_source(), recipe, tmp_path, reporter=notes)
    alarms = [line for line in notes.lines if "the encoder has collapsed" in line]
    assert alarms[-1].startswith("step 12: ")
    assert "lower schedule.learning_rate (now 30)" in alarms[-1]


def test_an_evaluation_set_asks_the_training_pictures(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe()
    train(make_source(), recipe, tmp_path / "run", evaluation=make_source(12, seed=9))
    assert describe(tmp_path / "run")["evaluation"]["pictures"] == 12
    assert load_checkpoint(tmp_path / "run").quality["knn_accuracy"] > 0.5
    stranger = dataclasses.replace(make_source(4), labels=["cat", "dog"] * 2)
    for evaluation in (stranger, make_source(4, labelled=False)):
        with pytest.raises(UsageError, match="have no two labels in common"):
            train(make_source(), recipe, tmp_path / "other", evaluation=evaluation)


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe(
        "optimizer.name=sgd",
        "schedule.learning_rate=1e38",
        "schedule.warmup_fraction=0.5",
        "training.checkpoint_minutes=0",
    )
    with pytest.raises(TrainingDivergedError, match=r"diverged by step \d+.*lower schedule"):
        train(make_source(), recipe, tmp_path)
    kept = load_checkpoint(tmp_path)
    assert kept.step < 12
    assert all(bool(v.isfinite().all()) for v in {**kept.encoder, **kept.head}.values())


def test_a_resumed_run_may_be_killed_before_its_first_step(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """A folder with a recipe and no checkpoint is a run that was killed while it decoded."""
    (tmp_path / "recipe.toml").write_text("half")
    result: TrainResult = train(make_source(), make_recipe(), tmp_path)
    assert result.finished
    assert load_recipe(tmp_path / "recipe.toml") == make_recipe()


def test_a_large_cache_trains_the_same(
    make_source: Callable[..., Any],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train(make_source(), make_recipe(), tmp_path / "memory")
    monkeypatch.setattr("training.train.CACHE_IN_MEMORY", 1000)
    train(make_source(), make_recipe(), tmp_path / "file")
    assert (tmp_path / "file" / "cache" / "pixels.bin").exists()
    assert_same_run(tmp_path / "memory", tmp_path / "file")


def test_pictures_of_different_shapes_train_whole(
    make_source: Callable[..., Any],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = make_source()
    for number, content in enumerate(source.contents):
        source.contents[number] = content[: 14 + number % 10, : 24 - number % 7]
    train(source, make_recipe(), tmp_path / "memory")
    monkeypatch.setattr("training.train.CACHE_IN_MEMORY", 1000)
    train(source, make_recipe(), tmp_path / "file")
    assert_same_run(tmp_path / "memory", tmp_path / "file")
    squares = make_recipe("data.stored_shape=square")
    train(source, squares, tmp_path / "squares")
    digests = {load_checkpoint(tmp_path / run).source["digest"] for run in ("memory", "squares")}
    assert len(digests) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_run_stops_and_resumes(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    source, recipe = make_source(), make_recipe()
    train(source, recipe, tmp_path, device="cuda", reporter=Interrupt(4))
    assert train(source, recipe, tmp_path, device="cuda", resume=True).finished
    assert load_encoder(tmp_path).quality["loss"] < 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("settings", [(), ("data.cache=stream",), ("training.micro_batch=4",)])
def test_a_compiled_cuda_run_is_nearly_the_same(
    settings: tuple[str, ...],
    make_source: Callable[..., Any],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    losses = []
    for compiled in ("false", "true"):
        recipe = make_recipe(f"training.compile={compiled}", "training.precision=fp32", *settings)
        result = train(make_source(), recipe, tmp_path / compiled, device="cuda")
        losses.append(result.quality["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_compiled_network_is_the_same_network(
    make_source: Callable[..., Any],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through a compiler that writes no code: the real one takes a minute."""
    made = []

    def without_code(network: torch.nn.Module, **_: Any) -> Any:
        made.append(network)
        return compile_(network, backend="aot_eager", dynamic=False)

    compile_ = torch.compile
    monkeypatch.setattr("torch.compile", without_code)
    for compiled in ("false", "true"):
        recipe = make_recipe(f"training.compile={compiled}", "training.samples=32")
        train(make_source(), recipe, tmp_path / compiled)
    assert len(made) == 1
    one, other = (load_checkpoint(tmp_path / compiled) for compiled in ("false", "true"))
    assert one.encoder.keys() == other.encoder.keys()
    for key, value in one.encoder.items():
        torch.testing.assert_close(other.encoder[key], value, rtol=1e-3, atol=1e-4)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(UsageError, match="needs a C\\+\\+ compiler"):
        train(make_source(), make_recipe("training.compile=true"), tmp_path / "none")


def test_bf16_trains_where_it_is_asked_for(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe("training.precision=bf16", "training.samples=16")
    notes = Notes()
    train(make_source(16), recipe, tmp_path, reporter=notes)
    assert "bfloat16 on cpu" in notes.lines[0]
    weights = load_checkpoint(tmp_path).encoder.values()
    assert {w.dtype for w in weights if w.is_floating_point()} == {torch.float32}

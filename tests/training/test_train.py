from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from base.errors import ArtifactError, UsageError
from tests.training.runs import TIMES, Interrupt, Notes, assert_same_run
from training.data.sampling import hold_out
from training.errors import TrainingDivergedError
from training.recipes.recipe_files import load_recipe
from training.run_folder.checkpoint import load_checkpoint, load_encoder, save_checkpoint
from training.run_folder.description import describe
from training.run_folder.metrics import read_metrics
from training.train import train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from training.recipes.recipe import Recipe


def test_a_run_leaves_its_artifacts(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run = tmp_path / "a" / "run"
    recipe = make_recipe("training.samples=320", "training.log_every=5")
    notes = Notes()
    result = train(make_source(), recipe, run, progress=notes)
    assert result.finished
    assert (result.step, result.steps, result.images, result.refused) == (40, 40, 40, ())
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
    measured = {"alignment", "uniformity", "rankme", "feature_std", "view_recall"}
    labeled = {"knn_accuracy", "recall_at_1", "map_at_r"}
    assert result.quality.keys() == {"loss", *labeled, *measured}
    assert result.quality["loss"] == training[-1]["loss"]
    assert result.quality["knn_accuracy"] == knn[40]
    assert describe(run)["finished"]
    assert describe(run)["report"] == str(run / "report.html")
    assert load_encoder(run).quality == result.quality
    assert "40 pictures, resnet18 0.125x" in notes.lines[0]
    assert "16 px, 40 steps of 8, float32 on cpu" in notes.lines[0]


def test_training_brings_the_views_of_an_image_together(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Against a run that sees the same views and does not move."""
    settings = ["training.batch_size=20", "training.samples=800", "training.evaluations=0"]
    settings += ["loss.temperature=0.5", "augmentation.grayscale=0"]
    settings += ["augmentation.jitter_probability=0"]  # color is what tells these images apart
    losses = []
    for name, rate in (("moves", "2e-3"), ("stays", "1e-12")):
        recipe = make_recipe(*settings, f"schedule.learning_rate={rate}")
        train(make_source(), recipe, tmp_path / name)
        lines = read_metrics(tmp_path / name)
        losses.append(sum(line["loss"] for line in lines[len(lines) // 2 :]))
    assert losses[0] < 0.95 * losses[1]  # five seeds: 0.86 to 0.92


def test_a_finished_run_is_left_as_it_is(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    first = train(make_source(), make_recipe(), tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    again = train(make_source(), make_recipe(), tmp_path, resume=True)
    assert dataclasses.replace(again, elapsed_s=first.elapsed_s) == first
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_run_of_a_version_with_fewer_recipe_keys_resumes(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run, source, recipe = tmp_path / "run", make_source(), make_recipe()
    train(source, recipe, run, progress=Interrupt(2))
    kept = load_checkpoint(run)
    tables = {**kept.recipe, "loss": {"temperature": kept.recipe["loss"]["temperature"]}}
    save_checkpoint(run, dataclasses.replace(kept, recipe=tables, recipe_digest="0" * 64))
    with pytest.raises(ArtifactError, match="another recipe"):
        train(source, make_recipe("loss.margin=0.5"), run, resume=True)
    assert train(source, recipe, run, resume=True).finished
    assert load_checkpoint(run).recipe_digest == recipe.digest


def test_a_run_is_not_overwritten_nor_resumed_with_other_images(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run, source, recipe = tmp_path / "run", make_source(), make_recipe()
    with pytest.raises(UsageError, match="holds no run to resume: drop --resume"):
        train(source, recipe, run, resume=True)
    assert not run.exists()
    train(source, recipe, run, progress=Interrupt(2))
    kept = (run / "checkpoint.pt").read_bytes()
    with pytest.raises(UsageError, match="already holds a run: add --resume"):
        train(source, recipe, run)
    other = make_recipe("loss.temperature=0.3")
    with pytest.raises(
        ArtifactError, match=r"another recipe \([0-9a-f]{12}, this one is [0-9a-f]{12}\)"
    ):
        train(source, other, run, resume=True)
    changes: tuple[tuple[Any, dict[str, Any], str], ...] = (
        (make_source(seed=1), {}, r"as SOURCE \(40 of arrays, now 40 of arrays\)"),
        (source, {"limit": 20}, r"as SOURCE \(40 of arrays, now 20 of arrays\)"),
        (source, {"evaluation": make_source(10, 5)}, r"as --eval \(none, now 10 of arrays\)"),
    )
    for images, options, message in changes:
        with pytest.raises(ArtifactError, match=message):
            train(images, recipe, run, resume=True, **options)
    assert (run / "checkpoint.pt").read_bytes() == kept


def test_a_folder_that_is_something_else_is_not_written_to(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    for out in ("photos", "file"):
        with pytest.raises(UsageError, match="exists and is not a run folder: give another --out"):
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


def test_refused_images_are_listed_and_not_fatal(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    source = make_source()
    contents = [b"", *source.contents[1:-1], b"not a picture"]
    result = train(dataclasses.replace(source, contents=contents), make_recipe(), tmp_path)
    assert result.images == 38
    lines = [json.loads(line) for line in (tmp_path / "refused.jsonl").read_text().splitlines()]
    assert [(line["key"], line["reason"]) for line in lines] == [
        ("0000", "empty"),
        ("0039", "not-an-image"),
    ]
    assert all(list(line) == ["key", "reason", "message"] for line in lines)
    assert describe(tmp_path)["source"]["refused"] == 2


def test_images_without_labels_train_as_well(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    notes = Notes()
    result = train(make_source(labeled=False), make_recipe(), tmp_path, progress=notes)
    assert "the pictures have no labels: kNN accuracy is not measured, RankMe is" in notes.lines
    measured = {"alignment", "uniformity", "rankme", "feature_std", "view_recall"}
    assert result.quality.keys() == {"loss", *measured}
    last = [line for line in read_metrics(tmp_path) if "rankme" in line][-1]
    assert {name: last[name] for name in measured} == {
        name: result.quality[name] for name in measured
    }
    labeled = train(make_source(), make_recipe(), tmp_path / "labelled")
    assert labeled.quality["loss"] == result.quality["loss"]  # labels never touch the training


def test_a_run_that_collapses_raises_the_alarm(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    notes = Notes()
    recipe = make_recipe("schedule.learning_rate=30.0", "optimizer.weight_decay=0.1")
    train(make_source(), recipe, tmp_path, progress=notes)
    alarms = [line for line in notes.lines if "the encoder has collapsed" in line]
    assert alarms[-1].startswith("step 12: ")
    assert "lower schedule.learning_rate (now 30)" in alarms[-1]


def test_an_evaluation_set_asks_the_training_images(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe()
    train(make_source(), recipe, tmp_path / "run", evaluation=make_source(12, seed=9))
    assert describe(tmp_path / "run")["evaluation"]["pictures"] == 12
    assert load_checkpoint(tmp_path / "run").quality["knn_accuracy"] > 0.5
    unrelated = dataclasses.replace(make_source(4), labels=["cat", "dog"] * 2)
    for evaluation in (unrelated, make_source(4, labeled=False)):
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


def test_images_of_different_shapes_train_whole(
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


@pytest.mark.parametrize("labeled", [True, False])
def test_what_is_held_out_is_measured_on_and_not_trained_on(
    labeled: bool,
    make_source: Callable[..., Any],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    source, notes = make_source(100, labeled=labeled), Notes()
    recipe = make_recipe("training.held_out=0.7")
    train(source, recipe, tmp_path / "run", progress=notes)
    assert "100 pictures (70 of them held out of training)" in notes.lines[-1]
    baselines = load_checkpoint(tmp_path / "run").baselines
    origin = "pictures held out of training" if labeled else "views among views"
    assert baselines["drawn_from"] == origin
    out = set(hold_out(np.arange(100) % 2, 0.7, 8).tolist())
    blank = np.zeros((24, 24, 3), np.uint8)
    contents = [blank if n in out else image for n, image in enumerate(source.contents)]
    changed = dataclasses.replace(source, contents=contents)
    train(changed, recipe, tmp_path / "other")
    a, b = load_checkpoint(tmp_path / "run"), load_checkpoint(tmp_path / "other")
    assert all(torch.equal(value, b.encoder[name]) for name, value in a.encoder.items())
    if labeled:  # with --eval all images are trained on
        train(changed, recipe, tmp_path / "eval", evaluation=make_source(12, seed=9))
        c = load_checkpoint(tmp_path / "eval")
        assert not all(torch.equal(value, c.encoder[name]) for name, value in a.encoder.items())

"""A run that learns a teacher's embeddings, and one that keeps its start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from base.errors import ArtifactError, UsageError
from images.pixels.preprocess import PreprocessSpec
from tests.training.runs import Interrupt, assert_same_run
from training.kept_weights import update_kept
from training.protocols.retrieval import QueryScores
from training.recipes.build_model import build_model
from training.recipes.recipe_files import load_recipe
from training.report.monitor import Measurement
from training.run_folder.checkpoint import load_checkpoint, load_encoder
from training.run_folder.metrics import read_metrics
from training.train import train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from training.recipes.recipe import Recipe


class Colors:
    """A teacher that sees the mean color and the darkest corner of an image."""

    digest = "c" * 64
    embedding_dim = 6
    preprocess = PreprocessSpec(size=12)

    def __init__(self) -> None:
        self.images = 0

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert images.shape[1:] == (12, 12, 3)
        self.images += len(images)
        rows = np.concatenate([images.mean((1, 2)), images[:, :3, :3].min((1, 2))], 1)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows, np.float32)


TAUGHT = ("teacher.encoder=colors.onnx", "teacher.embedding_dim=4", "teacher.neighbors=3")


def test_a_student_gives_its_teachers_embeddings_and_resumes_bit_for_bit(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe(*TAUGHT, "adaptation.average=0.9")
    whole, teacher = tmp_path / "whole", Colors()
    result = train(make_source(), recipe, whole, teacher=teacher)
    assert teacher.images == 40
    assert result.recipe.teacher.sha256 == Colors.digest
    encoder = load_encoder(whole)
    assert encoder.module.feature_dim == 4
    images = torch.rand(2, 3, 16, 16)
    averaged = load_checkpoint(whole).averaged
    assert averaged is not None
    with torch.inference_mode():
        h = encoder.module.encoder(images)  # type: ignore[operator]
        expected = h @ averaged["imitation.weight"].T + averaged["imitation.bias"]
        torch.testing.assert_close(encoder.module(images), expected)

    halves = tmp_path / "halves"
    train(make_source(), recipe, halves, teacher=Colors(), progress=Interrupt(5))
    again = Colors()
    train(make_source(), recipe, halves, resume=True, teacher=again)
    assert again.images == 0  # its embeddings were kept
    assert_same_run(halves, whole)


def test_the_distillation_loss_falls(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    settings = ("training.samples=640", "training.log_every=1", "augmentation.jitter_probability=0")
    recipe = make_recipe(*TAUGHT, *settings, "augmentation.grayscale=0")
    train(make_source(), recipe, tmp_path / "run", teacher=Colors())
    losses = [line["loss"] for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:3])  # five seeds: below 0.5


def test_another_teacher_than_the_recipes_is_refused(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe(*TAUGHT, f"teacher.sha256={'d' * 64}")
    with pytest.raises(ArtifactError, match="not the teacher of this recipe"):
        train(make_source(), recipe, tmp_path / "run", teacher=Colors())
    with pytest.raises(UsageError, match="go together"):
        train(make_source(), make_recipe(*TAUGHT), tmp_path / "run")


def test_a_run_that_gains_nothing_keeps_its_start(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    settings = ["training.held_out=0.3", "adaptation.keep_best=true"]
    settings += ["adaptation.keep_statistics=true", "schedule.learning_rate=1e-12"]
    recipe = make_recipe(*settings)
    run = tmp_path / "run"
    result = train(make_source(), recipe, run)
    checkpoint = load_checkpoint(run)
    assert checkpoint.kept is not None
    assert checkpoint.kept["step"] == 0
    assert result.measured_at["map_at_r"] == 0
    weights = load_encoder(run).module.state_dict()["conv1.weight"]
    torch.testing.assert_close(weights, checkpoint.kept["model"]["encoder.conv1.weight"])


def test_weights_are_kept_where_queries_gained_beyond_chance(
    make_recipe: Callable[..., Recipe],
) -> None:
    model = build_model(make_recipe(), torch.device("cpu"))
    random = np.random.default_rng(0)
    start = random.uniform(0, 0.5, 100)

    def seen(
        precisions: NDArray[np.float64],
        hits: NDArray[np.float64] | None = None,
        unmapped: NDArray[np.float64] | None = None,
    ) -> Measurement:
        features = np.zeros((0, 0), np.float32)
        hits = np.ones_like(precisions) if hits is None else hits
        plain = None if unmapped is None else QueryScores(np.ones_like(unmapped), unmapped)
        return Measurement(
            figures={},
            features=features,
            alarm=None,
            queries=QueryScores(hits, precisions),
            unmapped=plain,
        )

    kept = update_kept(None, model, seen(start), 0)
    noise = random.normal(0.005, 0.2, 100)  # a gain of chance
    assert update_kept(kept, model, seen(start + noise), 10) is kept
    better = update_kept(kept, model, seen(start + 0.1), 20)
    assert better["step"] == 20
    assert update_kept(better, model, seen(start + 0.05), 30) is better
    assert update_kept(better, model, seen(start + 0.2), 40)["step"] == 40
    fewer_hits = seen(start + 0.2, np.arange(100, dtype=np.float64) % 2)
    assert update_kept(better, model, fewer_hits, 40) is better
    without = update_kept(better, model, seen(start, unmapped=start + 0.2), 50)
    assert (without["step"], without["mapped"]) == (50, False)
    nothing = np.zeros(0)  # without labels
    unlabeled = update_kept(None, model, seen(nothing), 0)
    assert update_kept(unlabeled, model, seen(nothing), 10) is unlabeled


def test_a_recipe_without_the_new_tables_has_the_digest_it_had() -> None:
    plain = load_recipe("small-cpu")
    assert load_recipe("small-cpu", ["adaptation.frozen=0"]).digest == plain.digest
    assert load_recipe("small-cpu", ["adaptation.frozen=0.5"]).digest != plain.digest
    assert load_recipe("small-cpu", ["teacher.encoder=a.onnx"]).digest != plain.digest


def test_a_start_is_its_own_teacher_and_is_used_whole_where_nothing_was_gained(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    start = tmp_path / "start"
    train(make_source(), make_recipe(), start)
    settings = ["teacher.encoder=start", "teacher.image_size=20", "teacher.embedding_dim=200"]
    settings += ["adaptation.keep_best=true", "training.held_out=0.3"]
    settings += [f"encoder.weights={start}", "schedule.learning_rate=1e-12"]
    recipe = make_recipe(*settings)
    run = tmp_path / "run"
    result = train(make_source(), recipe, run)
    assert result.recipe.teacher.embedding_dim == 64  # no more than there are features
    assert result.verdict is not None
    assert result.verdict.verdict == "learned nothing"
    adapted, before = load_encoder(run), load_encoder(start)
    assert adapted.preprocess.size == 20
    images = torch.rand(2, 3, 20, 20)
    with torch.inference_mode():
        torch.testing.assert_close(adapted.module(images), before.module(images))
    assert train(make_source(), result.recipe, run, resume=True).finished


def test_what_a_start_teaches_is_used_with_its_map_where_it_helps(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    start = tmp_path / "start"
    train(make_source(), make_recipe(), start)
    settings = ["teacher.encoder=start", "teacher.embedding_dim=8", f"encoder.weights={start}"]
    run = tmp_path / "run"
    result = train(make_source(), make_recipe(*settings), run)
    assert result.recipe.teacher.image_size == 16
    assert load_encoder(run).module.feature_dim == 8

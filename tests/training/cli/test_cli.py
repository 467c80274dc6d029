from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from base.errors import ArtifactError, SourceError, UsageError
from training.cli.cli import app
from training.errors import RecipeError
from training.recipes.recipe_files import load_recipe, save_recipe
from training.run_folder.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from training.recipes.recipe import Recipe


@pytest.fixture
def workspace(
    make_source: Callable[..., Any],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The current folder, with photos/ and tiny.toml."""
    for item in make_source():
        path = tmp_path / "photos" / str(item.label) / f"{item.key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(item.read()).save(path)
    save_recipe(tmp_path / "tiny.toml", make_recipe())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", *arguments])  # type: ignore[return-value]


def test_a_run_with_its_figures_for_machines(workspace: Path) -> None:
    result = call("photos", "--recipe", "tiny.toml", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["run"] == "runs/photos-tiny"
    assert (report["finished"], report["step"], report["steps"]) == (True, 12, 12)
    assert (report["samples"], report["pictures"], report["refused"]) == (96, 40, 0)
    assert report["quality"].keys() >= {"loss", "knn_accuracy"}
    assert report["recipe_digest"] == load_checkpoint(workspace / "runs/photos-tiny").recipe_digest
    assert "next: lookalike export runs/photos-tiny --out encoder.onnx" in result.stdout
    assert "training 12/12" in result.stderr
    assert "training 12/12" not in result.stdout


def test_the_images_choose_the_recipe_and_say_so(workspace: Path) -> None:
    small = ["--set", "training.batch_size=8", "--set", "training.samples=8"]
    small += ["--set", "encoder.width=0.125", "--set", "data.stored_size=64"]
    result = call("photos", *small)
    assert result.exit_code == 0, result.output
    assert "recipe small-cpu: photographs" in result.stderr
    assert "cifar10, cifar10-resnet18, grey-cpu, imagenet, imagenet-v2" in result.stderr
    run = workspace / "runs" / "photos-small-cpu"
    assert load_recipe(run / "recipe.toml").training.samples == 8
    again = call("photos", "--resume")
    assert again.exit_code == 0, again.output
    assert "step 1 of 1" in again.stdout


def test_a_small_source_gets_small_batches_unless_asked(workspace: Path) -> None:
    few = ["--recipe", "tiny.toml", "--limit", "12", "--out"]
    sized = call("photos", *few, "halved", "--set", "training.samples=8")
    assert sized.exit_code == 0, sized.output
    assert "instead of" not in sized.stderr  # 12 images make a batch of 8
    wide = (workspace / "tiny.toml").read_text().replace("batch_size = 8", "batch_size = 64")
    (workspace / "tiny.toml").write_text(wide)
    halved = call("photos", *few, "small")
    assert halved.exit_code == 0, halved.output
    assert "batches of 4 instead of 64: there are 12 pictures" in halved.stderr
    assert load_recipe(workspace / "small" / "recipe.toml").training.batch_size == 4
    requested = call("photos", *few, "asked", "--set", "training.batch_size=16")
    assert isinstance(requested.exception, UsageError)


def test_a_stopped_run_says_how_to_go_on(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    from training.trainer import Trainer

    advance = Trainer.advance

    def advance_and_stop(self: Trainer) -> None:
        advance(self)
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "advance", advance_and_stop)
    result = call(
        "photos", "--recipe", "tiny.toml", "--out", "my run", "--limit", "30", "--eval", "photos"
    )
    assert result.exit_code == 130
    line = next(line for line in result.stdout.splitlines() if line.startswith("stopped"))
    command = "lookalike train photos --out 'my run' --limit 30 --eval photos --resume"
    assert line == f"stopped; resume with: {command}"
    resumed = call("photos", "--out", "my run", "--limit", "30", "--eval", "photos", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert load_checkpoint(workspace / "my run").step == 12


def test_refused_images_give_a_table_and_exit_code_1(workspace: Path) -> None:
    for number in range(12):
        (workspace / "photos" / "red" / f"bad{number:02}.jpg").write_bytes(b"no picture")
    result = call("photos", "--recipe", "tiny.toml", "--out", "run")
    assert result.exit_code == 1, result.output
    assert "12 pictures refused" in result.stderr
    assert "red/bad00.jpg" in result.stderr
    assert "red/bad11.jpg" not in result.stderr
    assert "all of them: run/refused.jsonl" in result.stderr
    assert len((workspace / "run" / "refused.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("nowhere",), SourceError),
        (("photos", "--recipe", "smal-cpu"), RecipeError),
        (("photos", "--set", "training.batchsize=3"), RecipeError),
        (("photos", "--recipe", "tiny.toml", "--device", "tpu"), UsageError),
        (("photos", "--recipe", "tiny.toml", "--resume"), UsageError),
        (("photos", "--recipe", "tiny.toml", "--limit", "3"), UsageError),
        (("photos", "--recipe", "tiny.toml", "--eval", "nowhere"), SourceError),
        (("photos", "--recipe", "tiny.toml", "--out", "photos"), UsageError),
        (("text",), SourceError),
        (("photos", "--out", "broken", "--resume"), ArtifactError),
        (("photos", "--recipe", "tiny.toml", "--batch-size", "many"), UsageError),
        (("photos", "--recipe", "tiny.toml", "--weights", "nothing.pt"), UsageError),
        (("photos", "--recipe", "tiny.toml", "--plot", "curve.png"), UsageError),
    ],
)
def test_bad_arguments_are_errors_of_the_tree(
    workspace: Path, arguments: tuple[str, ...], error: type[Exception]
) -> None:
    (workspace / "text").mkdir()
    (workspace / "text" / "notes.md").write_text("words")
    (workspace / "broken").mkdir()
    (workspace / "broken" / "recipe.toml").write_text((workspace / "tiny.toml").read_text())
    (workspace / "broken" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    result = call(*arguments)
    assert isinstance(result.exception, error), result.output
    assert "\n" not in str(result.exception)


def test_help_ends_with_an_example() -> None:
    result = call("--help")
    assert result.exit_code == 0
    assert "Example: lookalike train photos/ --out runs/photos" in result.output


def test_lists_need_no_source() -> None:
    result = call("--list")
    assert result.exit_code == 0
    for word in ("small-cpu", "resnet152", "convnext_tiny", "timm:NAME"):
        assert word in result.stdout


def test_a_batch_size_is_short_for_a_setting(workspace: Path) -> None:
    result = call("photos", "--recipe", "tiny.toml", "--out", "run", "--batch-size", "10")
    assert result.exit_code == 0, result.output
    assert load_recipe(workspace / "run" / "recipe.toml").training.batch_size == 10


def test_a_measured_batch_is_written_down_and_not_measured_again(workspace: Path) -> None:
    auto = ("photos", "--out", "run", "--batch-size", "auto", "--device", "cpu")
    length = ("--recipe", "tiny.toml", "--set", "training.samples=1600")
    result = call(*auto, *length, "--set", "schedule.scaling=linear")
    assert result.exit_code == 0, result.output
    assert "batches of 8, learning rate 6.25e-05 (linear scaling)" in result.stderr
    assert "fewer than 200 steps" in result.stderr
    assert load_recipe(workspace / "run" / "recipe.toml").training.batch_size == 8
    again = call(*auto, "--resume")
    assert again.exit_code == 0, again.output
    assert "batch of" not in again.stderr


def test_a_run_starts_from_weights_with_their_mean_and_std(workspace: Path) -> None:
    import torch

    from training.models.encoders import build_encoder

    recipe = load_recipe("tiny.toml")
    encoder = build_encoder("resnet18", width=recipe.encoder.width, stem="small-stride2")
    torch.save(encoder.state_dict(), "weights.pt")
    start = ("photos", "--recipe", "tiny.toml", "--weights", "weights.pt")
    result = call(*start, "--out", "run")
    assert result.exit_code == 0, result.output
    assert "starting from weights.pt: " in result.stderr
    assert "as the network of those weights: data.mean" in result.stderr
    written = load_recipe(workspace / "run" / "recipe.toml")
    assert written.data.std != recipe.data.std
    assert written.encoder.weights_sha256 is not None
    own = call(*start, "--out", "own", "--set", "data.mean=[0, 0, 0]")
    assert own.exit_code == 0, own.output
    assert load_recipe(workspace / "own" / "recipe.toml").data == recipe.data


def test_learning_rates_are_tried_without_a_run(workspace: Path) -> None:
    finder = (
        "photos",
        "--recipe",
        "tiny.toml",
        "--find-lr",
        "--device",
        "cpu",
        "--batch-size",
        "32",
    )
    result = call(*finder, "--plot", "curve.png", "--json")
    assert result.exit_code == 0, result.output
    finding = json.loads(result.stdout.splitlines()[-1])
    assert f"--set schedule.learning_rate={finding['learning_rate']:.2g}" in result.stdout
    assert (workspace / "curve.png").is_file()
    assert "▲" in result.stderr
    assert not (workspace / "runs").exists()

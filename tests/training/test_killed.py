"""Real processes that are killed or interrupted, and the runs they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from images.sources.sources import open_source
from training.recipes.recipe_files import load_recipe
from training.run_folder.checkpoint import load_checkpoint
from training.run_folder.metrics import read_metrics
from training.train import train

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]

# Trains as the command line does, on one CPU, and dies by SIGKILL in the middle of something.
KILLED = """
import io, os, signal, sys
import torch
import training.train
from training.cli.cli import app
from training.trainer import Trainer

source, run, when, at, *options = sys.argv[1:]
advance, save = Trainer.advance, torch.save
training.train.available_cpus = lambda: 1

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def advance_or_die(self):
    advance(self)
    if when == "step" and self.step == int(at):
        die()

def save_or_die(content, file):
    if when == "save" and content["step"] == int(at):
        whole = io.BytesIO()
        save(content, whole)
        file.write(whole.getvalue()[:-1000])
        file.flush()
        die()
    save(content, file)

Trainer.advance, torch.save = advance_or_die, save_or_die
app(["train", source, "--out", run, *options])
"""


@pytest.fixture
def folder(make_source: Callable[..., Any], tmp_path: Path) -> Path:
    for item in make_source():
        path = tmp_path / "photos" / str(item.label) / f"{item.key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(item.read()).save(path)
    return tmp_path / "photos"


@pytest.fixture
def settings(make_recipe: Callable[..., Any], tmp_path: Path) -> list[str]:
    from training.recipes.recipe_files import save_recipe

    save_recipe(tmp_path / "tiny.toml", make_recipe("training.checkpoint_minutes=0"))
    return ["--recipe", str(tmp_path / "tiny.toml")]


def python(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_a_run_killed_twice_ends_as_the_run_that_was_not(
    folder: Path, settings: list[str], tmp_path: Path
) -> None:
    recipe, run = load_recipe(tmp_path / "tiny.toml"), tmp_path / "killed"
    kills = (("step", "5", 4, ()), ("save", "8", 7, ("--resume",)))
    for when, at, kept, resume in kills:
        process = python("-c", KILLED, str(folder), str(run), when, at, *settings, *resume)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, output
        assert load_checkpoint(run).step == kept
    assert any(path.suffix == ".tmp" for path in run.iterdir())  # the half-written checkpoint
    train(open_source(folder), recipe, run, resume=True)
    assert not any(path.suffix == ".tmp" for path in run.iterdir())
    train(open_source(folder), recipe, tmp_path / "straight")
    one, other = load_checkpoint(run), load_checkpoint(tmp_path / "straight")
    assert all(torch.equal(one.encoder[key], other.encoder[key]) for key in one.encoder)
    assert all(torch.equal(one.head[key], other.head[key]) for key in one.head)
    lines, expected = read_metrics(run), read_metrics(tmp_path / "straight")
    for key in ("step", "samples", "loss", "learning_rate", "knn_accuracy"):
        assert [line.get(key) for line in lines] == [line.get(key) for line in expected], key


def test_ctrl_c_ends_a_command_with_a_run_to_resume(
    folder: Path, settings: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    long = ("--set", "training.samples=100_000_000", "--set", "training.checkpoint_minutes=60")
    command = ["-m", "lookalike", "train", str(folder), "--out", str(run), *settings, *long]
    process = python(*command)
    deadline = time.monotonic() + 120
    while not any(line["step"] >= 2 for line in read_metrics(run)) and process.poll() is None:
        assert time.monotonic() < deadline, "the command did not start training"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert f"resume with: lookalike train {folder} --out {run} --resume" in output
    kept = load_checkpoint(run)
    assert kept.step >= 2
    assert max(line["step"] for line in read_metrics(run)) <= kept.step

"""A run that is killed again and again at random moments ends as the run that never was.

KILLS=20 python -m pytest tests/training/test_killed_often.py is the long form.
"""

from __future__ import annotations

import os
import random
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
from training.recipes.recipe_files import save_recipe
from training.run_folder.checkpoint import has_run, load_checkpoint
from training.run_folder.metrics import read_metrics
from training.train import train

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.recipes.recipe import Recipe

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("KILLS", "2"))
STEPS, KILLED = 60, 50  # the last kill must find the run at work

# The command on one CPU. It saves after nearly every step, and steps take a moment: so that a
# random moment of its life is one of training or saving and not of importing torch.
COMMAND = """
import sys, time
import training.train
from training.cli.cli import app
from training.trainer import Trainer

advance = Trainer.advance
training.train.available_cpus = lambda: 1

def advance_slowly(self):
    time.sleep(0.02)
    advance(self)

Trainer.advance = advance_slowly
app(["train", *sys.argv[1:]])
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def steps_of(run: Path) -> int:
    return int(max((line["step"] for line in read_metrics(run)), default=0))


@pytest.mark.slow
@pytest.mark.timeout(60 + 30 * KILLS)
def test_a_run_killed_at_random_moments_ends_as_the_run_that_was_not(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    for item in make_source():
        path = tmp_path / "photos" / str(item.label) / f"{item.key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(item.read()).save(path)
    recipe = make_recipe(
        f"training.samples={8 * STEPS}", "training.checkpoint_minutes=0", "training.log_every=1"
    )
    save_recipe(tmp_path / "tiny.toml", recipe)
    run, draw = tmp_path / "killed", random.Random(KILLS)
    command = [str(tmp_path / "photos"), "--recipe", str(tmp_path / "tiny.toml"), "--out", str(run)]
    for kill in range(KILLS):
        process = start(*command, *(["--resume"] if has_run(run) else []))
        # past a random step of the stretch that this kill may take, then at any moment of a step
        target = draw.randrange(KILLED * kill // KILLS, KILLED * (kill + 1) // KILLS)
        deadline = time.monotonic() + 100
        while steps_of(run) < target and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.03)
        time.sleep(draw.random() * 0.1)
        assert process.poll() is None, process.communicate()[0]
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        if has_run(run):
            assert load_checkpoint(run).step >= target - 1  # whole, and nothing finished is lost
    source = open_source(str(tmp_path / "photos"))
    assert train(source, recipe, run, resume=True).finished
    train(source, recipe, tmp_path / "straight")
    one, other = load_checkpoint(run), load_checkpoint(tmp_path / "straight")
    assert all(torch.equal(one.encoder[key], value) for key, value in other.encoder.items())
    assert all(torch.equal(one.head[key], value) for key, value in other.head.items())
    for key in ("step", "loss", "learning_rate", "knn_accuracy"):
        lines, expected = read_metrics(run), read_metrics(tmp_path / "straight")
        assert [line.get(key) for line in lines] == [line.get(key) for line in expected], key

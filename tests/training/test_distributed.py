"""Two real processes that train as one, against one process with the same global batches."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from images.errors import UsageError
from images.sources import open_source
from training.cache import decode_source
from training.checkpoint import Checkpoint, load_checkpoint
from training.distributed import ALONE
from training.launch import Launch, launch_of
from training.metrics import read_metrics
from training.recipe_files import load_recipe, save_recipe
from training.train import train
from training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.recipe import Recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def together(code: str, *arguments: str, world: int = 2) -> list[tuple[int, str, str]]:
    """Runs code in processes as torchrun starts them; returns how each one ended."""
    port = str(free_port())
    processes = []
    for rank in range(world):
        names = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
        environment = {**os.environ, **{k: str(v) for k, v in names.items()}}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", code, *arguments],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    answers = [process.communicate(timeout=120) for process in processes]
    return [
        (process.returncode, output, errors)
        for process, (output, errors) in zip(processes, answers, strict=True)
    ]


# One step after the other in each kind of recipe; rank 0 keeps what came of it.
STEPS = """
import sys
from pathlib import Path
import torch
from torch import nn
from images.sources import open_source
from training.cache import decode_source
from training.distributed import joined
from training.global_batch_norm import globalise
from training.recipe_files import load_recipe
from training.trainer import Trainer

torch.set_num_threads(1)
source, out, *names = map(Path, sys.argv[1:])
with joined(torch.device("cpu")) as ranks:
    kept = {}
    for name in names:
        recipe = load_recipe(str(name))
        pictures = decode_source(open_source(str(source)), recipe.data.stored)
        trainer = Trainer(recipe, pictures, torch.device("cpu"), ranks)
        trainer.advance()
        gradients = [p.grad.clone() for p in trainer.model.parameters()]
        losses = [trainer.take_loss()]
        while trainer.step < trainer.steps:
            trainer.advance()
            losses.append(trainer.take_loss())
        kept[name.stem] = (losses, gradients, trainer.model.state_dict())
    whole = torch.load(out / "norms.pt")
    for name, x in whole.items():
        norm = nn.Sequential(nn.BatchNorm1d(3) if x.ndim == 2 else nn.BatchNorm2d(3))
        if name == "no bias":
            norm[0].register_parameter("bias", None)
        globalise(norm)
        mine = x.chunk(ranks.world)[ranks.rank].clone().requires_grad_()
        y = norm(mine)
        (y * mine.detach().sin()).sum().backward()
        weight = norm[0].weight.grad
        ranks.sum_(weight)
        parts = [ranks.gather(t).flatten(0, 1) for t in (y.detach(), mine.grad)]
        kept[name] = [*parts, weight, *norm.state_dict().values()]
    if ranks.leads:
        torch.save(kept, out / "kept.pt")
"""

RECIPES = {
    "plain": ("loss.temperature=0.2",),
    "lars": ("optimizer.name=lars", "schedule.learning_rate=0.5", "head.kind=v2"),
    "chunks": ("training.micro_batch=4", "loss.name=decoupled"),
    "semi": ("loss.name=nt-logistic", "loss.semi_hard=true", "encoder.stem=small"),
}


@pytest.fixture
def folder(make_source: Callable[..., Any], tmp_path: Path) -> Path:
    for item in make_source():
        path = tmp_path / "photos" / str(item.label) / f"{item.key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(item.read()).save(path)
    return tmp_path / "photos"


@pytest.fixture
def recipe_file(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, *overrides: str) -> Path:
        save_recipe(tmp_path / f"{name}.toml", make_recipe(*overrides))
        return tmp_path / f"{name}.toml"

    return write


def norms() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(8, 3, 5, 4, generator=generator) * 2 + 3
    return {
        "planes": pictures,
        "channels last": pictures.to(memory_format=torch.channels_last),
        "rows": torch.randn(8, 3, generator=generator),
        "no bias": torch.randn(6, 3, generator=generator),
    }


def alone(name: str, x: Tensor) -> list[Tensor]:
    """What one process's batch norm makes of the whole batch."""
    norm = nn.BatchNorm1d(3) if x.ndim == 2 else nn.BatchNorm2d(3)
    if name == "no bias":
        norm.register_parameter("bias", None)
    x = x.clone().requires_grad_()
    y = norm(x)
    (y * x.detach().sin()).sum().backward()
    assert x.grad is not None
    assert norm.weight.grad is not None
    return [y.detach(), x.grad, norm.weight.grad, *norm.state_dict().values()]


def test_two_processes_step_like_one(
    folder: Path, recipe_file: Callable[..., Path], tmp_path: Path
) -> None:
    torch.save(norms(), tmp_path / "norms.pt")
    files = [recipe_file(name, "training.samples=32", *s) for name, s in RECIPES.items()]
    for code, _, errors in together(STEPS, str(folder), str(tmp_path), *map(str, files)):
        assert code == 0, errors
    kept = torch.load(tmp_path / "kept.pt")
    for file in files:
        recipe = load_recipe(str(file))
        pictures = decode_source(open_source(str(folder)), recipe.data.stored)
        trainer = Trainer(recipe, pictures, torch.device("cpu"), ALONE)
        trainer.advance()
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        losses, theirs, state = kept[file.stem]
        assert losses[0] == pytest.approx(trainer.take_loss(), rel=1e-6)
        assert len(theirs) == len(gradients)
        for one, other in zip(theirs, gradients, strict=True):
            torch.testing.assert_close(
                one, other, rtol=1e-4, atol=2e-6 * float(other.abs().max()) + 1e-9
            )
        for loss in losses[1:]:
            trainer.advance()
            assert loss == pytest.approx(trainer.take_loss(), rel=1e-4)
        for key, value in trainer.model.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=1e-3, atol=1e-4, msg=key)
    for name, x in norms().items():
        for one, other in zip(kept[name], alone(name, x), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


# A run in which something happens to the process of some rank at some step.
RUN = """
import os, signal, sys
from pathlib import Path
import training.train
from images.sources import open_source
from training.recipe_files import load_recipe
from training.train import train
from training.trainer import Trainer

source, recipe, run, what, rank, step = sys.argv[1:]
advance, fetch = Trainer.advance, Trainer.fetch
training.train.available_cpus = lambda: 1

def is_due(self):
    return os.environ["RANK"] == rank and self.step == int(step)

def advance_and_stop(self):
    advance(self)
    if what == "signal" and is_due(self):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

def fetch_or_fail(self):
    if what == "fail" and is_due(self):
        raise OSError("the disk is gone")
    fetch(self)

Trainer.advance, Trainer.fetch = advance_and_stop, fetch_or_fail
result = train(
    open_source(source), load_recipe(recipe), Path(run), resume=Path(run, "checkpoint.pt").exists()
)
print(result.step, result.finished)
"""


def test_a_run_goes_on_with_another_number_of_processes(
    folder: Path, recipe_file: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = recipe_file("tiny", "training.log_every=1")
    run = tmp_path / "run"
    told = together(RUN, str(folder), str(recipe), str(run), "signal", "1", "4")
    assert [(code, output) for code, output, _ in told] == [(0, "4 False\n")] * 2, told
    stopped = train_until(8, folder, recipe, run)
    assert (stopped.step, stopped.steps) == (8, 12)
    told = together(RUN, str(folder), str(recipe), str(run), "nothing", "0", "0")
    assert [(code, output) for code, output, _ in told] == [(0, "12 True\n")] * 2, told
    train(open_source(str(folder)), load_recipe(str(recipe)), tmp_path / "straight")
    one, other = load_checkpoint(run), load_checkpoint(tmp_path / "straight")
    for key, value in other.encoder.items():
        torch.testing.assert_close(one.encoder[key], value, rtol=1e-2, atol=1e-3, msg=key)
    lines, expected = read_metrics(run), read_metrics(tmp_path / "straight")
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for line, wanted in zip(lines, expected, strict=True):
        if "loss" in wanted:
            assert line["loss"] == pytest.approx(wanted["loss"], rel=1e-3)


def train_until(step: int, folder: Path, recipe: Path, run: Path) -> Checkpoint:
    """One process goes on with the run and is interrupted."""
    import signal

    advance = Trainer.advance

    def advance_and_stop(self: Trainer) -> None:
        advance(self)
        if self.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", advance_and_stop)
        train(open_source(str(folder)), load_recipe(str(recipe)), run, resume=True)
    return load_checkpoint(run)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_all_processes_end_when_one_fails_between_two_steps(
    rank: str, folder: Path, recipe_file: Callable[..., Path], tmp_path: Path
) -> None:
    recipe, run = recipe_file("tiny", "training.checkpoint_minutes=60"), tmp_path / "run"
    told = together(RUN, str(folder), str(recipe), str(run), "fail", rank, "3")
    assert all(code == 1 for code, *_ in told)
    failed, other = told[int(rank)], told[1 - int(rank)]
    assert "OSError: the disk is gone" in failed[2]
    assert "OtherProcessError: another process of this run failed" in other[2]
    # the first process saves the last finished step, unless it is the one that failed
    assert load_checkpoint(run).step == (0 if rank == "0" else 3)


def test_torchrun_starts_the_command(
    folder: Path, recipe_file: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = recipe_file("tiny", "training.samples=32")
    command = [
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
        "-m",
        "lookalike",
        "train",
    ]
    options = [str(folder), "--recipe", str(recipe), "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *command, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall("^run: ", done.stdout, re.MULTILINE)) == 1, done.stdout
    assert len(re.findall("40 pictures, resnet18", done.stderr)) == 1, done.stderr
    assert (tmp_path / "run" / "cache" / "cache.json").exists()
    assert load_checkpoint(tmp_path / "run").step == 4


def test_the_environment_says_which_process_this_is() -> None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    found = launch_of(dict(zip(names, "5824", strict=True)))
    assert found == Launch(rank=5, world=8, local_rank=2, local_world=4)
    assert not found.leads
    assert launch_of({"WORLD_SIZE": "2"}) == Launch()
    with pytest.raises(UsageError, match="RANK=1 but not a number for each of WORLD_SIZE"):
        launch_of({"RANK": "1", "WORLD_SIZE": "2"})

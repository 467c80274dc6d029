"""Two real processes that train as one, against one process with the same global batches."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from images.sources.sources import open_source
from training.data.cache import decode_source
from training.recipes.recipe_files import load_recipe, save_recipe
from training.run_folder.checkpoint import load_checkpoint
from training.run_folder.metrics import read_metrics
from training.train import TrainResult, train
from training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.recipes.recipe import Recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def together(code: str, *arguments: str, world: int = 2) -> list[tuple[int, str, str]]:
    """Runs code in processes as torchrun starts them; returns how each one ended."""
    port, *more = (str(free_port()) for _ in range(4))
    processes = []
    for rank in range(world):
        names = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
        environment = {**os.environ, **{k: str(v) for k, v in names.items()}}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        environment["MORE_PORTS"] = " ".join(more)
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


# What two processes do one thing after the other: importing torch takes longer than all of it.
WORK = """
import os, signal, sys
from pathlib import Path
import torch
from torch import nn
import training.train
from base.errors import LookalikeError
from images.sources.sources import open_source
from training.data.cache import decode_source
from training.parallel.ranks import process_group
from training.parallel.global_batch_norm import globalize
from training.recipes.recipe_files import load_recipe
from training.train import TrainResult, train
from training.trainer import Trainer

out, cpu = Path(sys.argv[1]), torch.device("cpu")
source = str(out / "photos")
training.train.available_cpus = lambda: 1
torch.set_num_threads(1)

def steps(ranks, name):
    recipe = load_recipe(str(out / f"{name}.toml"))
    pictures = decode_source(open_source(source), recipe.data.stored)
    trainer = Trainer(recipe, pictures, cpu, ranks)
    trainer.advance()
    gradients, losses = [p.grad.clone() for p in trainer.model.parameters()], []
    while losses.append(trainer.take_loss()) or trainer.step < trainer.steps:
        trainer.advance()
    return losses, gradients, trainer.model.state_dict()

def norm(ranks, name, x):
    model = nn.Sequential(nn.BatchNorm1d(3) if x.ndim == 2 else nn.BatchNorm2d(3))
    if name == "no bias":
        model[0].register_parameter("bias", None)
    globalize(model)
    mine = x.chunk(ranks.world)[ranks.rank].clone().requires_grad_()
    y = model(mine)
    (y * mine.detach().sin()).sum().backward()
    ranks.sum_(model[0].weight.grad)
    parts = [ranks.gather(t).flatten(0, 1) for t in (y.detach(), mine.grad)]
    return [*parts, model[0].weight.grad, *model.state_dict().values()]

def run(name, rank, step, event):
    # something happens to the process of one rank after some step, or when it fetches the next
    advance, fetch = Trainer.advance, Trainer.fetch
    due = lambda self: os.environ["RANK"] == str(rank) and self.step == step

    def advance_then(self):
        advance(self)
        if due(self) and event == "signals":
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    def fetch_unless(self):
        if due(self) and event == "failure":
            raise LookalikeError("the disk is gone")
        fetch(self)

    Trainer.advance, Trainer.fetch = advance_then, fetch_unless
    try:
        result = train(open_source(source), load_recipe(str(out / "tiny.toml")), out / name)
        print(name, result.step, result.finished)
    except LookalikeError as error:
        print(name, type(error).__name__, error)
    Trainer.advance, Trainer.fetch = advance, fetch

with process_group(cpu) as ranks:
    kept = {name: steps(ranks, name) for name in sys.argv[2:]}
    kept |= {name: norm(ranks, name, x) for name, x in torch.load(out / "norms.pt").items()}
    if ranks.leads:
        torch.save(kept, out / "kept.pt")
for port, what in zip(
    os.environ["MORE_PORTS"].split(),
    [("leader fails", 0, 2), ("other fails", 1, 2), ("stopped", 1, 4)],
):
    os.environ["MASTER_PORT"] = port  # the store of the run before may not have gone yet
    run(*what, "signals" if what[0] == "stopped" else "failure")
"""

SGD = ("training.samples=32", "optimizer.name=sgd", "schedule.learning_rate=1e-3")
RECIPES = {
    "plain": SGD,
    "lars": ("training.samples=32", "optimizer.name=lars", "schedule.learning_rate=0.02"),
    "chunks": (*SGD, "training.micro_batch=4", "loss.name=decoupled", "head.kind=v2"),
    "semi": (*SGD, "loss.name=nt-logistic", "loss.semi_hard=true"),
}


@pytest.fixture(scope="module")
def out(
    make_source: Callable[..., Any],
    make_recipe: Callable[..., Recipe],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What two processes left behind, and what they said in `told`."""
    out = tmp_path_factory.mktemp("two")
    for item in make_source():
        path = out / "photos" / str(item.label) / f"{item.key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(item.read()).save(path)
    for name, settings in RECIPES.items():
        save_recipe(out / f"{name}.toml", make_recipe(*settings))
    tiny = (*SGD, "training.samples=96", "training.log_every=1", "training.checkpoint_minutes=60")
    save_recipe(out / "tiny.toml", make_recipe(*tiny))
    torch.save(norms(), out / "norms.pt")
    for rank, (code, output, errors) in enumerate(together(WORK, str(out), *RECIPES)):
        assert code == 0, errors
        (out / f"told-{rank}").write_text(output)
    return out


def norms() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 5, 4, generator=generator) * 2 + 3
    return {
        "planes": images,
        "channels last": images.to(memory_format=torch.channels_last),
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


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_step_like_one(name: str, out: Path) -> None:
    losses, theirs, state = torch.load(out / "kept.pt")[name]
    recipe = load_recipe(str(out / f"{name}.toml"))
    images = decode_source(open_source(str(out / "photos")), recipe.data.stored)
    trainer = Trainer(recipe, images, torch.device("cpu"))
    trainer.advance()
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    assert losses[0] == pytest.approx(trainer.take_loss(), rel=1e-6)
    assert len(theirs) == len(gradients)
    for one, other in zip(theirs, gradients, strict=True):
        close(one, other, 5e-5)
    for loss in losses[1:]:
        trainer.advance()
        assert loss == pytest.approx(trainer.take_loss(), rel=1e-5)
    for key, value in trainer.model.state_dict().items():
        close(state[key], value, 1e-4)


def close(one: Tensor, other: Tensor, tolerance: float) -> None:
    """Equal but for the order of sums, measured by the largest value."""
    largest = float(other.abs().max())
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance * largest + 1e-7)


def test_global_batch_norm_is_that_of_the_whole_batch(out: Path) -> None:
    kept = torch.load(out / "kept.pt")
    for name, x in norms().items():
        for one, other in zip(kept[name], alone(name, x), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_all_processes_end_when_one_fails_between_two_steps(out: Path) -> None:
    reports = [(out / f"told-{rank}").read_text().splitlines()[:2] for rank in range(2)]
    other = "OtherProcessError another process of this run failed; see its message"
    gone = "LookalikeError the disk is gone"
    assert reports[0] == [f"leader fails {gone}", f"other fails {other}"]
    assert reports[1] == [f"leader fails {other}", f"other fails {gone}"]
    # the leader saves the last finished step, unless it is the one that failed
    assert load_checkpoint(out / "leader fails").step == 0
    assert load_checkpoint(out / "other fails").step == 2


def test_a_run_goes_on_with_another_number_of_processes(out: Path) -> None:
    """Two processes, of which the second gets signals, then one, then two under torchrun."""
    for rank in range(2):
        assert (out / f"told-{rank}").read_text().splitlines()[2] == "stopped 4 False"
    run, recipe = out / "stopped", load_recipe(str(out / "tiny.toml"))
    assert train_until(8, out / "photos", recipe, run).step == 8
    done = torchrun("train", str(out / "photos"), "--out", str(run), "--resume")
    assert done.returncode == 0, done.stderr
    assert len(re.findall("^run: .*step 12 of 12", done.stdout, re.MULTILINE)) == 1, done.stdout
    assert len(re.findall("40 pictures, resnet18", done.stderr)) == 1, done.stderr
    assert (run / "cache" / "cache.json").exists()  # both read the same file
    train(open_source(str(out / "photos")), recipe, out / "straight")
    one, other = load_checkpoint(run), load_checkpoint(out / "straight")
    start = load_checkpoint(out / "leader fails").encoder
    for key, value in other.encoder.items():
        # other orders of sums can turn a ReLU near 0 on or off for one view, a few percent of a
        # step; a step too many, or a rate from another place of the schedule, is more
        moved = float((value - start[key]).abs().max())
        largest = float(value.abs().max())
        tolerance = 0.04 * moved + 1e-6 * largest
        torch.testing.assert_close(one.encoder[key], value, rtol=0, atol=tolerance)
    lines, expected = read_metrics(run), read_metrics(out / "straight")
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses == pytest.approx([x["loss"] for x in expected if "loss" in x], rel=1e-4)


def train_until(step: int, photos: Path, recipe: Recipe, run: Path) -> TrainResult:
    """One process resumes the run and is interrupted."""
    advance = Trainer.advance

    def advance_and_stop(self: Trainer) -> None:
        advance(self)
        if self.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", advance_and_stop)
        return train(open_source(str(photos)), recipe, run, resume=True)


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    options = ["--nproc-per-node", "2", "--master-port", str(free_port()), "-m", "lookalike"]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

"""What the same CPU time is worth: kNN accuracy on CIFAR-10-JPEG75, against lightly's pipeline.

    python -m benchmarks.accuracy_per_minute [--short] [--data ../shared/data/cifar10-jpeg75]

Each contestant trains the same encoder (ResNet-18 layout of width 16, stem of stride 1, fp32) for
the same CPU time of its process, as the operating system counts it: 10 minutes and three seeds;
`--short`: 3 minutes, one seed each for lightly's two. Two run at a time, each on one core of its
own with one thread, so that whatever else the machine does hits both. Decoded images in memory to
begin with; evaluation is not counted and is the same code for all: features h of 32 px images,
10,000 training images as the gallery, 5,000 test images as queries, k = 200, temperature 0.1.
Every learning rate follows the CPU clock: warm-up as the contestant has it, then a cosine to 0.

    ours            Trainer with `RECIPE`: AdamW, and views of 16 px first, of 24 px at the end
    lightly         SimCLRTransform (32 px, no blur), DataLoader, SimCLRProjectionHead, NTXentLoss
                    with their defaults, batch 256, SGD of rate 0.06, momentum 0.9, decay 5e-4 with
                    a cosine, as its tutorials have them
    lightly, adamw  the same with our optimizer, rate and warm-up

`knn_lightly` is the better of its two rows. CIFAR-10-JPEG75 is CIFAR-10 stored as JPEG of quality
75: not comparable with published figures of CIFAR-10.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

# before torch is loaded: threads that wait sleep; before lightly is: it must not ask the network
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")
import numpy as np
import torch
from rich.table import Table

from benchmarks.lightly_simclr import Views
from benchmarks.report import publish
from images.sources.sources import open_source
from training.data.cache import decode_source
from training.data.dataset import NO_LABEL, ImageDataset
from training.data.sampling import spread
from training.models.features import encode
from training.optim.optimizers import set_learning_rate
from training.optim.schedule import warmup_cosine
from training.protocols.knn import knn_accuracy
from training.recipes.build_model import encoder_of
from training.recipes.recipe_files import load_recipe
from training.trainer import Trainer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from training.recipes.recipe import Recipe

DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "cifar10-jpeg75"
RECIPE = (  # over small-cpu
    "data.image_size=32",
    "data.stored_size=32",
    "encoder.width=0.25",
    "encoder.stem=small",
    "encoder.zero_init_residual=false",
    "augmentation.crop_area=[0.2, 1.0]",
    "loss.temperature=0.2",
    "schedule.learning_rate=3e-3",
    "training.batch_size=128",
    "training.precision=fp32",
    "training.epochs=1000",  # more than there is time for
)
VIEWS = ((0.6, 16), (1.0, 24))  # up to this share of the time: px of a view
GALLERY, QUERIES = 10_000, 5_000
SIDE, LIGHTLY_BATCH = 32, 256
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # lightly's default
OURS, LIGHTLY, LIGHTLY_ADAMW = "ours", "lightly", "lightly, adamw"
CLOCK_STEPS = 10_000  # resolution of a schedule over the CPU time


def main() -> None:
    """Run all contestants in pairs and print the report; or, as a child, run one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="3 CPU minutes, fewer seeds")
    parser.add_argument("--minutes", type=float, help="CPU minutes each, instead of 10 or 3")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of train.npz and test.npz")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, seed, seconds, folder = arguments.child
        print(json.dumps(compete(name, int(seed), float(seconds), Path(folder))))
        return
    seconds, seeds = (180.0, 1) if arguments.short else (600.0, 3)
    seconds = 60 * arguments.minutes if arguments.minutes else seconds
    if missing := what_is_missing(arguments.data):
        metrics = dict.fromkeys(("knn_ours", "knn_lightly"))
        publish("accuracy_per_minute", metrics=metrics, details={"not measured": missing})
        return
    with tempfile.TemporaryDirectory(prefix="accuracy-") as folder:
        decode(arguments.data, Path(folder))
        found = contest(seconds, seeds, Path(folder))
    report(found, seconds)


def what_is_missing(data: Path) -> str | None:
    """Why there can be no contest here."""
    if not all((data / part).is_file() for part in ("train.npz", "test.npz")):
        return f"{data} has no train.npz and test.npz: give CIFAR-10-JPEG75's folder with --data"
    if not importlib.util.find_spec("lightly"):
        return "lightly is not installed: pip install '.[bench]'"
    return None


def decode(data: Path, folder: Path) -> None:
    """Decode both parts to arrays that the contestants read."""
    for part in ("train", "test"):
        spec = load_recipe("small-cpu", RECIPE).data.stored
        dataset = decode_source(open_source(data / f"{part}.npz"), spec)
        np.save(folder / f"{part}.npy", dataset.images)
        np.save(folder / f"{part}-labels.npy", dataset.labels)


def contest(seconds: float, seeds: int, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Results by contestant; ours runs beside each of the others, every time with a new seed."""
    found: dict[str, list[dict[str, float]]] = {OURS: [], LIGHTLY: [], LIGHTLY_ADAMW: []}
    cores = sorted(os.sched_getaffinity(0))
    turn = cycle((0, 1))
    for seed in range(seeds):
        for number, other in enumerate((LIGHTLY, LIGHTLY_ADAMW)):
            pair = {OURS: 2 * seed + number, other: seed}
            first = next(turn)  # neither has the better core all the time
            children = {
                name: start(name, number, seconds, folder, cores[(first + position) % len(cores)])
                for position, (name, number) in enumerate(pair.items())
            }
            for name, child in children.items():
                output, _ = child.communicate()
                if child.returncode:
                    raise SystemExit(f"{name} failed with exit code {child.returncode}")
                found[name].append(json.loads(output.splitlines()[-1]))
    return found


def start(name: str, seed: int, seconds: float, folder: Path, core: int) -> subprocess.Popen[str]:
    """Return a contestant in a process of its own on one core."""
    module = [sys.executable, "-m", "benchmarks.accuracy_per_minute"]
    command = [*module, "--child", name, str(seed), str(seconds), str(folder)]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | threads)
    os.sched_setaffinity(child.pid, {core})
    return child


# --- contestants ---------------------------------------------------------------------------------


def compete(name: str, seed: int, seconds: float, folder: Path) -> dict[str, float]:
    """Trains one contestant for so many CPU seconds and measures its encoder."""
    torch.set_num_threads(1)
    images, labels = np.load(folder / "train.npy"), np.load(folder / "train-labels.npy")
    recipe = load_recipe("small-cpu", [*RECIPE, f"training.seed={seed}"])
    if name != OURS:  # what it imports does not count, as ours does not
        for part in ("loss", "models.modules", "transforms"):
            importlib.import_module(f"lightly.{part}")
    clock = CpuClock(seconds)
    if name == OURS:
        encoder, samples = train_ours(recipe, images, clock)
    else:
        encoder, samples = train_lightly(recipe, images, clock, adamw=name == LIGHTLY_ADAMW)
    used = clock.used
    tests, test_labels = np.load(folder / "test.npy"), np.load(folder / "test-labels.npy")
    asked, known = spread(len(tests), QUERIES), spread(len(images), GALLERY)
    mean, std = ((0.0,) * 3, (1.0,) * 3) if name == OURS else (IMAGENET_MEAN, IMAGENET_STD)
    queries, gallery = (
        encode(encoder, part, mean=mean, std=std) for part in (tests[asked], images[known])
    )
    accuracy = knn_accuracy(queries, test_labels[asked], gallery, labels[known])
    return {"knn": 100 * accuracy, "seed": seed, "samples": samples, "cpu_s": round(used, 1)}


class CpuClock:
    """The CPU time this process has used, all threads together, since it was made."""

    def __init__(self, budget: float) -> None:
        self._start, self._budget = time.process_time(), budget

    @property
    def used(self) -> float:
        """Seconds."""
        return time.process_time() - self._start

    @property
    def share(self) -> float:
        """Of the budget; 1 and more: it is used up."""
        return self.used / self._budget


def rate_at(share: float, peak: float, warmup: float) -> float:
    """Return the learning rate of the run's schedule at a share of the time; past its end the last one."""
    rates = warmup_cosine(peak, CLOCK_STEPS, round(warmup * CLOCK_STEPS))
    return float(rates[min(int(share * CLOCK_STEPS), CLOCK_STEPS - 1)])


def train_ours(recipe: Recipe, images: NDArray[np.uint8], clock: CpuClock) -> tuple[nn.Module, int]:
    """Return the trainer of `lookalike train`, one after another for each size of views."""
    labels = np.full(len(images), NO_LABEL)
    dataset = ImageDataset(
        name="CIFAR-10-JPEG75", images=images, labels=labels, classes=(), refused=(), digest=""
    )
    schedule = recipe.schedule
    peak, warmup = schedule.learning_rate, schedule.warmup_fraction or 0.0
    trainer: Trainer | None = None
    for until, size in VIEWS:
        before = trainer
        smaller = replace(recipe, data=replace(recipe.data, image_size=size))
        trainer = Trainer(smaller, dataset, torch.device("cpu"))
        if before is not None:
            trainer.model.load_state_dict(before.model.state_dict())
            trainer.optimizer.load_state_dict(before.optimizer.state_dict())
            trainer.step = before.step
        while (share := clock.share) < until:
            trainer.learning_rates[trainer.step] = rate_at(share, peak, warmup)
            trainer.advance()
    assert trainer is not None
    trainer.check_finite()
    return trainer.model.encoder, trainer.step * recipe.training.batch_size


def train_lightly(
    recipe: Recipe, images: NDArray[np.uint8], clock: CpuClock, *, adamw: bool
) -> tuple[nn.Module, int]:
    """Lightly's tutorial, with the recipe's encoder; batch, temperature and head are lightly's."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    torch.manual_seed(recipe.training.seed)
    encoder = encoder_of(recipe)
    head = SimCLRProjectionHead(encoder.feature_dim, encoder.feature_dim, 128)
    model = torch.nn.Sequential(encoder, head).train()
    criterion = NTXentLoss()
    optimizer: torch.optim.Optimizer
    if adamw:
        peak, warmup = recipe.schedule.learning_rate, recipe.schedule.warmup_fraction or 0.0
        decay = recipe.optimizer.weight_decay
        optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=decay)
    else:
        peak, warmup = 0.06, 0.0
        optimizer = torch.optim.SGD(model.parameters(), lr=peak, momentum=0.9, weight_decay=5e-4)
    views = Views(images, SimCLRTransform(input_size=SIDE, gaussian_blur=0.0))
    samples = 0
    while clock.share < 1:
        loader: Any = torch.utils.data.DataLoader(
            views, LIGHTLY_BATCH, shuffle=True, drop_last=True, num_workers=0
        )
        for first, second in loader:
            set_learning_rate(optimizer, rate_at(clock.share, peak, warmup))
            loss = criterion(model(first), model(second))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            samples += len(first)
            if clock.share >= 1:
                break
    return encoder, samples


# --- report --------------------------------------------------------------------------------------


def report(found: dict[str, list[dict[str, float]]], seconds: float) -> None:
    """Print the table and the JSON line."""
    minutes = f"{seconds / 60:g} CPU minutes"
    table = Table(title=f"kNN accuracy on CIFAR-10-JPEG75 after {minutes}")
    for column in ("contestant", "kNN, %", "of each seed", "pictures seen"):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    means = {}
    for name, results in found.items():
        means[name] = statistics.mean(result["knn"] for result in results)
        each = " ".join(f"{result['seed']}: {result['knn']:.1f}" for result in results)
        seen = statistics.mean(result["samples"] for result in results)
        table.add_row(name, f"{means[name]:.1f}", each, f"{seen:,.0f}")
    best = max((LIGHTLY, LIGHTLY_ADAMW), key=lambda name: means[name])
    publish(
        "accuracy_per_minute",
        metrics={"knn_ours": round(means[OURS], 2), "knn_lightly": round(means[best], 2)},
        details={
            "cpu_seconds": seconds,
            "results": found,
            "knn_lightly": best,
            "recipe": RECIPE,
            "views": VIEWS,
            "gallery": GALLERY,
            "queries": QUERIES,
        },
        tables=[table],
        packages=["torch", "torchvision", "lightly"],
    )


if __name__ == "__main__":
    main()

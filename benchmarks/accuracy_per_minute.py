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

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import cycle
from pathlib import Path

# before torch is loaded: threads that wait sleep; before lightly is: it must not ask the network
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")
import numpy as np
from rich.table import Table

from benchmarks.accuracy_contestants import (
    GALLERY,
    LIGHTLY,
    LIGHTLY_ADAMW,
    OURS,
    QUERIES,
    RECIPE,
    VIEWS,
    compete,
)
from benchmarks.report import publish
from images.sources.sources import open_source
from training.data.cache import decode_source
from training.recipes.recipe_files import load_recipe

DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "cifar10-jpeg75"


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
        results = contest(seconds, seeds, Path(folder))
    report(results, seconds)


def what_is_missing(data: Path) -> str | None:
    """Return why there can be no contest here, None if there can."""
    if not all((data / name).is_file() for name in ("train.npz", "test.npz")):
        return f"{data} has no train.npz and test.npz: give CIFAR-10-JPEG75's folder with --data"
    if not importlib.util.find_spec("lightly"):
        return "lightly is not installed: pip install '.[bench]'"
    return None


def decode(data: Path, folder: Path) -> None:
    """Decode both splits to arrays that the contestants read."""
    for split in ("train", "test"):
        spec = load_recipe("small-cpu", RECIPE).data.stored
        dataset = decode_source(open_source(data / f"{split}.npz"), spec)
        np.save(folder / f"{split}.npy", dataset.images)
        np.save(folder / f"{split}-labels.npy", dataset.labels)


def contest(seconds: float, seeds: int, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Return results by contestant; ours runs beside each other one, with a new seed each time."""
    results: dict[str, list[dict[str, float]]] = {OURS: [], LIGHTLY: [], LIGHTLY_ADAMW: []}
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
                results[name].append(json.loads(output.splitlines()[-1]))
    return results


def start(name: str, seed: int, seconds: float, folder: Path, core: int) -> subprocess.Popen[str]:
    """Start a contestant in a process of its own on one core."""
    module = [sys.executable, "-m", "benchmarks.accuracy_per_minute"]
    command = [*module, "--child", name, str(seed), str(seconds), str(folder)]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | threads)
    os.sched_setaffinity(child.pid, {core})
    return child


# --- contestants ---------------------------------------------------------------------------------


# --- report --------------------------------------------------------------------------------------


def report(results: dict[str, list[dict[str, float]]], seconds: float) -> None:
    """Print the table and the JSON line."""
    minutes = f"{seconds / 60:g} CPU minutes"
    table = Table(title=f"kNN accuracy on CIFAR-10-JPEG75 after {minutes}")
    for column in ("contestant", "kNN, %", "of each seed", "pictures seen"):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    means = {}
    for name, seeds in results.items():
        means[name] = statistics.mean(result["knn"] for result in seeds)
        each = " ".join(f"{result['seed']}: {result['knn']:.1f}" for result in seeds)
        seen = statistics.mean(result["samples"] for result in seeds)
        table.add_row(name, f"{means[name]:.1f}", each, f"{seen:,.0f}")
    best = max((LIGHTLY, LIGHTLY_ADAMW), key=lambda name: means[name])
    publish(
        "accuracy_per_minute",
        metrics={"knn_ours": round(means[OURS], 2), "knn_lightly": round(means[best], 2)},
        details={
            "cpu_seconds": seconds,
            "results": results,
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

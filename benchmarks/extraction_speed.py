"""`lookalike extract` against what its two cores could do, and against torch's and timm's way.

    python -m benchmarks.extraction_speed [--short] [--networks resnet18] [--alone]

ResNet-18 and ResNet-50 at 224 px with random weights, exported by this project in fp32 and int8;
real JPEG files, the same for all, in the page cache. What is compared, in turns:

- ours: `serving.extraction.extract.extract` from a folder into a new folder, with listing,
  reading, hashing, Parquet, fsync and manifest: from the call until it returns.
- the floor: decode, preprocess and encode on one pinned core while the other rests, nothing else,
  bytes in memory (`benchmarks.onecore`); `of_floor_*` is ours over cores / its seconds an image.
- the same on both cores at once, by two processes that know nothing of each other: what is left
  where busy cores slow each other down. It stands in the details and changes no metric.
- torchvision's way as its documentation shows it, the same with channels last, and timm's way, all
  in fp32 (`benchmarks.plainloader`): `vs_torch_*` is against the first, `vs_torch_tuned_*` against
  the second.

Each metric is the lower of the two networks. In the full form each way reads 20,000 photos. Torch
stays out of the process that measures ours.
"""

import argparse
import contextlib
import importlib.util
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.table import Table

from benchmarks.extraction_ways import CORES, Ours, Way, alone, at_once, cold, rival_way
from benchmarks.folders import image_files, linked
from benchmarks.report import publish
from benchmarks.sample_images import random_encoders
from benchmarks.timing import in_turns, ratio
from benchmarks.workers import Worker
from export.encoder_file.encoder_file import open_encoder

NETWORKS = ("resnet18", "resnet50")
PRECISIONS = ("fp32", "int8")
RIVALS = {"torchvision": "torchvision", "torchvision tuned": "torchvision", "timm": "timm"}
COMPARED = {"vs_torch": "torchvision", "vs_torch_tuned": "torchvision tuned"}
FULL = {("resnet18", "fp32"): 4000, ("resnet18", "int8"): 4000,
        ("resnet50", "fp32"): 4000, ("resnet50", "int8"): 4000}  # fmt: skip
SHORT = {("resnet18", "fp32"): 600, ("resnet18", "int8"): 2500,
         ("resnet50", "fp32"): 300, ("resnet50", "int8"): 800}  # fmt: skip
ROUNDS = {"full": 5, "short": 3}
ALONE = 8  # the floor takes every so-manieth image
MOST_ALONE = 500
CALIBRATION = {"full": 64, "short": 16}
OURS, FLOOR, PAIR = "lookalike", "floor", "two processes"
console = Console(stderr=True)

Rates = dict[str, list[float]]


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds, images a round, images to calibrate on, no rivals."""

    rounds: int
    counts: dict[tuple[str, str], int]
    calibration: int
    short: bool
    alone: bool = False


@dataclass
class Measurement:
    """What was measured with one network.

    Attributes:
        rates: photos per second by way, in each round.
        settings: what the rivals found fastest.
        spent: where our time went, in ms a photo, by precision.
        page_cache: our rates without it and with it.
    """

    rates: Rates
    settings: dict[str, str]
    spent: dict[str, dict[str, float]]
    page_cache: dict[str, float] | None = None


class Contest:
    """Every way with one network. As a context manager it ends its processes."""

    def __init__(
        self, network: str, paths: dict[str, Path], folder: Path, files: list[Path], plan: Plan
    ) -> None:
        self._network, self._paths, self._folder, self._plan = network, paths, folder, plan
        self._photos = {
            precision: linked(folder / f"{network}-{precision}", files, count)
            for (name, precision), count in plan.counts.items()
            if name == network
        }
        self._processes = contextlib.ExitStack()
        self._settings: dict[str, str] = {}
        self._ours: dict[str, Ours] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    def measure(self, *, page_cache: bool) -> Measurement:
        """All ways in turns; those that no metric needs only once where time is short."""
        ways: dict[str, Way] = {}
        for precision in self._paths:
            ways |= self._our_ways(precision)
        installable = {} if self._plan.alone else RIVALS
        rivals = {r: self._rival(r) for r, p in installable.items() if importlib.util.find_spec(p)}
        ways |= {r: rivals.pop(r) for r in COMPARED.values() if r in rivals}
        rates = in_turns(ways, self._plan.rounds, warm_up=False)
        rates |= in_turns(rivals, 1 if self._plan.short else self._plan.rounds, warm_up=False)
        spent = {precision: ours.seconds for precision, ours in self._ours.items()}
        measurement = Measurement(rates, self._settings, spent)
        if page_cache:
            fastest = self._ours.get("int8", self._ours["fp32"])  # it reads the most a second
            measurement.page_cache = cold(fastest)
        return measurement

    def _our_ways(self, precision: str) -> dict[str, Way]:
        path, photos = self._paths[precision], self._photos[precision]
        count = self._plan.counts[self._network, precision]
        arguments = (path, photos, min(MOST_ALONE, max(1, count // ALONE)))
        workers = [
            self._started("benchmarks.onecore", core, *arguments)
            for core in sorted(os.sched_getaffinity(0))
        ]
        # The session that `lookalike extract` opens.
        encoder = open_encoder(path, provider="cpu", threads=1)
        ours = self._ours[precision] = Ours(encoder, photos, count, self._folder / "features")
        return {
            f"{FLOOR} {precision}": alone(workers[0]),
            f"{OURS} {precision}": ours,
            f"{PAIR} {precision}": at_once(workers),
        }

    def _rival(self, name: str) -> Way:
        arguments = (name, self._network, self._photos["fp32"], self._folder / f"{name}.npy")
        return rival_way(self._started("benchmarks.plainloader", *arguments), self._settings, name)

    def _started(self, module: str, *arguments: object) -> Worker:
        worker = self._processes.enter_context(Worker(module, *arguments))
        worker.ask(trial=True)  # it finds its fastest setting, while all others rest
        return worker


def main() -> None:
    """Measure both networks and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="3 rounds of 300 to 2,500 photos")
    parser.add_argument("--rounds", type=int, help="rounds, for a quick look")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--alone", action="store_true", help="without torchvision and timm")
    parser.add_argument("--encoders", type=Path, help="keep the encoder files here, or take them")
    options = parser.parse_args()
    form = "short" if options.short else "full"
    plan = Plan(
        rounds=options.rounds or ROUNDS[form],
        counts=SHORT if options.short else FULL,
        calibration=CALIBRATION[form],
        short=options.short,
        alone=options.alone,
    )
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    details: dict[str, Any] = {"rounds": plan.rounds}
    measurements: dict[str, Measurement] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, details["pictures"] = image_files(folder / "drawn")
        made = random_encoders(
            options.encoders or folder, options.networks, plan.calibration, details
        )
        for network in options.networks:
            paths = {p: made[f"{network} {p}"] for p in PRECISIONS if f"{network} {p}" in made}
            console.print(f"measuring {network}")
            with Contest(network, paths, folder, files, plan) as fight:
                measurements[network] = fight.measure(page_cache=network == options.networks[0])
    details["images_a_round"] = {" ".join(key): count for key, count in plan.counts.items()}
    assert "torch" not in sys.modules, "torch came into the process that measures ours"
    report(measurements, details)


def report(measurements: dict[str, Measurement], details: dict[str, Any]) -> None:
    """Print the table and the JSON line."""
    table = Table(title=f"JPEG photos per second at 224 px, {CORES} cores (median)")
    for column in ("network", "way", "photos/s", "lookalike / it"):
        table.add_column(column, justify="right" if "/" in column else "left")
    rates = {network: one.rates for network, one in measurements.items()}
    for network, ways in rates.items():
        for way, values in ways.items():
            against = _against(ways, way)
            cell = "" if against is None else f"{against:.2f}"
            table.add_row(network, way, f"{statistics.median(values):.1f}", cell)
    for network, one in measurements.items():
        details[network] = {
            "photos_per_second": {w: [round(v, 1) for v in vs] for w, vs in one.rates.items()},
            "lookalike_over": _all_against(one.rates),
            "ms_a_photo": one.spent,
            "settings": one.settings,
            **({"page_cache": one.page_cache} if one.page_cache else {}),
        }
    metrics: dict[str, float | None] = {}
    for precision in PRECISIONS:
        metrics[f"of_floor_{precision}"] = _least(rates, f"{FLOOR} {precision}", precision)
    for metric, way in COMPARED.items():
        for precision in PRECISIONS:
            metrics[f"{metric}_{precision}"] = _least(rates, way, precision)
    publish(
        "extraction_speed",
        metrics=metrics,
        details=details,
        tables=[table],
        packages=["onnxruntime-gpu", "onnxruntime", "pillow", "pyarrow", "torch", "torchvision",
                  "timm"],
    )  # fmt: skip


def _against(rates: Rates, way: str, precision: str | None = None) -> float | None:
    """Ours over a way, of its own precision if it has one; None where there is nothing to compare.

    A way that was measured less often is compared with our first rounds.
    """
    own = next((p for p in PRECISIONS if way.endswith(p)), None)
    precision = precision or own or "fp32"
    ours = rates.get(f"{OURS} {precision}")
    if way.startswith(OURS) or ours is None or (own is not None and own != precision):
        return None
    return ratio(ours[: len(rates[way])], rates[way])


def _all_against(rates: Rates) -> dict[str, float]:
    pairs = {f"{way}, {p}": _against(rates, way, p) for way in rates for p in PRECISIONS}
    return {label: round(value, 3) for label, value in pairs.items() if value is not None}


def _least(networks: dict[str, Rates], way: str, precision: str) -> float | None:
    """Return the lower of the networks; None where one of them was not measured."""
    ratios = [
        _against(rates, way, precision) if way in rates else None for rates in networks.values()
    ]
    measured = [value for value in ratios if value is not None]
    return round(min(measured), 3) if measured and len(measured) == len(ratios) else None


if __name__ == "__main__":
    main()

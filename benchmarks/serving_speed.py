"""The service against its own model without HTTP, and against two other servers, on this machine.

    python -m benchmarks.serving_speed [--short] [--int8 FILE]

ResNet-18 at 224 px with random weights, exported by this project; the same real JPEGs (some 30 KB)
for all. Each server is a process; `benchmarks.load` loads it over loopback from another one, on the
same cores: what the load takes counts against the servers, not against the in-process figure. The
measurements of a round follow each other; all servers but the one measured are stopped (SIGSTOP).

In process: decoding threads beside one ONNX Runtime session, batches of 16, as extraction does it
(`serving.embedding.embed`); and image by image for the single client's figure.

`of_inprocess_*` is the lower of two: one image a request from 32 clients, 16 images a request
from 4. `p99_over_p50_at_70`: p99 at a constant 70 % of capacity (the median of three windows) over
the median of a single client.
`overload_throughput`: good answers at a constant 300 % of capacity over capacity.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.report import publish
from benchmarks.sample_images import photos, quantize_random, random_resnet
from benchmarks.servers import Target, load, started, write_bodies
from benchmarks.timing import ratio
from export.encoder_file.encoder_file import Encoder, open_encoder
from images.items import Item
from images.pixels.preprocess import load_image
from serving.embedding.embed import embed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.load import Result

ONE, MANY = "1 a request", "16 a request"
CLIENTS = {ONE: 32, MANY: 4}
IMAGES = {ONE: 1, MANY: 16}
LASTING = {ONE: 1, MANY: 3}  # as long: 16 answers come at once, so that a short time counts roughly
RIVALS = ("bentoml", "litserve")
REFUSED_WITHIN_MS = 50
LEAD = 1.5
WINDOWS = 3  # at 70 %; the median's p99 is taken: a pause of the machine itself spoils one window
console = Console(stderr=True)


@dataclass
class Contest:
    """One encoder in every server.

    Attributes:
        encoder: open, for the in-process figures.
        targets: servers by name.
        images: encoded.
        seconds: of one measurement.
        rates: images a second of each way in each round.
    """

    encoder: Encoder
    targets: dict[str, Target]
    images: list[bytes]
    folder: Path
    seconds: float
    rates: dict[str, list[float]] = field(default_factory=dict)

    def bodies(self, target: Target, kind: str) -> list[str]:
        """Return the requests of a load, as files."""
        folder = self.folder / f"{target.name}-{IMAGES[kind]}"
        size = IMAGES[kind]
        groups = [self.images[i : i + size] for i in range(0, len(self.images), size)]
        return [str(path) for path in write_bodies(folder, groups, target)]

    def saturate(self, name: str, kind: str) -> Result:
        """As many closed clients as keep a server busy."""
        target = self.targets[name]
        with target.awake():
            return load(
                target,
                self.bodies(target, kind),
                seconds=LASTING[kind] * self.seconds,
                lead=LEAD,
                clients=CLIENTS[kind],
            )

    def paced(self, *, seconds: float, clients: int = 0, rate: float = 0.0) -> Result:
        """Our server under another load, one image a request."""
        target = self.targets["lookalike"]
        with target.awake():
            bodies = self.bodies(target, ONE)
            return load(target, bodies, seconds=seconds, lead=LEAD, clients=clients, rate=rate)

    def in_process(self) -> float:
        """Images a second of decoding threads and one session, without HTTP."""
        items = [Item("", "", None, partial(bytes, data)) for data in self.images]

        def batches() -> Iterator[list[Item]]:
            while True:
                for start in range(0, len(items), 16):
                    yield items[start : start + 16]

        done, begun = 0, 0.0
        for outcomes in embed(self.encoder, batches()):
            now = time.perf_counter()
            if not begun:  # the first batch's time is the pipeline's filling
                begun = now
                continue
            done += len(outcomes)
            if now - begun >= self.seconds:
                return done / (now - begun)
        raise AssertionError("the batches never end")

    def in_process_single(self) -> float:
        """Median seconds of one image after the other, decoded and embedded."""
        found = []
        end = time.perf_counter() + self.seconds
        for data in (*self.images, *self.images):
            begun = time.perf_counter()
            pixels, _ = load_image(data, self.encoder.preprocess)
            self.encoder.encode(pixels[np.newaxis])
            found.append(time.perf_counter() - begun)
            if time.perf_counter() > end:
                break
        return statistics.median(found[3:])

    def throughput(self, rounds: int) -> None:
        """Measures every way once a round."""
        for _ in range(rounds):
            self._note("in process", self.in_process())
            for kind in (ONE, MANY):
                self._saturated("lookalike", kind)
            for rival in self.targets:
                if rival != "lookalike":
                    self._saturated(rival, ONE)

    def _saturated(self, name: str, kind: str) -> None:
        result = self.saturate(name, kind)
        good = sum(status == 200 for status, _ in result.answers)
        self._note(f"{name}, {kind}", good * IMAGES[kind] / result.seconds)

    def _note(self, way: str, rate: float) -> None:
        console.print(f"{way}: {rate:.1f} pictures/s")
        self.rates.setdefault(way, []).append(rate)

    def of_in_process(self) -> float:
        """Return the lower of our two ratios."""
        base = self.rates["in process"]
        return min(ratio(self.rates[f"lookalike, {kind}"], base) for kind in (ONE, MANY))

    def against(self, rival: str) -> float | None:
        """Our rate over a rival's, one image a request."""
        theirs = self.rates.get(f"{rival}, {ONE}")
        return None if theirs is None else ratio(self.rates[f"lookalike, {ONE}"], theirs)


@contextlib.contextmanager
def contest(
    path: Path, images: list[bytes], folder: Path, seconds: float, rivals: Sequence[str]
) -> Iterator[Contest]:
    """Start every server with one encoder."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        targets = {
            name: stack.enter_context(started(name, path, folder, images[0]))
            for name in ("lookalike", *rivals)
        }
        yield Contest(open_encoder(path), targets, images, folder, seconds)


def latency(fight: Contest, seconds: float) -> dict[str, float]:
    """Our answer times: a single client, 70 % of capacity, 300 % of it."""
    capacity = statistics.median(fight.rates[f"lookalike, {ONE}"])
    singles, bases = [], []
    for _ in range(3):
        bases.append(fight.in_process_single())
        result = fight.paced(seconds=fight.seconds, clients=1)
        singles.append(statistics.median(took for _, took in result.answers))
    steady = [fight.paced(seconds=seconds, rate=0.7 * capacity) for _ in range(WINDOWS)]
    p50_at_70, p99_at_70 = (
        statistics.median(_quantile(window, share) for window in steady) for share in (0.5, 0.99)
    )
    flood = fight.paced(seconds=seconds, rate=3 * capacity)
    p50 = statistics.median(singles)
    good = [took for status, took in flood.answers if status == 200]
    refused = sorted(took for status, took in flood.answers if status == 429)
    others = sorted({status for status, _ in flood.answers} - {200, 429})
    if others or {s for window in steady for s, _ in window.answers} != {200}:
        console.print(f"answers other than 200 and 429: {others}", style="red")
    return {
        "capacity": capacity,
        "in_process_single_ms": statistics.median(bases) * 1e3,
        "single_ms": p50 * 1e3,
        "added_ms": statistics.median(a - b for a, b in zip(singles, bases, strict=True)) * 1e3,
        "p50_at_70_ms": p50_at_70 * 1e3,
        "p99_at_70_ms": p99_at_70 * 1e3,
        "p99_over_p50": p99_at_70 / p50,
        "overload": len(good) / flood.seconds / capacity,
        "overload_p50_ms": statistics.median(good) * 1e3,
        "refused": len(refused),
        "refused_p50_ms": _at(refused, 0.5) * 1e3,
        "refused_p99_ms": _at(refused, 0.99) * 1e3,
        "refused_within_50_ms": sum(1e3 * took < REFUSED_WITHIN_MS for took in refused)
        / max(1, len(refused)),
        "other_answers": len(others),
    }


def _quantile(result: Result, share: float) -> float:
    return _at(sorted(took for status, took in result.answers if status == 200), share)


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def main() -> None:
    """Measures and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="3 rounds of 5 s instead of 7 of 15 s")
    parser.add_argument("--int8", type=Path, help="an int8 encoder file instead of a new one")
    parser.add_argument("--rounds", type=int, help="rounds, for a quick look")
    parser.add_argument("--seconds", type=float, help="seconds of one measurement")
    parser.add_argument("--alone", action="store_true", help="without the other servers")
    parser.add_argument("--no-fp32", action="store_true", help="only the int8 encoder")
    options = parser.parse_args()
    seconds = options.seconds or (5 if options.short else 15)
    rounds = options.rounds or (3 if options.short else 7)
    images, what = photos(256)
    rivals = [] if options.alone else [r for r in RIVALS if importlib.util.find_spec(r)]
    details: dict[str, object] = {"pictures": what, "rounds": rounds, "seconds": seconds}
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {"fp32": None if options.no_fp32 else random_resnet(folder / "fp32.onnx")}
        files["int8"] = options.int8
        if options.int8 is None:
            made = folder / "int8.onnx"
            why = quantize_random(images[:64], folder, made)
            files["int8"] = made if why is None else None
            details["int8"] = why and f"not measured: {why}"
        for precision, path in files.items():
            if path is not None:
                console.rule(precision)
                with contest(path, images, folder / precision, seconds, rivals) as fight:
                    fight.throughput(rounds)
                    found[precision] = Found(fight, latency(fight, 3 * seconds))
    report(found, details)


@dataclass
class Found:
    """What was measured with one encoder."""

    fight: Contest
    times: dict[str, float]


def report(found: dict[str, Found], details: dict[str, object]) -> None:
    """Print the tables and the JSON line; latencies are those of fp32 where that was measured."""
    tables = []
    for precision, one in found.items():
        table = Table(title=f"ResNet-18 at 224 px, {precision}: pictures per second (median)")
        for column in ("way", "pictures/s", "of in process"):
            table.add_column(column, justify="left" if column == "way" else "right")
        for way, values in one.fight.rates.items():
            of = ratio(values, one.fight.rates["in process"])
            table.add_row(way, f"{statistics.median(values):.1f}", f"{of:.2f}")
        tables.append(table)
        details[precision] = {
            "pictures_per_second": {w: _rounded(v) for w, v in one.fight.rates.items()},
            "times": {name: round(value, 3) for name, value in one.times.items()},
        }
    fp32, int8 = found.get("fp32"), found.get("int8")
    main = fp32 or int8
    assert main is not None
    metrics = {
        "of_inprocess_fp32": fp32.fight.of_in_process() if fp32 else None,
        "of_inprocess_int8": int8.fight.of_in_process() if int8 else None,
        "added_ms_single": main.times["added_ms"],
        "p99_over_p50_at_70": main.times["p99_over_p50"],
        "overload_throughput": main.times["overload"],
        **{f"vs_{rival}": _least(found, rival) for rival in RIVALS},
    }
    publish(
        "serving_speed",
        metrics={k: None if v is None else round(v, 3) for k, v in metrics.items()},
        details=details,
        tables=tables,
        packages=["onnxruntime-gpu", "onnxruntime", "bentoml", "litserve", "pillow", "uvicorn"],
    )


def _least(found: dict[str, Found], rival: str) -> float | None:
    """Against a rival: the lower of fp32 and int8."""
    ratios = [one.fight.against(rival) for one in found.values()]
    return min((r for r in ratios if r is not None), default=None)


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 1) for value in values]


if __name__ == "__main__":
    main()

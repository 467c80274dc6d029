"""One encoder behind several servers, and in process: throughput and latency, for serving_speed."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from benchmarks.servers import Target, load, started, write_bodies
from benchmarks.timing import ratio
from export.encoder_file.encoder_file import Encoder, open_encoder
from images.items import Item
from images.pixels.preprocess import load_image
from serving.embedding.embed import embed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.load import Result


ONE, MANY = "1 a request", "16 a request"


CLIENTS = {ONE: 32, MANY: 4}


IMAGES = {ONE: 1, MANY: 16}


LASTING = {ONE: 1, MANY: 3}  # as long: 16 answers come at once, so that a short time counts roughly


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
        """Load a server with as many closed clients as keep it busy."""
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
        """Load our server in another way, one image a request."""
        target = self.targets["lookalike"]
        with target.awake():
            bodies = self.bodies(target, ONE)
            return load(target, bodies, seconds=seconds, lead=LEAD, clients=clients, rate=rate)

    def in_process(self) -> float:
        """Return images a second of decoding threads and one session, without HTTP."""
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
        """Return the median seconds of one image after the other, decoded and embedded."""
        seconds = []
        end = time.perf_counter() + self.seconds
        for data in (*self.images, *self.images):
            begun = time.perf_counter()
            pixels, _ = load_image(data, self.encoder.preprocess)
            self.encoder.encode(pixels[np.newaxis])
            seconds.append(time.perf_counter() - begun)
            if time.perf_counter() > end:
                break
        return statistics.median(seconds[3:])

    def throughput(self, rounds: int) -> None:
        """Measure every way once a round."""
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

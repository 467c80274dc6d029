"""Attack a service of 1 GiB, beside a client that only wants its answers.

    python -m benchmarks.attack [--short] [--only TEXT]

Each attack runs for some seconds: endless heads, silent and slow connections, lists of millions,
texts of megabytes, images of very many pixels, forms of very many entries, hostile keys. Beside it
one client embeds eight photos (ResNet-18, random), searches by key and asks for an item, again and
again; its time is that of all three.

    memory_mib           the most that the service had resident; its control group has 1024, where
                         it could be made (`limited`)
    slowdown_of_others   the worst attack's median time of the client, over the quiet median
    unexpected_answers   of attackers (5xx, or something good) and of the client (anything but 200)

Exit code 1: memory over the limit, five times slower, or an unexpected answer.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from benchmarks.attack_bodies import FLOODS, Flood
from benchmarks.attack_client import ask, be_polite
from benchmarks.attack_connections import CONNECTIONS, REFUSED, Outcome
from benchmarks.report import publish
from benchmarks.sample_images import random_resnet
from benchmarks.servers import START_SECONDS
from export.encoder_file.encoder_file import describe
from serving.collection import Record, create_collection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT = 2**30  # bytes
DIM = 512
MOST_SLOWDOWN = 5.0
SETTINGS = {
    "LOOKALIKE_MAX_BYTES_IN_FLIGHT": str(192 * 2**20),
    "LOOKALIKE_MAX_DECODE_BYTES": str(320 * 2**20),
    "LOOKALIKE_BODY_SECONDS": "5",
}
SOON = frozenset((429, 503))  # always right: try again


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="5 seconds for each attack, not 30")
    parser.add_argument("--only", default="", help="attacks whose names hold this text")
    options = parser.parse_args()
    seconds = 5.0 if options.short else 30.0
    with tempfile.TemporaryDirectory() as folder:
        rows, peak, limited = attack_all(Path(folder), seconds, options.only)
    quiet = rows.pop("(quiet)")
    slowdowns = {name: row["median"] / quiet["median"] for name, row in rows.items()}
    unexpected = quiet["unexpected"] + sum(row["unexpected"] for row in rows.values())
    metrics = {
        "memory_mib": round(peak / 2**20),
        "slowdown_of_others": round(max(slowdowns.values()), 2),
        "unexpected_answers": unexpected,
    }
    details = {
        "seconds": seconds,
        "limited": limited,
        "settings": SETTINGS,
        "quiet": quiet,
        "attacks": rows,
    }
    publish(
        "attack",
        metrics=metrics,
        details=details,
        tables=[table(rows, quiet, slowdowns)],
        packages=("bentoml", "uvicorn", "httptools", "pillow", "onnxruntime-gpu"),
    )
    good = peak <= LIMIT and max(slowdowns.values()) <= MOST_SLOWDOWN and not unexpected
    return 0 if good else 1


def table(
    rows: dict[str, dict[str, Any]], quiet: dict[str, Any], slowdowns: dict[str, float]
) -> Table:
    """Return what people read."""
    shown = Table("attack", "answers", "client's median, ms", "95 %", "slower", "resident, MiB")
    for name, row in {"(quiet)": quiet, **rows}.items():
        shown.add_row(
            name,
            ", ".join(f"{count} x {status}" for status, count in row["answers"].items()),
            f"{row['median']:.1f}",
            f"{row['p95']:.1f}",
            f"{slowdowns.get(name, 1.0):.1f}",
            str(row["resident"]),
        )
    return shown


def attack_all(
    folder: Path, seconds: float, only: str
) -> tuple[dict[str, dict[str, Any]], int, bool]:
    """Run a service and all attacks.

    Returns:
        a row for each, the service's largest resident size in bytes, and whether it had a limit.
    """
    random_resnet(folder / "encoder.onnx")
    make_collection(folder)
    attacks: dict[str, tuple[Callable[[int, float], Outcome], frozenset[int | str], int]] = {
        "(quiet)": (lambda _port, end: rest(end), frozenset(), 1),
        **{name: (attack, REFUSED, 2) for name, attack in CONNECTIONS.items()},
        **{name: (Flooding(flood), flood.right | SOON, flood.clients)
           for name, flood in FLOODS.items()},
    }  # fmt: skip
    with limited_group() as group, (folder / "log").open("wb") as log:
        process, port = start(folder, log, group)
        try:
            rows = {
                name: beside_a_client(port, process.pid, attack, seconds)
                for name, attack in attacks.items()
                if only in name or name == "(quiet)"
            }
            peak = kib(process.pid, "VmHWM") * 1024
        finally:
            process.terminate()
            process.wait(60)
    faults = (folder / "log").read_text(errors="replace")
    rows["(quiet)"]["unexpected"] += faults.count("Traceback")
    return rows, peak, group is not None


def make_collection(folder: Path) -> None:
    """Make a collection of some hundred items."""
    digest = describe(folder / "encoder.onnx")["sha256"]
    vectors = np.random.default_rng(0).normal(size=(300, DIM)).astype(np.float32)
    with create_collection(folder / "shop", digest, DIM) as collection:
        collection.add(Record(str(number), one, "") for number, one in enumerate(vectors))


@contextmanager
def limited_group() -> Iterator[Path | None]:
    """Make a control group whose processes have 1 GiB; None where this process may not.

    Not RLIMIT_AS or RLIMIT_DATA: what threads and allocators only reserve counts there.
    """
    version_1 = Path("/sys/fs/cgroup/memory")
    root, name = Path("/sys/fs/cgroup"), "memory.max"
    if version_1.is_dir():
        root, name = version_1, "memory.limit_in_bytes"
    group = root / f"lookalike-attack-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(LIMIT))
    except OSError:
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


def start(folder: Path, log: Any, group: Path | None) -> tuple[subprocess.Popen[bytes], int]:
    """Start the service in its group; return it and its port when it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    enter = "" if group is None else f"echo $$ > {group}/cgroup.procs && "
    command = [
        "sh",
        "-c",
        f'{enter}exec "$@"',
        "sh",
        sys.executable,
        "-m",
        "lookalike",
        "serve",
        str(folder / "encoder.onnx"),
    ]
    process = subprocess.Popen(
        [*command, str(folder / "shop"), "--port", str(port)],
        env=os.environ | SETTINGS,
        stdout=log,
        stderr=log,
    )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if ask(port, "GET", "/readyz", b"", {}) == 200:
            return process, port
        time.sleep(0.2)
    process.kill()
    raise RuntimeError(f"the service did not start: {Path(log.name).read_text()[-2000:]}")


class Flooding:
    """One of the clients that send a flood."""

    def __init__(self, flood: Flood) -> None:
        self.flood = flood

    def __call__(self, port: int, end: float) -> Outcome:
        """Send until `end`; return the answers."""
        flood, met = self.flood, Counter[int | str]()
        body = flood.body()
        while time.monotonic() < end:
            met[ask(port, flood.method, flood.path, body, flood.headers)] += 1
        return met


def rest(end: float) -> Outcome:
    """Do nothing."""
    time.sleep(max(0.0, end - time.monotonic()))
    return Counter()


def beside_a_client(
    port: int,
    pid: int,
    attack: tuple[Callable[[int, float], Outcome], frozenset[int | str], int],
    seconds: float,
) -> dict[str, Any]:
    """Run one attack in threads here, and the client in a process of its own."""
    work, right, clients = attack
    if isinstance(work, Flooding):
        content = work.flood.body()
        work = Flooding(Flood(**{**vars(work.flood), "body": lambda: content}))
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    polite = context.Process(target=be_polite, args=(port, seconds, theirs))
    polite.start()
    ours.recv()  # it is ready
    end = time.monotonic() + seconds
    met: Outcome = Counter()
    threads = [threading.Thread(target=lambda: met.update(work(port, end))) for _ in range(clients)]
    for thread in threads:
        thread.start()
    ours.send("begin")
    times, bad = ours.recv()
    for thread in threads:
        thread.join()
    polite.join()
    unexpected = bad + sum(count for status, count in met.items() if status not in right)
    return {
        "answers": {str(status): count for status, count in met.most_common()},
        "median": round(statistics.median(times) * 1e3, 2),
        "p95": round(statistics.quantiles(times, n=20)[-1] * 1e3, 2),
        "client_answers": len(times),
        "client_refused": bad,
        "unexpected": unexpected,
        "resident": kib(pid, "VmRSS") // 1024,
    }


def kib(pid: int, name: str) -> int:
    """Return a figure of a process's memory, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.exit(main())

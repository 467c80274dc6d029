"""Search in a large collection: recall, latency, adds, filters and opening, beside other libraries.

    python -m benchmarks.search_speed [--short] [--dim 128] [--keep FOLDER]

The vectors are embeddings of real images with jitter, not uniform noise (`search_vectors`):
they lie in clusters of unequal density, as embeddings do. Queries are made in the same way from
images that are not in the collection. The full form takes 1,000,000 vectors of 128 and of 512
numbers; the short one 200,000 and 50,000, and leaves the time to open a million unmeasured.

Ours is a collection on the disk, asked one query at a time through `Collection.search`. Beside
each other library (`search_rivals`) our index is measured as they are, without the ledger: the
other's least effort that has our recall or more, in turns (`search_contest`). milvus-lite is
given at most 200,000 vectors: more take it too long.

Every stage runs in a process of its own. What it measured stays in `--keep` and is not measured
again, so the full form may be run in pieces of at most ten minutes (the first that is not done:
`--stages 1`); a dimension takes 2 to 5 GB of disk there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from rich.table import Table

from base.cpus import available_cpus
from base.files import write_json_atomic
from benchmarks import search_rivals
from benchmarks.report import publish
from benchmarks.search_contest import TURN, Truth, contest
from benchmarks.search_vectors import Images, portions
from serving.collection import Collection, Record, create_collection, open_collection

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.search_rivals import Search, Vectors

NEIGHBORS = search_rivals.NEIGHBORS
QUERIES = 1000
SINGLE_ADDS = 300
SALES = 10  # filters, of which each leaves one item in a hundred
RECALL = 0.99
SIZES = {128: (1_000_000, 200_000), 512: (1_000_000, 50_000)}
MOST_FOR_MILVUS = 200_000
REBUILD_SECONDS = 60.0


def main() -> None:
    """Run the stages that are not done, each in its own process, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer vectors")
    parser.add_argument("--vectors", type=int, help="another number of vectors")
    parser.add_argument("--dim", type=int, choices=SIZES, help="only vectors of this length")
    parser.add_argument("--keep", type=Path, help="folder for what is built and measured")
    parser.add_argument("--stages", type=int, help="stop after so many stages")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(arguments.stage, arguments.keep)
        return
    with tempfile.TemporaryDirectory() as scratch:
        keep = arguments.keep or Path(scratch)
        left = arguments.stages
        for dim in [arguments.dim] if arguments.dim else SIZES:
            folder = keep / str(dim)
            folder.mkdir(parents=True, exist_ok=True)
            count = arguments.vectors or SIZES[dim][arguments.short]
            write_json_atomic(folder / "size.json", {"vectors": count, "dim": dim})
            for stage in STAGES:
                if (folder / f"{stage}.json").exists():
                    continue
                if left == 0:
                    return
                command = [sys.executable, "-m", "benchmarks.search_speed", "--stage", stage]
                subprocess.run([*command, "--keep", str(folder)], check=True)
                left = left and left - 1
        report(
            {int(f.name): gathered(f) for f in sorted(keep.iterdir(), key=lambda f: int(f.name))}
        )


def run_stage(stage: str, folder: Path) -> None:
    """One stage's figures, written where `gathered` finds them."""
    at = Stage(folder, **json.loads((folder / "size.json").read_text()))
    start = time.perf_counter()
    figures = STAGES[stage](at)
    print(f"{at.vectors:,} x {at.dim}: {stage}: {figures}", file=sys.stderr, flush=True)
    write_json_atomic(
        folder / f"{stage}.json", figures | {f"{stage}_stage_s": time.perf_counter() - start}
    )
    sys.stderr.flush()
    os._exit(0)  # a rebuild may still be going on in a thread


def gathered(folder: Path) -> dict[str, Any]:
    """All figures of a dimension; the libraries' by name."""
    result: dict[str, Any] = json.loads((folder / "size.json").read_text())
    result["rivals"] = {}
    for stage in STAGES:
        if not (folder / f"{stage}.json").exists():
            continue
        figures = json.loads((folder / f"{stage}.json").read_text())
        if stage in search_rivals.BUILDERS:
            result["rivals"][stage] = figures
        else:
            result |= figures
    return result


# The stages


@dataclass(frozen=True)
class Stage:
    """Where a stage works and on what.

    Attributes:
        folder: of the dimension.
        vectors: how many.
        dim: their length.
    """

    folder: Path
    vectors: int
    dim: int

    @property
    def collection(self) -> Path:
        """Ours."""
        return self.folder / "c"

    def load(self) -> tuple[Vectors, Vectors]:
        """Return the collection's vectors, mapped, and the queries."""
        return np.load(self.folder / "vectors.npy", mmap_mode="r"), self.queries()

    def queries(self) -> Vectors:
        """float32 [1000, dim]."""
        found: Vectors = np.load(self.folder / "queries.npy")
        return found


def make_vectors(at: Stage) -> dict[str, Any]:
    """Vectors and queries on the disk."""
    images = Images("train", at.dim)
    np.save(at.folder / "vectors.npy", images.vectors(at.vectors, np.random.default_rng(0)))
    queries = Images("test", at.dim, images).vectors(QUERIES, np.random.default_rng(1))
    np.save(at.folder / "queries.npy", queries)
    return {}


def add_batches(at: Stage) -> dict[str, Any]:
    """Items a second in durable batches of 10,000; every tenth has a field."""
    vectors, _ = at.load()
    seconds = 0.0
    with create_collection(at.collection, "0" * 64, at.dim, recall=RECALL) as collection:
        for start, size in portions(at.vectors, 10_000):
            part = np.array(vectors[start : start + size])
            records = [
                Record(
                    f"{n:08}",
                    part[n - start],
                    "",
                    metadata={"sale": n % 100} if n % 100 < SALES else {},
                )
                for n in range(start, start + size)
            ]
            before = time.perf_counter()
            collection.add(records)
            seconds += time.perf_counter() - before
    return {"batch_adds_per_s": at.vectors / seconds}


def tune(at: Stage) -> dict[str, Any]:
    """Build, tuning on held-out items and saving, on all cores."""
    with open_collection(at.collection) as collection:
        start = time.perf_counter()
        described = collection.tune()
        return {"build_s": time.perf_counter() - start, "index": described}


def search(at: Stage) -> dict[str, Any]:
    """Measure opening from the snapshot, recall of fresh queries, time of each, filters, single adds."""
    queries = at.queries()
    start = time.perf_counter()
    with open_collection(at.collection) as collection:
        opened = time.perf_counter() - start
        result = {"start_s": opened} | latencies(collection, queries) | filters(collection, queries)
        start = time.perf_counter()
        for n, vector in enumerate(queries[:SINGLE_ADDS]):
            collection.add([Record(f"single-{n}", vector, "")])
        result["single_adds_per_s"] = SINGLE_ADDS / (time.perf_counter() - start)
        collection.remove([f"single-{n}" for n in range(SINGLE_ADDS)])
    return result


def latencies(collection: Collection, queries: Vectors) -> dict[str, float]:
    """Recall of fresh queries, and the time of each, one at a time."""
    seconds, shares = [], []
    truth = [hits[-1].score for hits in collection.search(queries, NEIGHBORS, exact=True)]
    collection.search(queries[:1], NEIGHBORS)
    for query, floor in zip(queries, truth, strict=True):
        start = time.perf_counter()
        hits = collection.search(query[None], NEIGHBORS)[0]
        seconds.append(time.perf_counter() - start)
        shares.append(sum(hit.score >= floor for hit in hits) / NEIGHBORS)
    return {
        "recall10": statistics.mean(shares),
        "p50_ms": 1000 * statistics.median(seconds),
        "p99_ms": 1000 * float(np.quantile(seconds, 0.99)),
    }


def filters(collection: Collection, queries: Vectors) -> dict[str, float]:
    """One item in a hundred may be found: against comparing all. No filter is used twice."""
    scan, filtered = [], []
    for sale, query in enumerate(queries[:SALES]):
        start = time.perf_counter()
        collection.search(query[None], NEIGHBORS, exact=True)
        scan.append(time.perf_counter() - start)
        start = time.perf_counter()
        collection.search(query[None], NEIGHBORS, filter={"sale": sale})
        filtered.append(time.perf_counter() - start)
    return {
        "scan_ms": 1000 * statistics.median(scan),
        "filter_ms": 1000 * statistics.median(filtered),
        "filter_speedup": statistics.median(a / b for a, b in zip(scan, filtered, strict=True)),
    }


def rebuild(at: Stage) -> dict[str, Any]:
    """Search while the index is built anew on another core, for a minute at most."""
    queries = at.queries()
    collection = open_collection(at.collection)
    alone = times(collection, queries, 10.0, lambda: True)
    thread = threading.Thread(target=collection.tune, kwargs={"threads": 1}, daemon=True)
    thread.start()
    meanwhile = times(collection, queries, REBUILD_SECONDS, thread.is_alive)
    ninety_nine = [1000 * float(np.quantile(part, 0.99)) for part in (alone, meanwhile)]
    return {"p99_alone_ms": ninety_nine[0], "p99_rebuild_ms": ninety_nine[1]}


def times(
    collection: Collection, queries: Vectors, seconds: float, going: Callable[[], bool]
) -> list[float]:
    """Seconds of searches, a hundred a second."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and going():
        start = time.perf_counter()
        collection.search(queries[len(found) % QUERIES][None], NEIGHBORS)
        found.append(time.perf_counter() - start)
        time.sleep(0.01)
    return found


def beside(name: str) -> Callable[[Stage], dict[str, Any]]:
    """Return the stage that compares ours with a library."""

    def stage(at: Stage) -> dict[str, Any]:
        if not search_rivals.installed(name):
            return {"missing": f"{name} is not installed"}
        vectors, queries = at.load()
        if name == "milvus-lite":
            queries = queries[:TURN]
        ours_knows = theirs_knows = Truth(vectors, queries)
        if name == "milvus-lite" and len(vectors) > MOST_FOR_MILVUS:
            theirs_knows = Truth(vectors[:MOST_FOR_MILVUS], queries)
        theirs = np.array(theirs_knows.vectors)
        faiss.omp_set_num_threads(available_cpus())
        built, with_effort = search_rivals.build(name, theirs, at.folder)
        collection = open_collection(at.collection)
        index = collection._follower.index  # noqa: SLF001 - without the ledger, as the others are
        assert index is not None
        ours: Search = lambda query: index.search(query, NEIGHBORS)[0][0][:NEIGHBORS] - 1  # noqa: E731
        figures = contest(ours, with_effort, ours_knows, theirs_knows)
        return figures | {"build_s": built, "vectors": len(theirs)}

    return stage


STAGES: dict[str, Callable[[Stage], dict[str, Any]]] = {
    "vectors": make_vectors,
    "add": add_batches,
    "tune": tune,
    "search": search,
    **{name: beside(name) for name in search_rivals.BUILDERS},
    "rebuild": rebuild,
}


def report(results: dict[int, dict[str, Any]]) -> None:
    """Tables for people, one line for machines."""
    table = Table("", *(f"{r['vectors']:,} x {dim}" for dim, r in results.items()))
    names = ["recall10", "p50_ms", "p99_ms", "p99_alone_ms", "p99_rebuild_ms", "build_s", "start_s"]
    names += ("batch_adds_per_s", "single_adds_per_s", "scan_ms", "filter_ms", "filter_speedup")
    for name in names:
        table.add_row(name, *(f"{r[name]:.4g}" for r in results.values()))
    tables = [table]
    for dim, r in results.items():
        beside_us = Table(f"{dim} numbers", "vectors", "ms", "recall@10", "ours, ms", "build s")
        for name, their in r["rivals"].items():
            if "missing" not in their:
                cells = (their["theirs_ms"], their["theirs_recall10"], their["ours_ms"])
                beside_us.add_row(
                    name,
                    f"{their['vectors']:,}",
                    *(f"{cell:.4f}" for cell in cells),
                    f"{their['build_s']:.0f}",
                )
        tables.append(beside_us)
    publish(
        "search_speed",
        metrics=metrics(results),
        details={"results": {str(dim): r for dim, r in results.items()}},
        tables=tables,
        packages=["faiss-cpu", "hnswlib", "usearch", "milvus-lite", "pymilvus", "numpy"],
    )


def metrics(results: dict[int, dict[str, Any]]) -> dict[str, float | None]:
    """As DESIGN.md names them; null where not measured."""
    found: dict[str, float | None] = {}
    for dim in SIZES:
        found[f"recall10_{dim}"] = results.get(dim, {}).get("recall10")
        found[f"p50_ms_{dim}"] = results.get(dim, {}).get("p50_ms")
    small = results.get(128) or next(iter(results.values()))
    rival = small["rivals"].get("hnswlib", {})
    found["vs_hnswlib_128"] = (
        rival["theirs_ms"] / rival["ours_ms"] if "theirs_ms" in rival and 128 in results else None
    )
    for name in ("filter_speedup", "single_adds_per_s", "batch_adds_per_s"):
        found[name] = small[name]
    found["start_s_1m"] = small["start_s"] if small["vectors"] >= 1_000_000 else None
    return found


if __name__ == "__main__":
    main()

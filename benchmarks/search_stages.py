"""The stages of search_speed, each of which runs in a process of its own."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from base.cpus import available_cpus
from benchmarks import search_rivals
from benchmarks.search_contest import TURN, Truth, contest
from benchmarks.search_vectors import Images, portions
from serving.collection import Collection, Record, create_collection, open_collection

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.search_rivals import Search, Vectors


NEIGHBORS = search_rivals.NEIGHBORS


QUERIES = 1000


SINGLE_ADDS = 300


SALES = 10  # filters, of which each leaves one item in a hundred


RECALL = 0.99


MOST_FOR_MILVUS = 200_000


REBUILD_SECONDS = 60.0


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
        queries: Vectors = np.load(self.folder / "queries.npy")
        return queries


def make_vectors(at: Stage) -> dict[str, Any]:
    """Write vectors and queries to the disk."""
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
            chunk = np.array(vectors[start : start + size])
            records = [
                Record(
                    f"{n:08}",
                    chunk[n - start],
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
    """Measure opening from the snapshot, fresh queries, filters and single adds."""
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
    alone = search_times(collection, queries, 10.0, lambda: True)
    thread = threading.Thread(target=collection.tune, kwargs={"threads": 1}, daemon=True)
    thread.start()
    meanwhile = search_times(collection, queries, REBUILD_SECONDS, thread.is_alive)
    ninety_nine = [1000 * float(np.quantile(times, 0.99)) for times in (alone, meanwhile)]
    return {"p99_alone_ms": ninety_nine[0], "p99_rebuild_ms": ninety_nine[1]}


def search_times(
    collection: Collection, queries: Vectors, seconds: float, going: Callable[[], bool]
) -> list[float]:
    """Seconds of searches, a hundred a second."""
    taken_s: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and going():
        start = time.perf_counter()
        collection.search(queries[len(taken_s) % QUERIES][None], NEIGHBORS)
        taken_s.append(time.perf_counter() - start)
        time.sleep(0.01)
    return taken_s


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

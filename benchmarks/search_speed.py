"""Search in a large collection: recall, latency, adds, filters and opening, beside other libraries.

    python -m benchmarks.search_speed [--short]

The vectors are embeddings of real pictures, moved as a camera would move them: Fashion-MNIST's
60,000, each shifted by up to 3 pixels, mirrored, re-lit and with noise on it, projected on the
principal components of the set and brought to length one. So they lie in clusters of unequal
density, as embeddings do, and are not uniform noise. Queries are made in the same way from the test
pictures. The full form takes 1,000,000 vectors of 128 and of 512 numbers; the short one 200,000 and
100,000, and leaves the time to open a million unmeasured.

Ours is a collection on the disk, asked one query at a time through ``Collection.search``. Beside
hnswlib (where it is installed: it has to be compiled), usearch and FAISS's flat index our graph is
measured as they are, without the ledger: the least effort of each that has our recall or more.
Queries take turns, each library on one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from rich.table import Table

from benchmarks.report import publish
from images.sources import open_source
from serving.collection import Collection, Record, create_collection, open_collection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Search = Callable[[Vectors], NDArray[np.int64]]

NEIGHBOURS = 10
QUERIES = 1000
SINGLE_ADDS = 300
RECALL = 0.99
SIZES = {128: (1_000_000, 200_000), 512: (1_000_000, 100_000)}
EFFORTS = (10, 12, 16, 20, 24, 32, 40, 52, 64, 80, 100, 128, 160, 200, 256)


def main() -> None:
    """Measure both dimensions and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer vectors")
    parser.add_argument("--vectors", type=int, help="another number of vectors")
    arguments = parser.parse_args()
    results = {}
    for dim, (full, short) in SIZES.items():
        count = arguments.vectors or (short if arguments.short else full)
        with tempfile.TemporaryDirectory() as folder:
            results[dim] = contest(dim, count, Path(folder), rivals=dim == 128)
    report(results)


class Pictures:
    """Real pictures and the projection that makes vectors of them."""

    def __init__(self, split: str, dim: int, like: Pictures | None = None) -> None:
        items = list(open_source(f"fashion-mnist:{split}"))
        self.images = np.stack([np.asarray(item.read()) for item in items]).reshape(-1, 28, 28)
        if like is None:
            flat = self.images[::6].reshape(-1, 784).astype(np.float32) / 255
            self.mean = flat.mean(0)
            _, _, components = np.linalg.svd(flat - self.mean, full_matrices=False)
            self.projection = components[:dim].T.astype(np.float32)
        else:
            self.mean, self.projection = like.mean, like.projection

    def vectors(self, count: int, random: np.random.Generator) -> Vectors:
        """Of length one, float32 [count, dim]."""
        parts = [self._part(n, random) for n in portions(count, 20_000)]
        return np.concatenate(parts)

    def _part(self, count: int, random: np.random.Generator) -> Vectors:
        chosen = self.images[random.integers(len(self.images), size=count)]
        chosen = np.where(random.random((count, 1, 1)) < 0.5, chosen, chosen[:, :, ::-1])
        padded = np.pad(chosen, ((0, 0), (3, 3), (3, 3)))
        top, left = random.integers(7, size=(2, count, 1))
        rows, columns = top + np.arange(28), left + np.arange(28)
        moved = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
        x = moved.reshape(count, -1).astype(np.float32) / 255
        x *= random.uniform(0.7, 1.3, (count, 1)).astype(np.float32)
        x += 0.03 * random.standard_normal(x.shape, np.float32)
        z: Vectors = (x - self.mean) @ self.projection
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        return z


def portions(count: int, size: int) -> Iterator[int]:
    """Sizes of the parts of a count."""
    for start in range(0, count, size):
        yield min(size, count - start)


def contest(dim: int, count: int, folder: Path, *, rivals: bool) -> dict[str, Any]:
    """All figures of one dimension."""
    pictures = Pictures("train", dim)
    vectors = pictures.vectors(count, np.random.default_rng(0))
    queries = Pictures("test", dim, pictures).vectors(QUERIES, np.random.default_rng(1))
    result: dict[str, Any] = {"vectors": count, "dim": dim}
    with create_collection(folder / "c", "0" * 64, dim, recall=RECALL) as collection:
        result["batch_adds_per_s"] = add_batches(collection, vectors)
        start = time.perf_counter()
        result["index"] = collection.tune()
        result["build_s"] = time.perf_counter() - start
    start = time.perf_counter()
    with open_collection(folder / "c") as collection:
        result["start_s"] = time.perf_counter() - start
        result |= latencies(collection, queries)
        result |= filters(collection, queries[:50])
        if rivals:
            result |= against_rivals(collection, vectors, queries)
        result["single_adds_per_s"] = add_singly(collection, queries[:SINGLE_ADDS])
    return result


def add_batches(collection: Collection, vectors: Vectors) -> float:
    """Items a second in batches of 10,000; every hundredth is on sale."""
    seconds = 0.0
    for start in range(0, len(vectors), 10_000):
        records = [
            Record(f"{n:08}", vectors[n], "", metadata={"sale": True} if n % 100 == 0 else {})
            for n in range(start, min(start + 10_000, len(vectors)))
        ]
        before = time.perf_counter()
        collection.add(records)
        seconds += time.perf_counter() - before
    return len(vectors) / seconds


def add_singly(collection: Collection, vectors: Vectors) -> float:
    """Items a second, each on the disk before the next."""
    start = time.perf_counter()
    for n, vector in enumerate(vectors):
        collection.add([Record(f"single-{n}", vector, "")])
    return len(vectors) / (time.perf_counter() - start)


def latencies(collection: Collection, queries: Vectors) -> dict[str, float]:
    """Recall of fresh queries, and the time of each, one at a time."""
    seconds, shares = [], []
    truth = [hits[-1].score for hits in collection.search(queries, NEIGHBOURS, exact=True)]
    for query, floor in zip(queries, truth, strict=True):
        start = time.perf_counter()
        hits = collection.search(query[None], NEIGHBOURS)[0]
        seconds.append(time.perf_counter() - start)
        shares.append(sum(hit.score >= floor for hit in hits) / NEIGHBOURS)
    return {
        "recall10": statistics.mean(shares),
        "p50_ms": 1000 * statistics.median(seconds),
        "p99_ms": 1000 * float(np.quantile(seconds, 0.99)),
    }


def filters(collection: Collection, queries: Vectors) -> dict[str, float]:
    """One item in a hundred may be found: against comparing all, which is exact as well."""
    scan, filtered = [], []
    for query in queries:
        start = time.perf_counter()
        collection.search(query[None], NEIGHBOURS, exact=True)
        scan.append(time.perf_counter() - start)
        start = time.perf_counter()
        collection.search(query[None], NEIGHBOURS, filter={"sale": True})
        filtered.append(time.perf_counter() - start)
    return {
        "filter_ms": 1000 * statistics.median(filtered),
        "filter_speedup": statistics.median(a / b for a, b in zip(scan, filtered, strict=True)),
    }


def against_rivals(collection: Collection, vectors: Vectors, queries: Vectors) -> dict[str, Any]:
    """Median milliseconds of a query in each library at our recall or more."""
    index = collection._follower.index  # noqa: SLF001 - the graph alone, as the others are
    assert index is not None
    faiss.omp_set_num_threads(1)
    ways: dict[str, Search] = {
        "ours": lambda query: index.search(query, NEIGHBOURS)[0][0] - 1,
        "faiss flat": flat_search(vectors),
    }
    truth = np.stack([ways["faiss flat"](query[None]) for query in queries])
    floors = (vectors[truth[:, -1]] * queries).sum(1)

    def recall(search: Search) -> float:
        found = [search(query[None]) for query in queries]
        scores = np.einsum("qkd,qd->qk", vectors[np.stack(found)], queries)
        return float((scores >= floors[:, None] - 1e-6).sum(1).clip(max=NEIGHBOURS).mean()) / 10

    ours = recall(ways["ours"])
    built, reached = {}, {"ours": ours}
    for name, build in {"hnswlib": hnswlib_search, "usearch": usearch_search}.items():
        if importlib.util.find_spec(name) is None:
            continue
        start = time.perf_counter()
        with_effort = build(vectors)
        built[name] = time.perf_counter() - start
        for effort in EFFORTS:
            ways[name] = with_effort(effort)
            reached[name] = recall(ways[name])
            if reached[name] >= ours:
                break
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for query in queries:
        for name, search in ways.items():
            start = time.perf_counter()
            search(query[None])
            seconds[name].append(time.perf_counter() - start)
    medians = {name: 1000 * statistics.median(times) for name, times in seconds.items()}
    return {"rivals_ms": medians, "rivals_recall": reached, "rivals_build_s": built}


def flat_search(vectors: Vectors) -> Search:
    """Every vector compared."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return lambda query: index.search(query, NEIGHBOURS)[1][0]


def hnswlib_search(vectors: Vectors) -> Callable[[int], Search]:
    """Its graph with the links and effort of ours."""
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), M=16, ef_construction=100)
    index.add_items(vectors)

    def with_effort(effort: int) -> Search:
        def search(query: Vectors) -> NDArray[np.int64]:
            index.set_ef(effort)
            found: NDArray[np.int64] = index.knn_query(query, NEIGHBOURS, num_threads=1)[0][0]
            return found.astype(np.int64)

        return search

    return with_effort


def usearch_search(vectors: Vectors) -> Callable[[int], Search]:
    """Its graph with the same links, in its default precision."""
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", connectivity=16, expansion_add=100)
    index.add(np.arange(len(vectors)), vectors)

    def with_effort(effort: int) -> Search:
        def search(query: Vectors) -> NDArray[np.int64]:
            index.expansion_search = effort
            found: NDArray[np.int64] = index.search(query[0], NEIGHBOURS, threads=1).keys
            return found.astype(np.int64)

        return search

    return with_effort


def report(results: dict[int, dict[str, Any]]) -> None:
    """Tables for people, one line for machines."""
    table = Table("", *(f"{r['vectors']:,} x {dim}" for dim, r in results.items()))
    names = ("recall10", "p50_ms", "p99_ms", "build_s", "start_s", "batch_adds_per_s")
    for name in (*names, "single_adds_per_s", "filter_ms", "filter_speedup"):
        table.add_row(name, *(f"{r[name]:.4g}" for r in results.values()))
    small = results[128]
    beside = Table("library", "ms a query", "recall@10", "build s")
    for name, milliseconds in small["rivals_ms"].items():
        reached, built = small["rivals_recall"].get(name, 1.0), small["rivals_build_s"].get(name)
        beside.add_row(
            name, f"{milliseconds:.3f}", f"{reached:.4f}", f"{built:.0f}" if built else ""
        )
    rival = small["rivals_ms"].get("hnswlib")
    million = small["vectors"] >= 1_000_000
    publish(
        "search_speed",
        metrics={
            **{f"recall10_{dim}": r["recall10"] for dim, r in results.items()},
            **{f"p50_ms_{dim}": r["p50_ms"] for dim, r in results.items()},
            "vs_hnswlib_128": rival / small["rivals_ms"]["ours"] if rival else None,
            "filter_speedup": small["filter_speedup"],
            "single_adds_per_s": small["single_adds_per_s"],
            "batch_adds_per_s": small["batch_adds_per_s"],
            "start_s_1m": small["start_s"] if million else None,
        },
        details={
            "results": {str(dim): r for dim, r in results.items()},
            "not measured": {
                **({} if rival else {"vs_hnswlib_128": "hnswlib is not installed"}),
                **({} if million else {"start_s_1m": "fewer than a million vectors"}),
                "milvus-lite": "not offered yet",
            },
        },
        tables=[table, beside],
        packages=["faiss-cpu", "hnswlib", "usearch", "numpy"],
    )


if __name__ == "__main__":
    main()

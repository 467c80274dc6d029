"""Whether collections keep the recall they promise, on queries that nothing was tuned with.

    python -m benchmarks.promise_kept [--short] [--only 3,7]

Each data set (`promise_data`) becomes a collection on the disk. It is filled, tuned, and then, as
its line says, grows in batches with the upkeep that a service has, or loses items. A thousand fresh
queries are answered one by one and compared with exact searches. A promise is broken where even the
upper end of the 95 % interval of the recall (`serving.collection.upkeep.tuning.interval`) is
below the recall asked for. The full form takes five times as many items.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from benchmarks.promise_data import DATA_SETS
from benchmarks.report import publish
from serving.collection import Collection, Record, create_collection
from serving.collection.upkeep.tuning import interval

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.promise_data import DataSet, Vectors

QUERIES = 1000
NEIGHBORS = 10
BATCH = 5000
FULL = 5


def main() -> None:
    """Measure every data set and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a fifth of the items")
    parser.add_argument("--only", help="numbers of data sets, from 0")
    arguments = parser.parse_args()
    numbers = list(range(len(DATA_SETS)))
    if arguments.only:
        numbers = [int(number) for number in arguments.only.split(",")]
    results = []
    for number in numbers:
        start = time.perf_counter()
        result = {"number": number} | measure(DATA_SETS[number], 1 if arguments.short else FULL)
        result["seconds"] = time.perf_counter() - start
        print(result, file=sys.stderr, flush=True)
        results.append(result)
    report(results)


def measure(data: DataSet, times: int) -> dict[str, Any]:
    """Return what a collection of the data set promises and what it does."""
    size = data.size * times
    limit = None if data.bytes_each is None else size * data.bytes_each
    with (
        tempfile.TemporaryDirectory() as folder,
        create_collection(
            Path(folder) / "c",
            "0" * 64,
            data.dim,
            recall=data.recall,
            memory=limit,
            index=data.index,
        ) as collection,
    ):
        fill(collection, data, size)
        queries = fresh_queries(data)
        if data.removed:
            collection.remove(doomed(collection, data, queries))
            while collection.maintain(threads=2):
                pass
        index = collection.stats()["index"]
        shares, seconds = answers(collection, queries)
        items = len(collection)
    low, high = interval(shares)
    recall = statistics.mean(shares)
    return {
        "name": data.name,
        "dim": data.dim,
        "items": items,
        "change": change(data),
        "asked": data.recall,
        "kind": index["kind"],
        "in_file": index["in_file"],
        "tuned": index["measured"]["recall"],
        "recall": recall,
        "low": low,
        "high": high,
        "kept": high >= data.recall,
        "p50_ms": 1000 * statistics.median(seconds),
        "bytes_each": index["bytes"] / items,
        "memory_kept": index["kept"].get("memory"),
        "tried": index["measured"]["tried"],
    }


def fill(collection: Collection, data: DataSet, size: int) -> None:
    """Add the first items, tune, and add the others as a service would take them."""
    first = size - int(size * data.grown)
    for records in batches(data.source(first, 0, 0), 0):
        collection.add(records)
    collection.tune()
    if data.grown:
        phase = int(data.drift)
        for records in batches(data.source(size - first, 2, phase), first):
            collection.add(records)
            while collection.maintain(threads=2):
                pass


def batches(vectors: Vectors, first: int) -> Iterator[list[Record]]:
    """Yield the records that are added together."""
    for start in range(0, len(vectors), BATCH):
        chunk = vectors[start : start + BATCH]
        yield [Record(f"{first + start + n:08}", vector, "") for n, vector in enumerate(chunk)]


def fresh_queries(data: DataSet) -> Vectors:
    """From the distribution of all that is in, float32 [1000, dim]; seeds are odd."""
    if not data.drift:
        return data.source(QUERIES, 1, 0)
    later = int(QUERIES * data.grown)
    return np.concatenate([data.source(QUERIES - later, 1, 0), data.source(later, 3, 1)])


def doomed(collection: Collection, data: DataSet, queries: Vectors) -> list[str]:
    """Return the keys of the items to be removed: a random sample, or all around some queries."""
    count = int(len(collection) * data.removed)
    if not data.near:
        keys = collection.keys(limit=len(collection))
        return list(np.random.default_rng(5).choice(keys, count, replace=False))
    keys_of_hits: dict[str, None] = {}
    for query in queries:
        hits = collection.search(query[None], count // 10, exact=True)[0]
        keys_of_hits |= dict.fromkeys(hit.key for hit in hits)
        if len(keys_of_hits) >= count:
            break
    return list(keys_of_hits)[:count]


def answers(collection: Collection, queries: Vectors) -> tuple[list[float], list[float]]:
    """Share of the ten nearest that each search finds, and its seconds."""
    floors = [hits[-1].score for hits in collection.search(queries, NEIGHBORS, exact=True)]
    shares, seconds = [], []
    for query, floor in zip(queries, floors, strict=True):
        start = time.perf_counter()
        hits = collection.search(query[None], NEIGHBORS)[0]
        seconds.append(time.perf_counter() - start)
        shares.append(sum(hit.score >= floor for hit in hits) / NEIGHBORS)
    return shares, seconds


def change(data: DataSet) -> str:
    """Return what happened after tuning, in words."""
    changes = []
    if data.grown:
        where = " elsewhere" if data.drift else ""
        changes.append(f"{data.grown:.0%} added{where}")
    if data.removed:
        changes.append(f"{data.removed:.0%} removed{' in places' if data.near else ''}")
    return ", ".join(changes)


def report(results: list[dict[str, Any]]) -> None:
    """Print a table for people and one line for machines."""
    names = ("data", "items x dim", "then", "asked", "recall", "95 %", "index", "B/item", "ms")
    table = Table(*names, title="Recall@10 of fresh queries against the one promised")
    for r in results:
        table.add_row(
            r["name"],
            f"{r['items']:,} x {r['dim']}",
            r["change"],
            f"{r['asked']}",
            f"{r['recall']:.4f}" if r["kept"] else f"[red]{r['recall']:.4f} BROKEN",
            f"{r['low']:.4f} to {r['high']:.4f}",
            f"{r['kind']}{', file' if r['in_file'] else ''}",
            f"{r['bytes_each']:.0f}",
            f"{r['p50_ms']:.2f}",
        )
    publish(
        "promise_kept",
        metrics={
            "data_sets": len(results),
            "kept": sum(r["kept"] for r in results),
            "least_margin": min(r["high"] - r["asked"] for r in results),
            "approximate": sum(r["kind"] != "Flat" for r in results),
        },
        details={"results": results},
        tables=[table],
        packages=["faiss-cpu", "numpy"],
    )


if __name__ == "__main__":
    main()

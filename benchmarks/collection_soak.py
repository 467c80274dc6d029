"""Kill a collection's writer at random moments: is every acknowledged change there, and no other?

    python -m benchmarks.collection_soak --kills 200
    python -m benchmarks.collection_soak --short

A writer in a process of its own (`benchmarks.collection_writer`) adds, replaces and removes items,
saves and tunes the index, compacts, backs up, and brings the collection over to another encoder.
Before each call it says what it is about to do, after it that it is done. The parent picks one of
these kinds, waits for it, and sends SIGKILL at a random moment of its usual duration. Then it opens
the collection and compares it with a model, a dictionary that has followed what was said:

- every acknowledged change is there, whatever was removed or replaced is not back;
- the change that was under way is there as a whole or not at all; a backup likewise;
- `verify` finds nothing; no item is there twice, nor a hit;
- exact searches, with and without filter, and those for everything give what brute force gives, in
  a new process' eyes and in those of a reader that was open all along; the others keep the
  promised recall.

The first thing that is not so ends it with an AssertionError. Not shown by this: what a power cut
does (the kernel lives on here), and collections in Milvus.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from benchmarks.collection_truth import TOLERANCE, Model, Truth, content
from benchmarks.collection_writer import (
    DIM,
    KINDS,
    backup_of,
    digest_of,
    records_of,
    table_of,
)
from benchmarks.report import publish

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving.collection import Collection

ITEMS = 22_000  # at first: enough for a graph
RECALL, QUERIES = 0.95, 8
DEADLINE = 120.0  # seconds for the writer to come to a call
LONGER = 1.3  # than usual may pass before it is killed

"""The number of an item to its version, which no two writes have in common."""


class Ordeal:
    """A collection, the model of it, and what has happened so far."""

    def __init__(self, folder: Path, items: int, seed: int) -> None:
        from serving.collection import create_collection, open_collection

        self.folder, self.rng = folder / "shop", random.Random(seed)
        self.model: Model = dict.fromkeys(range(items), 0)
        self.encoder, self.version = 1, 0
        with create_collection(self.folder, digest_of(1), DIM, recall=RECALL) as made:
            made.add(records_of(table_of(1), list(self.model), 0))
            made.tune()
        self.reader = open_collection(self.folder)
        self.calls: Counter[str] = Counter()  # acknowledged ones
        self.kills: Counter[str] = Counter()  # by what was under way
        self.whole: Counter[str] = Counter()  # not acknowledged, and there all the same
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.hits = self.nearest = self.searches = self.strays = 0
        self.indexes: Counter[str] = Counter()

    def kill_one(self, kind: str) -> None:
        """Start a writer, kill it in a call of the kind, and look at what it leaves."""
        backups: dict[int, Model] = {}
        under_way: dict[str, Any] | None = None
        for line in self.lines_until_killed(kind):
            if "kind" in line:
                under_way = line
                self.version = line["version"]
            elif under_way is not None and "done" in line:
                self.calls[under_way["kind"]] += 1
                self.seconds[under_way["kind"]].append(line["seconds"])
                if under_way["kind"] == "backup":
                    backups[line["done"]] = dict(self.model)
                self.model, self.encoder = self.after(under_way)
                under_way = None
        self.kills["between calls" if under_way is None else under_way["kind"]] += 1
        self.check(under_way)
        if under_way is not None and backup_of(self.folder, under_way["version"]).exists():
            backups[under_way["version"]] = self.model
            self.whole["backup"] += 1
        self.check_backups(backups)

    def lines_until_killed(self, kind: str) -> Iterator[dict[str, Any]]:
        """Yield what a writer says; it is killed at a random moment of its first such call."""
        arguments = [self.folder, kind, self.version, self.rng.randrange(2**31)]
        command = [sys.executable, "-m", "benchmarks.collection_writer", *map(str, arguments)]
        lines: Queue[bytes] = Queue()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            stdout = writer.stdout

            def listen() -> None:
                for line in stdout:
                    lines.put(line)

            listener = threading.Thread(target=listen)
            listener.start()
            to_do = [kind] if self.seconds[kind] else [kind, "done"]  # how long does it take?
            try:
                while to_do:
                    line = json.loads(lines.get(timeout=DEADLINE))
                    yield line
                    if to_do[0] in (line.get("kind"), *line):
                        to_do.pop(0)
                if self.seconds[kind]:
                    usual = statistics.median(self.seconds[kind][-9:])
                    time.sleep(self.rng.uniform(0, LONGER * usual))
            except Empty:
                raise SystemExit(f"the writer came to no {kind} in {DEADLINE:.0f} s") from None
            finally:
                writer.kill()
                listener.join()
            assert writer.wait() == -9, "the writer failed by itself"
        while not lines.empty():
            said = lines.get()
            assert said.endswith(b"\n"), "a line is cut off"
            yield json.loads(said)

    def after(self, call: dict[str, Any]) -> tuple[Model, int]:
        """Return model and encoder when the call is done."""
        model, encoder = dict(self.model), self.encoder
        if call["kind"] in ("add", "put"):
            model |= dict.fromkeys(call["numbers"], call["version"])
        elif call["kind"] == "remove":
            for number in call["numbers"]:
                model.pop(number, None)
        elif call["kind"] == "rebuild":
            encoder = call["encoder"]
        return model, encoder

    def check(self, under_way: dict[str, Any] | None) -> None:
        """Compare the collection with the model; adopt what was under way if it is there."""
        from serving.collection import CollectionRebuilt, open_collection
        from serving.collection.verification import verify

        possible = [(self.model, self.encoder)]
        if under_way is not None:
            possible.append(self.after(under_way))
        with open_collection(self.folder) as opened:
            state = content(opened), int(opened.encoder_digest, 16)
            assert state in possible, f"neither before nor after {under_way}"
            if under_way is not None and possible[0] != possible[1] and state == possible[1]:
                self.whole[under_way["kind"]] += 1
            self.model, self.encoder = state
            truth = Truth(self.model, table_of(self.encoder))
            truth.check_vectors(opened)
            self.check_searches(opened, truth)
            index = opened.stats()["index"]
            self.indexes[index["kind"]] += 1
        try:
            len(self.reader)
        except CollectionRebuilt:
            self.reader.close()
            self.reader = open_collection(self.folder)
        self.check_searches(self.reader, truth)
        report = verify(self.folder)
        assert (report.faults, report.items) == (0, len(self.model)), report.messages
        self.strays += remove_strays(self.folder.parent)

    def check_searches(self, collection: Collection, truth: Truth) -> None:
        """Search in every way and compare with brute force."""
        rng = np.random.default_rng(self.rng.randrange(2**31))
        queries = rng.standard_normal((QUERIES, DIM)).astype(np.float32)
        for condition in (None, {"third": 1, "label": {"$in": ["l0", "l3"]}}):
            exact = collection.search(queries, 10, filter=condition, exact=True)
            for query, hits in zip(queries, exact, strict=True):
                truth.check_hits(query, hits, condition is not None, 10, None)
        (most,) = collection.search(queries[:1], None, min_score=0.6)
        truth.check_hits(queries[0], most, False, None, 0.6)
        (everyone,) = collection.search(queries[:1], len(truth.numbers) + 10)
        keys = sorted(hit.key for hit in everyone)
        assert keys == [f"{number:06}" for number in sorted(truth.numbers)], "not each item once"
        for query, hits in zip(queries, collection.search(queries, 10), strict=True):
            nearest = truth.scores(query, False)[:10]
            self.hits += sum(hit.score >= nearest[-1] - TOLERANCE for hit in hits)
            self.nearest += len(nearest)
        self.searches += 3 * QUERIES + 2

    def check_backups(self, backups: dict[int, Model]) -> None:
        """Every backup there is must be whole; then it is removed."""
        from serving.collection import open_collection
        from serving.collection.verification import verify

        for version, model in backups.items():
            copy = backup_of(self.folder, version)
            assert verify(copy).faults == 0
            with open_collection(copy) as opened:
                assert content(opened) == model, "a backup is of another moment"
            shutil.rmtree(copy)
        assert not list(self.folder.parent.glob("backup-*")), "there is a backup of nobody"


def remove_strays(folder: Path) -> int:
    """Remove unfinished backups, which are not collections; return how many there were."""
    strays = list(folder.glob(".backup-*.new"))
    for stray in strays:
        shutil.rmtree(stray)
    return len(strays)


def survive(folder: Path, kills: int, items: int, seed: int) -> None:
    """Kill so often, each kind as often as the others, and print what came of it."""
    start = time.monotonic()
    ordeal = Ordeal(folder, items, seed)
    for number in range(kills):
        ordeal.kill_one(KINDS[number % len(KINDS)])
        print(f"\r{number + 1} kills", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    ordeal.reader.close()
    recall = ordeal.hits / ordeal.nearest
    assert recall >= RECALL, f"the recall was {recall:.4f}, promised were {RECALL}"
    table = Table("call", "acknowledged", "killed in it", "of these there as a whole")
    for kind in (*KINDS, "between calls"):
        changes = kind in ("add", "put", "remove", "backup", "rebuild")
        whole = str(ordeal.whole[kind]) if changes else "changes no item"
        calls = "" if kind == "between calls" else str(ordeal.calls[kind])
        table.add_row(kind, calls, str(ordeal.kills[kind]), whole if calls else "")
    publish(
        "collection_soak",
        metrics={"kills": kills, "recall10": round(recall, 4)},
        details={
            "items": len(ordeal.model),
            "acknowledged": sum(ordeal.calls.values()),
            "calls": dict(ordeal.calls),
            "killed_in": dict(ordeal.kills),
            "there_as_a_whole": dict(ordeal.whole),
            "searches_compared": ordeal.searches,
            "index": dict(ordeal.indexes),
            "encoders": ordeal.encoder,
            "unfinished_backups_left": ordeal.strays,
            "seconds": round(time.monotonic() - start, 1),
        },
        tables=[table],
        packages=["faiss-cpu", "numpy"],
    )


def main() -> None:
    """Kill as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--items", type=int, default=ITEMS, help="at first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="16 kills")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        survive(Path(name), 16 if options.short else options.kills, options.items, options.seed)


if __name__ == "__main__":
    main()

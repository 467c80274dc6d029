"""The writer of a collection that `benchmarks.collection_soak` kills, and what both sides know.

It says on standard output what it is about to do before each call, and after it that it is done:
one line of JSON each.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from serving.collection import Record

DIM, TABLE_ROWS = 16, 100_003
NUMBERS = 30_000  # keys there may be
PUT, REMOVED = 200, 50  # the most of one call
KINDS = ("add", "put", "remove", "save", "tune", "compact", "backup", "rebuild")
FILLERS = ("add", "put", "remove", "save")  # what is done around the call that is killed


def table_of(encoder: int) -> NDArray[np.float32]:
    """Return the vectors that an encoder gives, float32 [TABLE_ROWS, DIM]."""
    return np.random.default_rng(encoder).standard_normal((TABLE_ROWS, DIM)).astype(np.float32)


def vectors_of(table: NDArray[np.float32], numbers: Any, versions: Any) -> NDArray[np.float32]:
    """Return the vectors [N, DIM] of items."""
    rows = np.asarray(numbers, np.int64) * 7919 + np.asarray(versions, np.int64) * 104_729
    vectors: NDArray[np.float32] = table[rows % TABLE_ROWS]
    return vectors


def records_of(table: NDArray[np.float32], numbers: list[int], version: int) -> Iterator[Record]:
    """Yield the items of one write."""
    from serving.collection import Record

    for number, vector in zip(
        numbers, vectors_of(table, numbers, [version] * len(numbers)), strict=True
    ):
        metadata = {"version": version, "third": number % 3}
        yield Record(f"{number:06}", vector, f"/{number}", f"l{number % 7}", metadata=metadata)


def digest_of(encoder: int) -> str:
    """Return what stands for the digest of an encoder's file."""
    return f"{encoder:064x}"


def write(folder: Path, kind: str, version: int, seed: int) -> None:
    """Work until killed: some calls, one of the kind, then any."""
    rng = random.Random(seed)
    first = [rng.choice(FILLERS) for _ in range(rng.randrange(6))] + [kind]
    writer = Writer(folder, rng, version)
    say(begun=True)
    for one in first:
        writer.do(one)
    while True:
        writer.do(rng.choice(KINDS))


def say(**what: object) -> None:
    """Send one line to the parent; it has left this process before this returns."""
    os.write(1, json.dumps(what).encode() + b"\n")


class Writer:
    """Does one call after the other, each announced and acknowledged."""

    def __init__(self, folder: Path, rng: random.Random, version: int) -> None:
        from serving.collection import open_collection

        self.folder, self.rng, self.version = folder, rng, version
        self.collection = open_collection(folder)
        self.encoder = int(self.collection.encoder_digest, 16)
        self.table = table_of(self.encoder)

    def do(self, kind: str) -> None:
        """Do one call."""
        self.version += 1
        numbers: list[int] = []
        if kind in ("add", "put", "remove"):
            most = REMOVED if kind == "remove" else PUT
            numbers = self.rng.sample(range(NUMBERS), self.rng.randrange(1, most))
        if kind == "add":
            there = set(self.collection.existing([f"{number:06}" for number in numbers]))
            numbers = [number for number in numbers if f"{number:06}" not in there]
        say(kind=kind, version=self.version, numbers=numbers, encoder=self.encoder + 1)
        begun = time.perf_counter()
        getattr(self, kind)(numbers)
        say(done=self.version, seconds=time.perf_counter() - begun)

    def add(self, numbers: list[int]) -> None:
        """Add new items."""
        self.collection.add(records_of(self.table, numbers, self.version))

    def put(self, numbers: list[int]) -> None:
        """Add new items and replace existing ones."""
        self.collection.add(records_of(self.table, numbers, self.version), "replace")

    def remove(self, numbers: list[int]) -> None:
        """Remove items that are there, and some that are not."""
        self.collection.remove([f"{number:06}" for number in numbers])

    def save(self, _: list[int]) -> None:
        """Save the index as it is."""
        self.collection.save()

    def tune(self, _: list[int]) -> None:
        """Build a new graph."""
        self.collection.tune(threads=1)

    def compact(self, _: list[int]) -> None:
        """Compact, without removed items."""
        self.collection.compact(threads=1)

    def backup(self, _: list[int]) -> None:
        """Back up beside the collection."""
        self.collection.back_up(backup_of(self.folder, self.version))

    def rebuild(self, _: list[int]) -> None:
        """Bring it over to the next encoder, resuming what an earlier run has left."""
        from serving.collection import Record, open_collection
        from serving.collection.upkeep.rebuilding import NewEncoder

        new = self.encoder + 1
        table = table_of(new)
        versions = {
            item.key: item.metadata["version"] for item in self.collection.items(limit=NUMBERS)
        }
        encoder = NewEncoder(sha256=digest_of(new), dim=DIM, path="/new")
        with self.collection.rebuilding(encoder) as rebuilder:
            rebuilder.begin()
            after = 0
            while pending := rebuilder.pending(after, 2000):
                keys = [one.item.key for one in pending]
                vectors = vectors_of(table, list(map(int, keys)), [versions[key] for key in keys])
                rebuilder.store(
                    [
                        (one.number, Record(key, vector, ""))
                        for one, key, vector in zip(pending, keys, vectors, strict=True)
                    ]
                )
                after = pending[-1].number
            rebuilder.finish([])
        self.collection.close()
        self.collection = open_collection(self.folder)
        self.encoder, self.table = new, table


def backup_of(folder: Path, version: int) -> Path:
    """Return where a backup goes."""
    return folder.with_name(f"backup-{version}")


def main() -> None:
    """Take a collection's folder, a kind, a version and a seed, and work until killed."""
    folder, kind, version, seed = sys.argv[1:]
    write(Path(folder), kind, int(version), int(seed))


if __name__ == "__main__":
    main()

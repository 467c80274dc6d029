"""What can be read from and written to the ledger inside one transaction."""

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from base.errors import ArtifactError, UsageError
from serving.collection.contract.filters import field_rows, selection
from serving.collection.contract.promise import Promise
from serving.collection.contract.records import Hit, Record, Row
from serving.collection.contract.stored_vectors import Dtype, bytes_of, loaded

BLOCK_ROWS = 4096
# How far behind a reader may be and still be told what was removed; it bounds the ledger's history.
KEPT_CHANGES = 1_000_000
MOST_VARIABLES = 500  # SQLite takes at least 999 in one statement, whatever its version

T = TypeVar("T")
Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]

_FIELDS = "key, uri, label, width, height, sha256, metadata"


class View:
    """Reads the ledger as it was at one moment."""

    def __init__(self, connection: sqlite3.Connection, dim: int, dtype: Dtype) -> None:
        self._connection = connection
        self.dim = dim
        self.dtype = dtype
        self.sequence: int
        self.pruned: int  # the last removal that is no longer remembered
        self.generation: str
        self.sequence, self.pruned, self.generation, recall, *rest = connection.execute(
            "SELECT sequence, pruned, generation, recall, memory_bytes, latency_ms, index_kind"
            " FROM collection"
        ).fetchone()
        self.promise = Promise(recall=recall, memory=rest[0], latency=rest[1], index=rest[2])

    def count(self) -> int:
        """How many items there are."""
        return int(self._one("SELECT count(*) FROM items"))

    def count_labels(self) -> int:
        """How many different labels there are."""
        return int(self._one("SELECT count(DISTINCT label) FROM items"))

    def count_removals(self) -> int:
        """How many removals the ledger remembers."""
        return int(self._one("SELECT count(*) FROM removals"))

    def count_at(self, sequence: int) -> int:
        """How many items there were after a change; not for changes before `pruned`."""
        # Those since are counted, not those before: that would read all items for a few new ones.
        added = self._one("SELECT count(*) FROM items WHERE sequence > ?", [sequence])
        removed = self._one(
            "SELECT count(*) FROM removals WHERE sequence > ? AND item <= ?", [sequence, sequence]
        )
        return self.count() - int(added) + int(removed)

    def ids(self) -> Ids:
        """Numbers of all items, ascending."""
        rows = self._connection.execute("SELECT sequence FROM items ORDER BY sequence").fetchall()
        return np.fromiter((row[0] for row in rows), np.int64, len(rows))

    def vector(self, number: int) -> Vectors | None:
        """Return the vector float32 [E] of an item, or None if it is no longer there."""
        row = self._connection.execute(
            "SELECT vector FROM vectors WHERE sequence = ?", (number,)
        ).fetchone()
        return None if row is None else self._matrix([row[0]], np.array([number]))[0]

    def vectors_since(self, sequence: int) -> Iterator[tuple[Ids, Vectors]]:
        """Items that were added after a change and are still there, oldest first, in blocks.

        Yields:
            their numbers int64 [B] and vectors float32 [B, E].

        Raises:
            ArtifactError: a vector is not what was written.
        """
        cursor = self._connection.execute(
            "SELECT sequence, vector, crc32 FROM vectors WHERE sequence > ? ORDER BY sequence",
            (sequence,),
        )
        while rows := cursor.fetchmany(BLOCK_ROWS):
            ids = np.fromiter((row[0] for row in rows), np.int64, len(rows))
            vectors = self._matrix([row[1] for row in rows], ids)
            damaged = [row[0] for row in rows if zlib.crc32(row[1]) != row[2]]
            if damaged:
                key = self.keys_of(damaged[:1]).get(damaged[0], "?")
                more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
                raise ArtifactError(
                    f"the ledger is damaged: the vector of {key!r} is not the one that was "
                    f"written{more}; restore it from a backup, or remove the item and add it again"
                )
            yield ids, vectors

    def removed_since(self, sequence: int, known: Ids) -> Ids:
        """Numbers of the items removed after a change, among those known then or more."""
        if sequence < self.pruned:  # what is not remembered is seen by what is missing
            return np.setdiff1d(known, self.ids(), assume_unique=True)
        rows = self._connection.execute(
            "SELECT item FROM removals WHERE sequence > ?", (sequence,)
        ).fetchall()
        return np.fromiter((row[0] for row in rows), np.int64, len(rows))

    def matching(self, condition: Mapping[str, Any]) -> Ids:
        """Numbers of the items that meet a filter, ascending."""
        statement, values, _ = selection(condition)
        # as one text: as rows, each number would take three times as long
        text = self._one(f"SELECT group_concat(sequence) FROM ({statement})", values)  # noqa: S608
        ids = np.fromstring(text or "", np.int64, sep=",")
        ids.sort()
        # not np.unique: it hashes, which is far slower than sorting what is nearly sorted
        return ids[np.diff(ids, prepend=-1) > 0]

    def get(self, key: str) -> Record | None:
        """One item with its vector."""
        if not is_text(key):
            return None
        row = self._connection.execute(
            f"SELECT {_FIELDS}, vector FROM items JOIN vectors USING (sequence) WHERE key = ?",  # noqa: S608
            (key,),
        ).fetchone()
        return None if row is None else self._record(row)

    def page(self, after: str | None, limit: int) -> list[Record]:
        """Return the next items in the order of their keys."""
        rows = self._connection.execute(
            f"SELECT {_FIELDS}, vector FROM items JOIN vectors USING (sequence)"  # noqa: S608
            " WHERE key > ? ORDER BY key LIMIT ?",
            (page_start(after), limit),
        )
        return [self._record(row) for row in rows]

    def keys(self, after: str | None, limit: int) -> list[str]:
        """Return the next keys in order (of code points, which is that of their UTF-8 bytes)."""
        rows = self._connection.execute(
            "SELECT key FROM items WHERE key > ? ORDER BY key LIMIT ?", (page_start(after), limit)
        )
        return [row[0] for row in rows]

    def without_rebuilt(self, after: int, limit: int) -> list[tuple[int, str, str, str | None]]:
        """Return number, key, uri and label of the next items that `rebuilt` does not have."""
        return self._connection.execute(
            "SELECT sequence, key, uri, label FROM items WHERE sequence > ?"
            " AND sequence NOT IN (SELECT sequence FROM rebuilt) ORDER BY sequence LIMIT ?",
            (after, limit),
        ).fetchall()

    def find(self, keys: Sequence[str]) -> dict[str, tuple[int, Row]]:
        """Those of the keys that are there, with their numbers and content."""
        found = {}
        for part in chunks([key for key in keys if is_text(key)], MOST_VARIABLES):
            rows = self._connection.execute(
                f"SELECT sequence, vector, {_FIELDS} FROM items JOIN vectors USING (sequence)"  # noqa: S608
                f" WHERE key IN ({_marks(part)})",
                part,
            )
            for sequence, vector, key, *rest in rows:
                found[key] = (int(sequence), Row(key, vector, *rest))
        return found

    def present(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys that are there."""
        found: set[str] = set()
        for part in chunks([key for key in keys if is_text(key)], MOST_VARIABLES):
            rows = self._connection.execute(
                f"SELECT key FROM items WHERE key IN ({_marks(part)})",  # noqa: S608
                part,
            )
            found.update(row[0] for row in rows)
        return found

    def keys_of(self, ids: Sequence[int]) -> dict[int, str]:
        """Return the keys of items by their numbers."""
        found: dict[int, str] = {}
        for part in chunks(ids, MOST_VARIABLES):
            found.update(
                self._connection.execute(
                    f"SELECT sequence, key FROM items WHERE sequence IN ({_marks(part)})",  # noqa: S608
                    part,
                )
            )
        return found

    def hits(self, ids: Sequence[int], scores: Sequence[float]) -> list[Hit]:
        """Return the items of these numbers with these scores, in the order given."""
        found = {}
        for part in chunks(ids, MOST_VARIABLES):
            rows = self._connection.execute(
                "SELECT sequence, key, uri, label, metadata FROM items"  # noqa: S608
                f" WHERE sequence IN ({_marks(part)})",
                part,
            )
            found.update({row[0]: row[1:] for row in rows})
        return [
            Hit(key, score, uri, label, json.loads(metadata))
            for (key, uri, label, metadata), score in zip(
                (found[number] for number in ids), scores, strict=True
            )
        ]

    def _record(self, row: tuple[Any, ...]) -> Record:
        key, uri, label, width, height, sha256, metadata, vector = row
        values = self._matrix([vector], np.zeros(1, np.int64))[0]
        return Record(key, values, uri, label, width, height, sha256, json.loads(metadata))

    def _matrix(self, blobs: list[bytes], ids: Ids) -> Vectors:
        right = bytes_of(self.dim, self.dtype)
        wrong = [i for i, blob in enumerate(blobs) if len(blob) != right]
        if wrong:
            raise ArtifactError(
                f"the ledger is damaged: item {ids[wrong[0]]} has {len(blobs[wrong[0]])} bytes of "
                f"vector, {right} are right; restore it from a backup, or make the "
                "collection anew from its features"
            )
        return loaded(blobs, self.dim, self.dtype)

    def _one(self, query: str, values: Sequence[Any] = ()) -> Any:
        return self._connection.execute(query, values).fetchone()[0]


class Writing(View):
    """Changes the ledger; every change has its own number, one more than the one before."""

    def __init__(self, connection: sqlite3.Connection, dim: int, dtype: Dtype) -> None:
        super().__init__(connection, dim, dtype)
        self._before = self.sequence

    def insert(self, row: Row) -> None:
        """Add an item. Its key must not be there."""
        self.sequence += 1
        self._connection.execute(
            f"INSERT INTO items (sequence, {_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            (
                self.sequence,
                row.key,
                row.uri,
                row.label,
                row.width,
                row.height,
                row.sha256,
                row.metadata,
            ),
        )
        self._connection.execute(
            "INSERT INTO vectors (sequence, vector, crc32) VALUES (?, ?, ?)",
            (self.sequence, row.vector, zlib.crc32(row.vector)),
        )
        if row.metadata != "{}":
            self._connection.executemany(
                "INSERT INTO fields (name, kind, value, item) VALUES (?, ?, ?, ?)",
                _fields(row.metadata, self.sequence),
            )

    def remove(self, item: int) -> None:
        """Remove an item by its number."""
        self.sequence += 1
        (metadata,) = self._connection.execute(
            "DELETE FROM items WHERE sequence = ? RETURNING metadata", (item,)
        ).fetchone()
        self._connection.executemany(
            "DELETE FROM fields WHERE name = ? AND kind = ? AND value = ? AND item = ?",
            _fields(metadata, item),
        )
        self._connection.execute("DELETE FROM vectors WHERE sequence = ?", (item,))
        self._connection.execute(
            "INSERT INTO removals (sequence, item) VALUES (?, ?)", (self.sequence, item)
        )

    def promise_from_now(self, promise: Promise) -> None:
        """Set what searches promise."""
        self.promise = promise
        self._connection.execute(
            "UPDATE collection SET recall = ?, memory_bytes = ?, latency_ms = ?, index_kind = ?",
            (promise.recall, promise.memory, promise.latency, promise.index),
        )

    def finish(self) -> None:
        """Note the last number; to be called before the transaction ends."""
        if self.sequence != self._before:
            self.forget_removals(self.sequence - KEPT_CHANGES)
            self._connection.execute("UPDATE collection SET sequence = ?", (self.sequence,))

    def forget_removals(self, last: int) -> None:
        """Forget the removals up to a change; who was not that far compares all items."""
        (newest,) = self._connection.execute(
            "SELECT max(sequence) FROM removals WHERE sequence <= ?", (last,)
        ).fetchone()
        if newest is not None:
            self._connection.execute("DELETE FROM removals WHERE sequence <= ?", (newest,))
            self._connection.execute("UPDATE collection SET pruned = ?", (newest,))
            self.pruned = newest


def chunks(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the values in pieces of at most `size`."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _fields(metadata: str, item: int) -> list[tuple[str, int, Any, int]]:
    return [(*row, item) for row in field_rows(json.loads(metadata))]


def is_text(key: object) -> bool:
    """Whether a key can be in a ledger at all: SQLite takes UTF-8 and nothing else."""
    try:
        return isinstance(key, str) and bool(key.encode())
    except UnicodeEncodeError:
        return False


def page_start(after: str | None) -> str:
    """Return what the keys of a page are greater than.

    Raises:
        UsageError: no key could be that.
    """
    if after and not is_text(after):
        raise UsageError(f"after is {after!r}, which no key can be")
    return after or ""


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))

"""What can be read from a ledger in one transaction: its content at one moment."""

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from base.errors import ArtifactError
from serving.collection.contract.filters import selection
from serving.collection.contract.keys import chunks, is_utf8, page_start
from serving.collection.contract.promise import Promise
from serving.collection.contract.records import Hit, Record, Row
from serving.collection.contract.scores import Ids, Vectors
from serving.collection.contract.stored_vectors import Dtype, bytes_of, loaded

BLOCK_ROWS = 4096
MOST_VARIABLES = 500  # SQLite takes at least 999 in one statement, whatever its version

FIELDS = "key, uri, label, width, height, sha256, metadata"


class View:
    """Read the ledger as it was at one moment."""

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
        """Return how many items there are."""
        return int(self._one("SELECT count(*) FROM items"))

    def count_labels(self) -> int:
        """Return how many different labels there are."""
        return int(self._one("SELECT count(DISTINCT label) FROM items"))

    def count_removals(self) -> int:
        """Return how many removals the ledger remembers."""
        return int(self._one("SELECT count(*) FROM removals"))

    def count_at(self, sequence: int) -> int:
        """Return how many items there were after a change; not for changes before `pruned`."""
        # Those since are counted, not those before: that would read all items for a few new ones.
        added = self._one("SELECT count(*) FROM items WHERE sequence > ?", [sequence])
        removed = self._one(
            "SELECT count(*) FROM removals WHERE sequence > ? AND item <= ?", [sequence, sequence]
        )
        return self.count() - int(added) + int(removed)

    def ids(self) -> Ids:
        """Return the numbers of all items, ascending."""
        rows = self._connection.execute("SELECT sequence FROM items ORDER BY sequence").fetchall()
        return np.fromiter((row[0] for row in rows), np.int64, len(rows))

    def vector(self, number: int) -> Vectors | None:
        """Return the vector float32 [E] of an item, or None if it is no longer there."""
        row = self._connection.execute(
            "SELECT vector FROM vectors WHERE sequence = ?", (number,)
        ).fetchone()
        return None if row is None else self._matrix([row[0]], np.array([number]))[0]

    def vectors_since(self, sequence: int) -> Iterator[tuple[Ids, Vectors]]:
        """Yield the items added after a change that are still there, oldest first, in blocks.

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
                raise self.damaged_vectors(damaged, "is not the one that was written")
            yield ids, vectors

    def damaged_vectors(self, ids: Sequence[int], fault: str) -> ArtifactError:
        """Return the error to raise for vectors that have a fault, with a key and the remedy."""
        key = self.keys_of(ids[:1]).get(ids[0], "?")
        more = f" (and {len(ids) - 1} more)" if len(ids) > 1 else ""
        return ArtifactError(
            f"the ledger is damaged: the vector of {key!r} {fault}{more}; restore it from a "
            "backup, or remove the item and add it again"
        )

    def removed_since(self, sequence: int, ids: Ids) -> Ids:
        """Return the numbers of the items removed after a change.

        Args:
            sequence: the number of the change.
            ids: the items there were then; needed where the ledger no longer remembers them.
        """
        if sequence < self.pruned:  # forgotten removals show in what is missing
            return np.setdiff1d(ids, self.ids(), assume_unique=True)
        rows = self._connection.execute(
            "SELECT item FROM removals WHERE sequence > ?", (sequence,)
        ).fetchall()
        return np.fromiter((row[0] for row in rows), np.int64, len(rows))

    def matching(self, condition: Mapping[str, Any]) -> Ids:
        """Return the numbers of the items that match a filter, ascending."""
        statement, values, _ = selection(condition)
        # as one text: as rows, each number would take three times as long
        text = self._one(f"SELECT group_concat(sequence) FROM ({statement})", values)  # noqa: S608
        ids = np.fromstring(text or "", np.int64, sep=",")
        ids.sort()
        # not np.unique: it hashes, which is far slower than sorting what is nearly sorted
        return ids[np.diff(ids, prepend=-1) > 0]

    def get(self, key: str) -> Record | None:
        """Return an item with its vector, or None."""
        if not is_utf8(key):
            return None
        row = self._connection.execute(
            f"SELECT {FIELDS}, vector FROM items JOIN vectors USING (sequence) WHERE key = ?",  # noqa: S608
            (key,),
        ).fetchone()
        return None if row is None else self._record(row)

    def page(self, after: str | None, limit: int) -> list[Record]:
        """Return the next items in the order of their keys."""
        rows = self._connection.execute(
            f"SELECT {FIELDS}, vector FROM items JOIN vectors USING (sequence)"  # noqa: S608
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
        """Return the number and content of the keys that exist."""
        existing = {}
        for chunk in chunks([key for key in keys if is_utf8(key)], MOST_VARIABLES):
            rows = self._connection.execute(
                f"SELECT sequence, vector, {FIELDS} FROM items JOIN vectors USING (sequence)"  # noqa: S608
                f" WHERE key IN ({_marks(chunk)})",
                chunk,
            )
            for sequence, vector, key, *rest in rows:
                existing[key] = (int(sequence), Row(key, vector, *rest))
        return existing

    def present(self, keys: Sequence[str]) -> set[str]:
        """Return those of the keys that exist."""
        existing: set[str] = set()
        for chunk in chunks([key for key in keys if is_utf8(key)], MOST_VARIABLES):
            rows = self._connection.execute(
                f"SELECT key FROM items WHERE key IN ({_marks(chunk)})",  # noqa: S608
                chunk,
            )
            existing.update(row[0] for row in rows)
        return existing

    def keys_of(self, ids: Sequence[int]) -> dict[int, str]:
        """Return the keys of items by their numbers."""
        keys: dict[int, str] = {}
        for chunk in chunks(ids, MOST_VARIABLES):
            keys.update(
                self._connection.execute(
                    f"SELECT sequence, key FROM items WHERE sequence IN ({_marks(chunk)})",  # noqa: S608
                    chunk,
                )
            )
        return keys

    def hits(self, ids: Sequence[int], scores: Sequence[float]) -> list[Hit]:
        """Return the items with these numbers and scores, in the same order."""
        items = {}
        for chunk in chunks(ids, MOST_VARIABLES):
            rows = self._connection.execute(
                "SELECT sequence, key, uri, label, metadata FROM items"  # noqa: S608
                f" WHERE sequence IN ({_marks(chunk)})",
                chunk,
            )
            items.update({row[0]: row[1:] for row in rows})
        return [
            Hit(key, score, uri, label, json.loads(metadata))
            for (key, uri, label, metadata), score in zip(
                (items[number] for number in ids), scores, strict=True
            )
        ]

    def _record(self, row: tuple[Any, ...]) -> Record:
        key, uri, label, width, height, sha256, metadata, vector = row
        values = self._matrix([vector], np.zeros(1, np.int64))[0]
        return Record(key, values, uri, label, width, height, sha256, json.loads(metadata))

    def _matrix(self, blobs: list[bytes], ids: Ids) -> Vectors:
        expected = bytes_of(self.dim, self.dtype)
        wrong = [i for i, blob in enumerate(blobs) if len(blob) != expected]
        if wrong:
            raise ArtifactError(
                f"the ledger is damaged: item {ids[wrong[0]]} has {len(blobs[wrong[0]])} bytes of "
                f"vector instead of {expected}; restore it from a backup, or make the "
                "collection anew from its features"
            )
        return loaded(blobs, self.dim, self.dtype)

    def _one(self, query: str, values: Sequence[Any] = ()) -> Any:
        return self._connection.execute(query, values).fetchone()[0]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))

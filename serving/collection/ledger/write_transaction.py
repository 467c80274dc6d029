"""What can be written to a ledger in one transaction."""

import json
import sqlite3
import zlib

from serving.collection.contract.filters import field_rows
from serving.collection.contract.promise import Promise
from serving.collection.contract.records import Row
from serving.collection.contract.stored_vectors import Dtype
from serving.collection.ledger.view import FIELDS, View

# How far behind a reader may be and still learn what was removed; it bounds the ledger's history.
KEPT_CHANGES = 1_000_000


class WriteTransaction(View):
    """Change the ledger; every change has its own number, one more than the one before."""

    def __init__(self, connection: sqlite3.Connection, dim: int, dtype: Dtype) -> None:
        super().__init__(connection, dim, dtype)
        self._before = self.sequence

    def insert(self, row: Row) -> None:
        """Add an item. Its key must not be there."""
        self.sequence += 1
        self._connection.execute(
            f"INSERT INTO items (sequence, {FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
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
                _field_rows(row.metadata, self.sequence),
            )

    def remove(self, item: int) -> None:
        """Remove an item by its number."""
        self.sequence += 1
        (metadata,) = self._connection.execute(
            "DELETE FROM items WHERE sequence = ? RETURNING metadata", (item,)
        ).fetchone()
        self._connection.executemany(
            "DELETE FROM fields WHERE name = ? AND kind = ? AND value = ? AND item = ?",
            _field_rows(metadata, item),
        )
        self._connection.execute("DELETE FROM vectors WHERE sequence = ?", (item,))
        self._connection.execute(
            "INSERT INTO removals (sequence, item) VALUES (?, ?)", (self.sequence, item)
        )

    def set_promise(self, promise: Promise) -> None:
        """Set what searches promise."""
        self.promise = promise
        self._connection.execute(
            "UPDATE collection SET recall = ?, memory_bytes = ?, latency_ms = ?, index_kind = ?",
            (promise.recall, promise.memory, promise.latency, promise.index),
        )

    def finish(self) -> None:
        """Store the last number; to be called before the transaction ends."""
        if self.sequence != self._before:
            self.forget_removals(self.sequence - KEPT_CHANGES)
            self._connection.execute("UPDATE collection SET sequence = ?", (self.sequence,))

    def forget_removals(self, last: int) -> None:
        """Forget the removals up to a change; readers that are further behind compare all items."""
        (newest,) = self._connection.execute(
            "SELECT max(sequence) FROM removals WHERE sequence <= ?", (last,)
        ).fetchone()
        if newest is not None:
            self._connection.execute("DELETE FROM removals WHERE sequence <= ?", (newest,))
            self._connection.execute("UPDATE collection SET pruned = ?", (newest,))
            self.pruned = newest


def _field_rows(metadata: str, item: int) -> list[tuple[str, int, object, int]]:
    return [(*row, item) for row in field_rows(json.loads(metadata))]

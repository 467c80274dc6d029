"""Move a collection to another encoder, within its own ledger.

New vectors are collected in the table `rebuilt`, one transaction per batch, so that a killed run
can be resumed. When all are there, one transaction replaces the old ones and changes the encoder
and the generation: a search sees the one or the other, never both. A process that has the
collection open learns of it at its next search (`CollectionRebuilt`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from images.items import Item
from images.sources.uris import read_uri
from serving.collection.contract.records import Record, checked_rows
from serving.collection.ledger.ledger import Ledger, new_generation
from serving.collection.ledger.write_transaction import WriteTransaction
from serving.collection.upkeep import snapshot


@dataclass(frozen=True, kw_only=True)
class NewEncoder:
    """The encoder that the collection will belong to.

    Attributes:
        sha256: of the encoder file.
        dim: length of its embeddings.
        path: where the file is; only a hint.
    """

    sha256: str
    dim: int
    path: str


@dataclass(frozen=True)
class Pending:
    """An item without a new vector: its number, and how to read its image."""

    number: int
    item: Item


class Rebuilder:
    """The steps, each durable when it returns. Made by `Collection.rebuilding`."""

    def __init__(self, ledger: Ledger, encoder: NewEncoder) -> None:
        self._ledger = ledger
        self._encoder = encoder

    def begin(self) -> int:
        """Resume an earlier run for the same encoder, if any; return how many vectors it made."""
        encoder = self._encoder
        with self._ledger.changing(_RebuildTransaction) as change:
            if change.rebuilding() != (encoder.sha256, encoder.dim):
                change.begin(encoder)
            return change.rebuilt()

    def pending(self, after: int, limit: int) -> list[Pending]:
        """Return the next items that have no new vector, in the order of their numbers."""
        with self._ledger.reading() as view:
            return [
                Pending(number, Item(key, uri, label, partial(read_uri, uri)))
                for number, key, uri, label in view.without_rebuilt(after, limit)
            ]

    def store(self, records: Sequence[tuple[int, Record]]) -> None:
        """Store new vectors, with the size and digest of their images."""
        dim, dtype = self._encoder.dim, self._ledger.binding.dtype
        rows = checked_rows([record for _, record in records], dim, dtype)
        with self._ledger.changing(_RebuildTransaction) as change:
            for (number, _), row in zip(records, rows, strict=True):
                change.store(number, row.vector, row.width, row.height, row.sha256)

    def finish(self, drop: Iterable[int]) -> None:
        """Replace the old vectors by the new ones; the ledger must be opened again afterwards.

        The saved index is removed first, so that a killed run leaves no index of old vectors.

        Args:
            drop: numbers of the items without a new vector; they are removed.
        """
        snapshot.drop(self._ledger.path.parent)
        with self._ledger.changing(_RebuildTransaction) as change:
            for number in drop:
                change.remove(number)
            change.swap(self._encoder)


class _RebuildTransaction(WriteTransaction):
    """The statements of a rebuild."""

    def rebuilding(self) -> tuple[str, int] | None:
        row = self._connection.execute("SELECT encoder_sha256, dim FROM rebuilding").fetchone()
        return None if row is None else (row[0], row[1])

    def begin(self, encoder: NewEncoder) -> None:
        self._connection.execute("DELETE FROM rebuilt")
        self._connection.execute(
            "INSERT OR REPLACE INTO rebuilding (one, encoder_sha256, dim, encoder_path)"
            " VALUES (1, ?, ?, ?)",
            (encoder.sha256, encoder.dim, encoder.path),
        )

    def rebuilt(self) -> int:
        """Return how many are done; vectors of items removed meanwhile are deleted."""
        self._connection.execute(
            "DELETE FROM rebuilt WHERE sequence NOT IN (SELECT sequence FROM items)"
        )
        return int(self._one("SELECT count(*) FROM rebuilt"))

    def store(
        self, number: int, vector: bytes, width: int | None, height: int | None, sha256: str | None
    ) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO rebuilt (sequence, vector, crc32, width, height, sha256)"
            " VALUES (?, ?, crc32(?), ?, ?, ?)",
            (number, vector, vector, width, height, sha256),
        )

    def swap(self, encoder: NewEncoder) -> None:
        for table, columns in (("vectors", "vector, crc32"), ("items", "width, height, sha256")):
            self._connection.execute(
                f"UPDATE {table} SET ({columns}) ="  # noqa: S608 - names of our own
                f" (SELECT {columns} FROM rebuilt WHERE rebuilt.sequence = {table}.sequence)"
            )
        self._connection.execute(
            "UPDATE collection SET encoder_sha256 = ?, dim = ?, encoder_path = ?, generation = ?",
            (encoder.sha256, encoder.dim, encoder.path, new_generation()),
        )
        self._connection.execute("DELETE FROM rebuilt")
        self._connection.execute("DELETE FROM rebuilding")

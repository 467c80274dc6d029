"""The ledger: one SQLite database that holds all of a collection.

WAL with `synchronous=FULL`: a transaction is on the disk when `writing` returns, and after a
crash each transaction is there as a whole or not at all. Readers work on a snapshot and never wait
for the writer. The tables are described in `schema`.
"""

import os
import secrets
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, LifoQueue
from typing import TypeVar

from base.errors import LookalikeError
from serving.collection.contract.errors import CollectionRebuilt, CollectionReplaced
from serving.collection.contract.promise import Promise
from serving.collection.contract.stored_vectors import Dtype
from serving.collection.ledger.connection import connect, is_writable, read_unwritable
from serving.collection.ledger.inspection import Inspection
from serving.collection.ledger.migration import check_schema, migrate
from serving.collection.ledger.schema import APPLICATION_ID
from serving.collection.ledger.sqlite_errors import damaged_ledger, translated_errors
from serving.collection.ledger.view import View
from serving.collection.ledger.write_transaction import WriteTransaction

FILE_NAME = "ledger.db"
V = TypeVar("V", bound=View)
W = TypeVar("W", bound=WriteTransaction)


@dataclass(frozen=True, kw_only=True)
class Binding:
    """The encoder a collection is bound to, and how it stores vectors.

    Attributes:
        encoder_sha256: digest of the encoder file whose vectors it holds.
        dim: length of a vector.
        encoder_path: where that file was last seen; only a hint.
        created: when the collection was made, UTC, ISO 8601.
        dtype: how it stores their numbers.
        generation: changes when the numbers in the ledger begin to mean something else.
    """

    encoder_sha256: str
    dim: int
    encoder_path: str | None
    created: str
    dtype: Dtype
    generation: str


class Ledger:
    """An open ledger. Safe to use from several threads; writing is for one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._idle: LifoQueue[sqlite3.Connection] = LifoQueue()
        self._closed = False
        self._file = _identity(path)
        with self._borrowed() as connection:
            check_schema(connection, path)
            self.binding = _binding(connection, path)

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        encoder_sha256: str,
        dim: int,
        encoder_path: str | None,
        promise: Promise,
        dtype: Dtype = "float32",
    ) -> None:
        """Write a new, empty ledger at `path`, which must not exist."""
        with translated_errors(path):
            connection = sqlite3.connect(path, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.create_function("crc32", 1, zlib.crc32, deterministic=True)
                migrate(connection, 0)
                connection.execute(
                    "INSERT INTO collection"
                    " (one, encoder_sha256, dim, encoder_path, created, generation, recall,"
                    " memory_bytes, latency_ms, index_kind) VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        encoder_sha256,
                        dim,
                        encoder_path,
                        datetime.now(UTC).isoformat("T", "seconds"),
                        new_generation(),
                        promise.recall,
                        promise.memory,
                        promise.latency,
                        promise.index,
                    ),
                )
                connection.execute("UPDATE collection SET dtype = ?", (dtype,))
            finally:
                connection.close()

    @contextmanager
    def reading(self) -> Iterator[View]:
        """Yield a snapshot: everything read through it is of one moment."""
        with self._borrowed() as connection, _transaction(connection, "BEGIN"):
            yield self._of_this_generation(View(connection, self.binding.dim, self.binding.dtype))

    @contextmanager
    def inspecting(self) -> Iterator[Inspection]:
        """Yield a snapshot to look for faults in."""
        with self._borrowed() as connection, _transaction(connection, "BEGIN"):
            yield self._of_this_generation(
                Inspection(connection, self.binding.dim, self.binding.dtype)
            )

    @contextmanager
    def writing(self) -> Iterator[WriteTransaction]:
        """Yield one transaction: durable when the block ends, undone when it raises."""
        with self.changing(WriteTransaction) as writing:
            yield writing

    @contextmanager
    def changing(self, kind: type[W]) -> Iterator[W]:
        """Yield a transaction like that of `writing`, with further statements.

        Args:
            kind: a subclass of `WriteTransaction` that has them.
        """
        with self._borrowed() as connection, _transaction(connection, "BEGIN IMMEDIATE"):
            if _identity(self.path) != self._file:
                raise self._replaced()
            writing = self._of_this_generation(
                kind(connection, self.binding.dim, self.binding.dtype)
            )
            yield writing
            writing.finish()

    def vacuum(self) -> None:
        """Free the space of what was removed; on the disk when this returns."""
        with self._borrowed() as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def copy_to(self, path: Path) -> None:
        """Write what the ledger holds now, compacted, as another one; writers carry on meanwhile.

        Args:
            path: the new file; on the disk when this returns.
        """
        with self._borrowed() as connection, translated_errors(path):
            connection.execute("VACUUM INTO ?", (str(path),))
        with translated_errors(path), closing(sqlite3.connect(path, isolation_level=None)) as copy:
            copy.execute("PRAGMA journal_mode = WAL")
            copy.execute("PRAGMA synchronous = FULL")
            copy.execute("UPDATE collection SET generation = ?", (new_generation(),))
            copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def _of_this_generation(self, view: V) -> V:
        if view.generation != self.binding.generation:
            raise CollectionRebuilt(
                f"the collection {self.path.parent} was rebuilt with another encoder after this "
                "process had opened it; open it again (start the service again with that encoder)"
            )
        return view

    def bytes_on_disk(self) -> int:
        """Return the size of the ledger with SQLite's files beside it, which come and go."""
        size = 0
        for file in self.path.parent.glob(f"{FILE_NAME}*"):
            with suppress(FileNotFoundError):
                size += file.stat().st_size
        return size

    def close(self) -> None:
        """Close the idle connections now and the others when they are given back."""
        self._closed = True
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return

    @contextmanager
    def _borrowed(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that no other thread uses meanwhile; SQLite's errors become ours."""
        if self._closed:
            raise LookalikeError(f"the collection {self.path.parent} is closed")
        if _identity(self.path) not in (None, self._file):
            raise self._replaced()
        with translated_errors(self.path):
            if not is_writable(self.path) and self.path.exists():
                with read_unwritable(self.path) as connection:
                    yield connection
                return
            try:
                connection = self._idle.get_nowait()
            except Empty:
                connection = connect(self.path)
            try:
                yield connection
            except sqlite3.Error:
                connection.close()
                raise
            except BaseException:
                self._give_back(connection)
                raise
            self._give_back(connection)

    def _replaced(self) -> CollectionReplaced:
        return CollectionReplaced(
            f"the folder of the collection {self.path.parent} was replaced after this process had "
            "opened it; open it again (start the service again)"
        )

    def _give_back(self, connection: sqlite3.Connection) -> None:
        self._idle.put(connection)
        if self._closed:
            self.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has undone it already after some errors, a full disk for one.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _binding(connection: sqlite3.Connection, path: Path) -> Binding:
    row = connection.execute(
        "SELECT encoder_sha256, dim, encoder_path, created, dtype, generation FROM collection"
    ).fetchone()
    if row is None:
        raise damaged_ledger(path, "it does not say which encoder it belongs to")
    digest, dim, hint, created, dtype, generation = row
    return Binding(
        encoder_sha256=digest,
        dim=dim,
        encoder_path=hint,
        created=created,
        dtype=dtype,
        generation=generation,
    )


def new_generation() -> str:
    """Return a random identifier that no other ledger has."""
    return secrets.token_hex(8)

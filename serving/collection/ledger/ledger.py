"""The ledger: one SQLite database that holds everything a collection knows.

WAL with `synchronous=FULL`: a transaction is on the disk when `writing` returns, and after a
crash each transaction is there as a whole or not at all. Readers work on a snapshot and never wait
for the writer. The tables are described in `schema`.
"""

import os
import secrets
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, LifoQueue
from typing import TypeVar

from base.errors import ArtifactError, LookalikeError
from serving.collection.contract.errors import CollectionBusy, CollectionRebuilt
from serving.collection.contract.promise import Promise
from serving.collection.contract.stored_vectors import Dtype
from serving.collection.ledger.connecting import BUSY_SECONDS, connect, is_writable, read_unwritable
from serving.collection.ledger.inspection import Inspection
from serving.collection.ledger.schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION
from serving.collection.ledger.transactions import View, Writing

FILE_NAME = "ledger.db"
V = TypeVar("V", bound=View)
W = TypeVar("W", bound=Writing)


@dataclass(frozen=True, kw_only=True)
class Binding:
    """What a collection is bound to.

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
        with self._borrowed() as connection:
            _check_schema(connection, path)
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
        with _translated(path):
            connection = sqlite3.connect(path, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.create_function("crc32", 1, zlib.crc32, deterministic=True)
                _migrate(connection, 0)
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
        """Yield a snapshot, to look for faults in."""
        with self._borrowed() as connection, _transaction(connection, "BEGIN"):
            yield self._of_this_generation(
                Inspection(connection, self.binding.dim, self.binding.dtype)
            )

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """One transaction: durable when the block ends, undone when it raises."""
        with self.changing(Writing) as writing:
            yield writing

    @contextmanager
    def changing(self, kind: type[W]) -> Iterator[W]:
        """Return a copy of `writing` with other statements."""
        with self._borrowed() as connection, _transaction(connection, "BEGIN IMMEDIATE"):
            writing = self._of_this_generation(
                kind(connection, self.binding.dim, self.binding.dtype)
            )
            yield writing
            writing.finish()

    def vacuum(self) -> None:
        """Give back the space of what is gone; on the disk when this returns."""
        with self._borrowed() as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def copy_to(self, path: Path) -> None:
        """Write what the ledger holds now, compacted, as another one; writers go on meanwhile.

        Args:
            path: the new file; on the disk when this returns.
        """
        with self._borrowed() as connection, _translated(path):
            connection.execute("VACUUM INTO ?", (str(path),))
        with _translated(path), closing(sqlite3.connect(path, isolation_level=None)) as copy:
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
        """Yield a connection that no other thread uses meanwhile; SQLite's errors in our words."""
        if self._closed:
            raise LookalikeError(f"the collection {self.path.parent} is closed")
        with _translated(self.path):
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

    def _give_back(self, connection: sqlite3.Connection) -> None:
        self._idle.put(connection)
        if self._closed:
            self.close()


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


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    folder = path.parent
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise ArtifactError(
            f"{folder} is not a collection: {path.name} is a database of another program"
        )
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{folder} has schema version {version}, this program knows {SCHEMA_VERSION}: "
            "it was written by a newer Lookalike; update this one"
        )
    if version < SCHEMA_VERSION:
        _migrate(connection, version)


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """Run the steps a ledger of `version` has not gone through, all or none."""
    steps = "".join(MIGRATIONS[version:])
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _binding(connection: sqlite3.Connection, path: Path) -> Binding:
    row = connection.execute(
        "SELECT encoder_sha256, dim, encoder_path, created, dtype, generation FROM collection"
    ).fetchone()
    if row is None:
        raise _damaged(path, "it does not say which encoder it belongs to")
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
    """Return a word that no other ledger has."""
    return secrets.token_hex(8)


_DISK_TROUBLE = (
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_READONLY",
    "SQLITE_CANTOPEN",
    "SQLITE_PERM",
)
_OWN_FAULTS = (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.IntegrityError)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, except those that only a fault of ours can cause."""
    try:
        yield
    except _OWN_FAULTS:
        raise
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise CollectionBusy(
                f"another program has held {path} locked for {BUSY_SECONDS:.0f} s; try again later"
            ) from error
        if name.startswith(_DISK_TROUBLE):
            raise LookalikeError(
                f"cannot use {path}: {error}; nothing was changed. Is the disk full or the folder "
                "not writable?"
            ) from error
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is damaged or not a ledger ({what}); restore it from a backup, or make the "
        "collection anew from its features"
    )

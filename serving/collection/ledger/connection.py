"""Connections to a ledger, including one that this process may not write.

In WAL mode SQLite writes even to read: beside the database it keeps a log and an index of the log
(`ledger.db-shm`) for all processes. Where a process may not write (a read-only file system,
another user's folder), there are two cases:

- another process has the ledger open or has left a log: its files are there, and reading through
  them needs no writing (`mode=ro`);
- else the database file holds everything, and nothing has to be shared (`immutable=1`). SQLite
  then reads nothing but that file. What was read is of one moment only if nobody wrote meanwhile:
  the file must be the same afterwards, and still without a log.
"""

import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.collection.contract.errors import CollectionBusy

BUSY_SECONDS = 10.0
WAL_BYTES = 64 * 1024 * 1024  # what the log may keep on disk once its content is in the database


def is_writable(path: Path) -> bool:
    """Whether this process may write the ledger and files beside it."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection to read and write."""
    return _open(path, "mode=rw")  # a file that vanished is an error, not a new empty database


@contextmanager
def read_unwritable(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection that writes nothing, for one transaction.

    Raises:
        CollectionBusy: a process began to write meanwhile; what was read may be inconsistent.
    """
    log = path.with_name(f"{path.name}-wal")
    alone = not log.exists()
    before = _state(path)
    connection = _open(path, "mode=ro&immutable=1" if alone else "mode=ro")

    def check() -> None:
        if alone and (log.exists() or _state(path) != before):
            raise CollectionBusy(f"{path.parent} was written to while it was read; try again")

    try:
        yield connection
    except sqlite3.Error:
        check()
        raise
    finally:
        connection.close()
    check()


def _open(path: Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?{options}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    connection.create_function("crc32", 1, zlib.crc32, deterministic=True)
    return connection


def _state(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns

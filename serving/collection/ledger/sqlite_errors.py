"""SQLite's errors as ours, with the file and the remedy."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from base.errors import ArtifactError, StorageError
from serving.collection.contract.errors import CollectionBusy
from serving.collection.contract.filters import unusable_filter
from serving.collection.ledger.connection import BUSY_SECONDS

DISK_FAILURES = (
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_READONLY",
    "SQLITE_CANTOPEN",
    "SQLITE_PERM",
)
# What a statement was too large for: only filters make them grow.
LIMITS = ("too many", "Expression tree", "parser stack", "too big")
SHARED_BYTES = 32 * 1024  # by which the index of the log grows
PROGRAMMING_ERRORS = (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.IntegrityError)


@contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, except those that only a mistake in our code can cause.

    Raises:
        CollectionBusy: another program holds a lock.
        ArtifactError: the file is damaged.
        StorageError: the disk is full, read-only or fails.
        UsageError: a filter makes a statement that is too large.
    """
    try:
        yield
    except PROGRAMMING_ERRORS:
        raise
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise CollectionBusy(
                f"another program has held {path} locked for {BUSY_SECONDS:.0f} s; try again later"
            ) from error
        if name.startswith(DISK_FAILURES):
            raise StorageError(
                f"cannot use {path}: {error}; nothing was changed. Is the disk full or the folder "
                "not writable?",
                full=name == "SQLITE_FULL" or _is_full(path),
            ) from error
        if any(text in str(error) for text in LIMITS):
            raise unusable_filter(f"SQLite cannot take it: {error}") from error
        raise damaged_ledger(path, str(error)) from error


def _is_full(path: Path) -> bool:
    """Whether the disk has no room for what SQLite keeps beside a ledger; it says only "I/O"."""
    try:
        return shutil.disk_usage(path.parent).free < SHARED_BYTES
    except OSError:
        return False


def damaged_ledger(path: Path, what: str) -> ArtifactError:
    """Return the error to raise, with what is wrong and the remedy."""
    return ArtifactError(
        f"{path} is damaged or not a ledger ({what}); restore it from a backup, or make the "
        "collection anew from its features"
    )

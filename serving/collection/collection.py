"""A collection: items with vectors, kept safe by a ledger and searched by an index in memory.

On the disk it is a folder:

    ledger.db       the truth: vectors, keys, metadata, removals (`ledger.schema`); beside it
    ledger.db-wal   SQLite's log and its index while a process has the ledger open
    index/          a cache of the index (`upkeep.snapshot`)
    .lock           held by the process that writes

A write is (1) the folder's lock, (2) one SQLite transaction, on the disk when it is committed,
(3) the index in memory catches up with the ledger. Only then does the call return. Every search
begins with the same step (3), which costs microseconds when nothing has changed: so the next search
finds what another process wrote, and an index can never drift from its ledger.
"""

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from base.cpus import available_cpus
from base.errors import LookalikeError, UsageError
from base.locks import Locked, folder_lock
from base.progress import OnProgress
from serving.collection.contract.errors import CollectionBusy, refuse_duplicates
from serving.collection.contract.keys import distinct_keys
from serving.collection.contract.new_folder import new_folder
from serving.collection.contract.records import (
    AddReport,
    OnDuplicate,
    Record,
    Row,
    checked_rows,
    last_of_each,
)
from serving.collection.ledger.ledger import FILE_NAME
from serving.collection.ledger.write_transaction import WriteTransaction
from serving.collection.reader import Reader
from serving.collection.thumbnails import copy_kept
from serving.collection.upkeep.index_selection import build, check_enough
from serving.collection.upkeep.rebuilding import NewEncoder, Rebuilder
from serving.collection.upkeep.snapshot import Snapshot, save
from serving.collection.upkeep.upkeep import IndexMaintainer, renew

log = logging.getLogger(__name__)

LOCK_SECONDS = 5.0


class Collection(Reader):
    """An open collection; made by `open_collection` or `create_collection`.

    Safe to use from several threads. Any number of processes may have it open and search it; one
    at a time writes. All methods raise ArtifactError for a damaged ledger and LookalikeError for a
    disk that fails.
    """

    def __init__(
        self, path: Path, *, lock_seconds: float = LOCK_SECONDS, maintain_index: bool = False
    ) -> None:
        super().__init__(path)
        self._lock_seconds = lock_seconds
        self._write_lock = threading.RLock()
        self._writers = 0
        self._maintainer = IndexMaintainer(self.maintain) if maintain_index else None

    def close(self) -> None:
        """Close the ledger and release the index; closing twice is fine."""
        if self._maintainer is not None:
            self._maintainer.close()
        super().close()

    def add(self, records: Iterable[Record], on_duplicate: OnDuplicate = "refuse") -> AddReport:
        """Add a batch, all of it or nothing, on the disk when this returns; see `AnyCollection`.

        Raises:
            KeyExists: with the keys.
            UsageError: naming the key and what is wrong with it, its vector or metadata.
            CollectionBusy: another process writes.
        """
        if on_duplicate not in ("refuse", "replace"):
            message = f"on_duplicate is {on_duplicate!r}; choose refuse or replace"
            raise UsageError(message, param="on_duplicate")
        rows = checked_rows(records, self.dim, self._ledger.binding.dtype)
        with self.writing():
            with self._ledger.writing() as writing:
                report = _add(writing, rows, on_duplicate)
            self._catch_up()
        return report

    def remove(self, keys: Iterable[str]) -> list[str]:
        """Remove items, all of them or none; on the disk when this returns.

        Returns:
            the keys that were there, in the order given; others are ignored.

        Raises:
            CollectionBusy: another process writes.
            UsageError: a text instead of a list of keys.
        """
        requested = distinct_keys(keys)
        with self.writing():
            with self._ledger.writing() as writing:
                existing = writing.find(requested)
                removed = [key for key in requested if key in existing]
                for key in removed:
                    writing.remove(existing[key][0])
            self._catch_up()
        return removed

    def _catch_up(self) -> None:
        """Let the index follow what has been written; nothing that fails here undoes the write."""
        try:
            self._follower.follow()
        except (LookalikeError, OSError) as error:
            log.warning("%s: written, but not in the index yet (%s)", self.path, error)
        if self._maintainer is not None:
            self._maintainer.notify()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other writers out over several calls of `add` and `remove`.

        Other threads of this process wait; other processes are refused after some seconds.

        Raises:
            CollectionBusy: another process writes.
        """
        with self._write_lock, ExitStack() as stack:
            if not self._writers:
                try:
                    stack.enter_context(folder_lock(self.path, wait=self._lock_seconds))
                except Locked as locked:
                    raise CollectionBusy(
                        f"process {locked.holder or '?'} is writing to {self.path}; "
                        "wait until it is done and try again"
                    ) from locked
            self._writers += 1
            try:
                yield
            finally:
                self._writers -= 1

    def tune(
        self,
        recall: float | None = None,
        *,
        threads: int | None = None,
        on_progress: OnProgress | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        """Build the index that keeps the promise, measure it, and save it.

        Searches use the previous index meanwhile. Below some ten thousand items, and for a recall
        of 1, the index is the exact one.

        Args:
            recall: promise this recall@10 from now on; None keeps the present promise.
            threads: of the processor; None: all of them.
            on_progress: called with how many items of how many are in the index.
            changes: `memory`, `latency` and `index` from now on (`promise.Promise`).

        Returns:
            the index as `stats` describes it.

        Raises:
            UsageError: a promise that cannot be made, or an index that more items are needed for.
            CollectionBusy: another process writes.
        """
        if recall is not None:
            changes["recall"] = recall
        with self._ledger.reading() as view:
            promise, items = view.promise.changed(changes), view.count()
        promise.check(self.dim)
        check_enough(promise, items, self.dim)
        if changes:
            with self.writing(), self._ledger.writing() as writing:
                writing.set_promise(writing.promise.changed(changes))
        build(self._follower, threads or available_cpus(), on_progress)
        self.save()
        description: dict[str, Any] = self.stats()["index"]
        return description

    def maintain(self, threads: int = 1) -> bool:
        """Renew the index if necessary; return whether it was.

        Searches use the previous one meanwhile.

        Raises:
            CollectionBusy: another process writes; the renewed index is used but not saved.
        """
        if renew(self._follower, threads):
            self.save()
            return True
        return False

    def save(self) -> None:
        """Save the index, so that opening is fast (`snapshot`).

        Raises:
            CollectionBusy: another process writes.
        """
        with self.writing(), self._follower.current() as (view, index):
            snapshot = Snapshot(index, self._follower.measured, self._follower.in_file)
            if (flat := save(self.path, snapshot, view.generation)) is not None:
                self._follower.relocate(flat)

    def compact(
        self, *, threads: int | None = None, on_progress: OnProgress | None = None
    ) -> dict[str, int]:
        """Free the space of removed items, on the disk and in memory.

        Others may search meanwhile, and write once the ledger is compact. Killed at any moment it
        leaves the collection as it was, or compact.

        Returns:
            bytes of the ledger `before` and `after`, and removals `forgotten`.

        Raises:
            CollectionBusy: another process writes.
        """
        before = self._ledger.bytes_on_disk()
        with self.writing():
            with self._ledger.writing() as writing:
                forgotten = writing.count_removals()
                writing.forget_removals(writing.sequence)
            self._ledger.vacuum()
        build(self._follower, threads or available_cpus(), on_progress)
        self.save()
        return {"before": before, "after": self._ledger.bytes_on_disk(), "forgotten": forgotten}

    @contextmanager
    def rebuilding(self, encoder: NewEncoder) -> Iterator[Rebuilder]:
        """Move the collection to another encoder; other writers are kept out meanwhile.

        Raises:
            CollectionBusy: another process writes.
        """
        with self.writing():
            yield Rebuilder(self._ledger, encoder)

    def back_up(self, folder: str | Path) -> None:
        """Write a copy of what the collection holds now, while others search and write.

        The copy is a collection of its own, with the thumbnails that are kept beside this one, and
        without an index: it makes one when it is first used.

        Args:
            folder: new, or empty.

        Raises:
            UsageError: there is something already.
            LookalikeError: it cannot be written; then nothing is left there.
        """
        with new_folder(Path(folder)) as unfinished:
            self._ledger.copy_to(unfinished / FILE_NAME)
            copy_kept(self.path, unfinished)


def _add(writing: WriteTransaction, rows: list[Row], on_duplicate: OnDuplicate) -> AddReport:
    keys = [row.key for row in rows]
    last = last_of_each(rows)
    existing = writing.find(keys)
    if on_duplicate == "refuse":
        refuse_duplicates(keys, existing)
    replaced = unchanged = 0
    for key, row in last.items():
        if key in existing:
            number, old = existing[key]
            row = row.merged(old)  # noqa: PLW2901 - the row as it will be stored
            if old == row:
                unchanged += 1
                continue
            writing.remove(number)
            replaced += 1
        writing.insert(row)
    return AddReport(len(last) - len(existing), replaced, unchanged, writing.sequence)

"""A collection: items with vectors, kept safe by a ledger and searched by an index in memory.

On the disk it is a folder:

    ledger.db       the truth: vectors, keys, metadata, removals (`schema`), beside it SQLite's
    ledger.db-wal   log and its index while a process has the ledger open
    index/          a cache of the index (`snapshot`)
    .lock           held by the process that writes

A write is (1) the folder's lock, (2) one SQLite transaction, on the disk when it is committed,
(3) the index in memory catches up with the ledger. Only then does the call return. Every search
begins with the same step (3), which costs microseconds when nothing has changed: so what another
process wrote is found by the next search, and an index can never drift from its ledger.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from base.cpus import available_cpus
from base.errors import UsageError
from base.locks import Locked, folder_lock
from serving.collection.contract.errors import CollectionBusy, refuse_duplicates
from serving.collection.contract.new_folder import new_folder
from serving.collection.contract.records import AddReport, OnDuplicate, Record, Row, checked_rows
from serving.collection.ledger.ledger import FILE_NAME
from serving.collection.ledger.transactions import Writing
from serving.collection.reading import Reader
from serving.collection.thumbnails import copy_kept
from serving.collection.upkeep.index_selection import Progress, build, check_enough
from serving.collection.upkeep.rebuilding import NewEncoder, Rebuilder
from serving.collection.upkeep.snapshot import Snapshot, save
from serving.collection.upkeep.upkeep import Tender, renew

LOCK_SECONDS = 5.0


class Collection(Reader):
    """An open collection; made by `open_collection` or `create_collection`.

    Safe to use from several threads. Any number of processes may have it open and search it; one
    at a time writes. All methods raise ArtifactError for a damaged ledger and LookalikeError for a
    disk that fails.
    """

    def __init__(
        self, path: Path, *, lock_seconds: float = LOCK_SECONDS, tended: bool = False
    ) -> None:
        super().__init__(path)
        self._lock_seconds = lock_seconds
        self._write_lock = threading.RLock()
        self._writers = 0
        self._tender = Tender(self.tend) if tended else None

    def close(self) -> None:
        """Close the ledger and let go of the index; closing twice is fine."""
        if self._tender is not None:
            self._tender.close()
        super().close()

    def add(self, records: Iterable[Record], on_duplicate: OnDuplicate = "refuse") -> AddReport:
        """Add a batch, all of it or nothing; on the disk when this returns.

        Args:
            records: the batch; it is held in memory, so give millions in several calls.
            on_duplicate: what to do if a key is there already (or twice in the batch): "refuse" the
                batch, or "replace" the item (the last one of the batch stays). An item that is
                there with the same content is left as it is and counted as unchanged.

        Raises:
            KeyExists: with the keys.
            UsageError: naming the key and what is wrong with it, its vector or metadata.
            CollectionBusy: another process writes.
        """
        if on_duplicate not in ("refuse", "replace"):
            raise UsageError(f"on_duplicate is {on_duplicate!r}; choose refuse or replace")
        rows = checked_rows(records, self.dim, self._ledger.binding.dtype)
        with self.writing():
            with self._ledger.writing() as writing:
                report = _add(writing, rows, on_duplicate)
            self._followed()
        return report

    def remove(self, keys: Iterable[str]) -> list[str]:
        """Remove items, all of them or none; on the disk when this returns.

        Returns:
            the keys that were there, in the order given; others are passed over.

        Raises:
            CollectionBusy: another process writes.
        """
        wanted = list(dict.fromkeys(keys))
        with self.writing():
            with self._ledger.writing() as writing:
                found = writing.find(wanted)
                removed = [key for key in wanted if key in found]
                for key in removed:
                    writing.remove(found[key][0])
            self._followed()
        return removed

    def _followed(self) -> None:
        self._follower.follow()
        if self._tender is not None:
            self._tender.notify()

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
        on_progress: Progress | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        """Build the index that keeps what is promised, measure it, and save it.

        Searches go on meanwhile with the index there was. Below some ten thousand items, and for a
        recall of 1, that is the exact one.

        Args:
            recall: promise this recall@10 from now on; None keeps what is promised.
            threads: of the processor, all of them by default.
            on_progress: told how many items of how many are in the index.
            changes: `memory`, `latency` and `index` from now on (`promise.Promise`).

        Returns:
            what `stats` says of the index then.

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
                writing.promise_from_now(writing.promise.changed(changes))
        build(self._follower, threads or available_cpus(), on_progress)
        self.save()
        described: dict[str, Any] = self.stats()["index"]
        return described

    def tend(self, threads: int = 1) -> bool:
        """Renew the index if it needs it; returns whether it did. Searches go on meanwhile.

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
                self._follower.moved(flat)

    def compact(
        self, *, threads: int | None = None, on_progress: Progress | None = None
    ) -> dict[str, int]:
        """Give back the space of removed items, on the disk and in memory.

        Others may search meanwhile, and write but for the first part. Killed at any moment it
        leaves the collection as it was, or compact.

        Returns:
            bytes of the ledger `before` and `after`, and removals `forgotten`.

        Raises:
            CollectionBusy: another process writes.
        """
        before = self._ledger_bytes()
        with self.writing():
            with self._ledger.writing() as writing:
                forgotten = writing.count_removals()
                writing.forget_removals(writing.sequence)
            self._ledger.vacuum()
        build(self._follower, threads or available_cpus(), on_progress)
        self.save()
        return {"before": before, "after": self._ledger_bytes(), "forgotten": forgotten}

    def _ledger_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.path.glob(f"{FILE_NAME}*"))

    @contextmanager
    def rebuilding(self, encoder: NewEncoder) -> Iterator[Rebuilder]:
        """Bring the collection over to another encoder; other writers are kept out meanwhile.

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


def _add(writing: Writing, rows: list[Row], on_duplicate: OnDuplicate) -> AddReport:
    keys = [row.key for row in rows]
    last = {row.key: row for row in rows}
    there = writing.find(keys)
    if on_duplicate == "refuse":
        refuse_duplicates(keys, there)
    replaced = unchanged = 0
    for key, row in last.items():
        if key in there:
            number, old = there[key]
            if old == row:
                unchanged += 1
                continue
            writing.remove(number)
            replaced += 1
        writing.insert(row)
    return AddReport(len(last) - len(there), replaced, unchanged, writing.sequence)

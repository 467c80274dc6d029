"""A collection: items with vectors, kept safe by a ledger and searched by an index in memory.

On the disk it is a folder:

    ledger.db       the truth: vectors, keys, metadata, removals (``schema``), beside it SQLite's
    ledger.db-wal   log and its index while a process has the ledger open
    index/          a cache of the index (``snapshot``)
    .lock           held by the process that writes

A write is (1) the folder's lock, (2) one SQLite transaction, on the disk when it is committed,
(3) the index in memory catches up with the ledger. Only then does the call return. Every search
begins with the same step (3), which costs microseconds when nothing has changed: so what another
process wrote is found by the next search, and an index can never drift from its ledger.
"""

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from images.cpus import available_cpus
from images.errors import ArtefactError, UsageError
from serving.collection.errors import CollectionBusy, KeyExists, KeyUnknown
from serving.collection.following import Follower
from serving.collection.index import Ids, Scores
from serving.collection.ledger import FILE_NAME, Ledger
from serving.collection.records import AddReport, Hit, Record, Row, checked_rows, unit_vectors
from serving.collection.snapshot import Snapshot, save
from serving.collection.transactions import View, Writing
from serving.collection.upkeep import Progress, Tender, build, check_recall, renew
from serving.locks import Locked, folder_lock

OnDuplicate = Literal["refuse", "replace"]

LOCK_SECONDS = 5.0


class Collection:
    """An open collection; made by ``open_collection`` or ``create_collection``.

    Safe to use from several threads. Any number of processes may have it open and search it; one
    at a time writes. All methods raise ArtefactError for a damaged ledger and LookalikeError for a
    disk that fails.

    Attributes:
        path: its folder.
        encoder_digest: SHA-256 of the encoder file its vectors come from.
        encoder_path: where that file was when the collection was made, or None; only a hint.
        dim: length of a vector, E.
    """

    def __init__(
        self, path: Path, *, lock_seconds: float = LOCK_SECONDS, tended: bool = False
    ) -> None:
        self.path = path
        self._ledger = Ledger(path / FILE_NAME)
        binding = self._ledger.binding
        self.encoder_digest = binding.encoder_sha256
        self.encoder_path = binding.encoder_path
        self.dim = binding.dim
        self._lock_seconds = lock_seconds
        self._follower = Follower(self._ledger)
        self._write_lock = threading.RLock()
        self._writers = 0
        self._tender = Tender(self.tend) if tended else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the ledger and let go of the index; closing twice is fine."""
        if self._tender is not None:
            self._tender.close()
        self._ledger.close()
        self._follower.forget()

    def check_encoder(self, digest: str) -> None:
        """Refuse another encoder than the collection's own.

        Raises:
            ArtefactError: naming both and the remedy.
        """
        if digest != self.encoder_digest:
            raise ArtefactError(
                f"the collection {self.path} was made with the encoder "
                f"{self.encoder_digest[:12]}…, this is {digest[:12]}…: their vectors cannot be "
                "compared. Use the encoder it was made with, or make a new collection with this one"
            )

    # Writing

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
        rows = checked_rows(records, self.dim)
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
        """Keep other writers out over several calls of ``add`` and ``remove``.

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

    # Reading

    def search(
        self,
        vectors: Sequence[ArrayLike] | NDArray[np.float32],
        k: int = 10,
        *,
        min_score: float | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the word of the HTTP interface
        exact: bool = False,
    ) -> list[list[Hit]]:
        """The nearest items of each query, with the recall the collection promises.

        Args:
            vectors: queries [Q, E] of any length but zero.
            k: the most hits for a query.
            min_score: leave out what is less similar; cosine in [-1, 1].
            filter: what a hit must have (``filters``); k is counted after it.
            exact: miss nothing, whatever the collection promises, and take the time it needs.

        Returns:
            for each query its hits, the best first, equal scores in the order of their keys.

        Raises:
            UsageError: naming the query and what is wrong, or an unusable k or filter.
        """
        if k < 1:
            raise UsageError(f"k is {k}; at least 1 is needed")
        if min_score is not None and math.isnan(min_score):
            raise UsageError("min_score is nan; a number from -1 to 1 is needed")
        queries = unit_vectors(vectors, self.dim, [f"query {q}" for q in range(len(vectors))])
        with self._follower.current() as (view, index):
            allowed = view.matching(filter) if filter else None
            return [
                _hits(view, ids, scores, k, min_score)
                for ids, scores in index.search(queries, k, allowed, exact=exact)
            ]

    def similar(
        self,
        key: str,
        k: int = 10,
        *,
        min_score: float | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        exact: bool = False,
    ) -> list[Hit]:
        """The nearest items of an item, without itself; otherwise as ``search``.

        Raises:
            KeyUnknown: the item is not there.
        """
        item = self.get(key)
        if item is None:
            raise KeyUnknown(key)
        found = self.search([item.vector], k + 1, min_score=min_score, filter=filter, exact=exact)[
            0
        ]
        return [hit for hit in found if hit.key != key][:k]

    def get(self, key: str) -> Record | None:
        """One item with its vector, or None."""
        with self._ledger.reading() as view:
            return view.get(key)

    def existing(self, keys: Sequence[str]) -> list[str]:
        """Those of the keys that are there, in the order given."""
        with self._ledger.reading() as view:
            there = view.present(keys)
        return [key for key in keys if key in there]

    def keys(self, *, after: str | None = None, limit: int = 1000) -> list[str]:
        """The next keys in ascending order, after one that need not be there."""
        with self._ledger.reading() as view:
            return view.keys(after, limit)

    def items(self, *, after: str | None = None, limit: int = 1000) -> list[Record]:
        """The next items in the order of their keys, with their vectors."""
        with self._ledger.reading() as view:
            return view.page(after, limit)

    def __len__(self) -> int:
        with self._ledger.reading() as view:
            return view.count()

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bool(self.existing([key]))

    def stats(self) -> dict[str, Any]:
        """What the collection is and holds, ready for JSON."""
        with self._ledger.reading() as view:
            return {
                "kind": "collection",
                "path": str(self.path),
                "items": view.count(),
                "labels": view.count_labels(),
                "removals": view.count_removals(),
                "sequence": view.sequence,
                "dim": self.dim,
                "encoder_sha256": self.encoder_digest,
                "encoder_path": self.encoder_path,
                "created": self._ledger.binding.created,
                "bytes_on_disk": _bytes_on_disk(self.path),
                "recall": view.recall,
                "index": self._describe_index(),
            }

    def _describe_index(self) -> dict[str, Any]:
        index = self._follower.index
        graph = None if index is None else index.graph
        return {
            "kind": "flat" if graph is None else "hnsw",
            "exact": graph is None,
            "loaded": index is not None,
            "vectors": 0 if index is None else len(index),
            "outside_graph": 0 if index is None or graph is None else index.uncovered,
            "bytes": 0 if index is None else index.nbytes,
            "measured": self._follower.recall,
        }

    def tune(
        self,
        recall: float | None = None,
        *,
        threads: int | None = None,
        on_progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Build the index that keeps the promised recall, measure it, and save it.

        Searches go on meanwhile with the index there was. Below some ten thousand items, and for a
        recall of 1, that is the exact one.

        Args:
            recall: promise this recall@10 from now on; None keeps what is promised.
            threads: of the processor, all of them by default.
            on_progress: told how many items of how many are in the graph.

        Returns:
            what ``stats`` says of the index then.

        Raises:
            UsageError: a recall that is not in (0, 1].
            CollectionBusy: another process writes.
        """
        if recall is not None:
            check_recall(recall)
            with self.writing(), self._ledger.writing() as writing:
                writing.promise(recall)
        build(self._follower, threads or available_cpus(), on_progress)
        self.save()
        return self._describe_index()

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
        """Save the index, so that opening is fast (``snapshot``).

        Raises:
            CollectionBusy: another process writes.
        """
        with self.writing(), self._follower.current() as (_, index):
            save(self.path, Snapshot(index, self._follower.recall))

    def refresh(self) -> None:
        """Bring the index in memory up to the ledger now instead of at the next search."""
        with self._follower.current():
            pass


def _add(writing: Writing, rows: list[Row], on_duplicate: OnDuplicate) -> AddReport:
    keys = [row.key for row in rows]
    last = {row.key: row for row in rows}
    there = writing.find(keys)
    if on_duplicate == "refuse":
        if there:
            raise KeyExists([key for key in last if key in there])
        if len(last) < len(rows):
            twice = [key for key in last if keys.count(key) > 1]
            raise KeyExists(twice, f"given more than once: {', '.join(map(repr, twice[:5]))}")
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


def _hits(view: View, ids: Ids, scores: Scores, k: int, min_score: float | None) -> list[Hit]:
    """Cut to k, by score and then by key, and look the items up."""
    if min_score is not None:
        ids, scores = ids[scores >= min_score], scores[scores >= min_score]
    numbers = ids.tolist()
    if len(numbers) > 1 and (scores[1:] == scores[:-1]).any():
        keys = view.keys_of(numbers)
        order = sorted(range(len(numbers)), key=lambda i: (-scores[i], keys[numbers[i]]))
        numbers, scores = [numbers[i] for i in order], scores[order]
    return view.hits(numbers[:k], scores[:k].tolist())


def _bytes_on_disk(folder: Path) -> int:
    """Of the ledger, with SQLite's files beside it, which come and go."""
    sizes = 0
    for file in folder.glob(f"{FILE_NAME}*"):
        with suppress(FileNotFoundError):
            sizes += file.stat().st_size
    return sizes

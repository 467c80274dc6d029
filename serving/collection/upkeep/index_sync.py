"""The index in memory follows the ledger.

The ledger's sequence number says whether it has changed, whoever changed it. What is new since the
index's own number is read from it; nothing else ever adds or removes a vector. So it cannot drift,
and a first load (on top of a snapshot, if there is one), the step after a write and catching up
with another process are one and the same.

A ledger can go back: an older copy is put in its place. Its number is then lower than that of an
index from before, or the newest items of the index are not the ledger's. Such an index is dropped,
with a warning, and made anew from the ledger.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from serving.collection.contract.scores import Ids, Vectors
from serving.collection.index.flat_index import FlatIndex
from serving.collection.index.index import Index
from serving.collection.index.proposer import Proposer
from serving.collection.ledger.inspection import LENGTH_TOLERANCE
from serving.collection.ledger.ledger import Ledger
from serving.collection.ledger.view import View
from serving.collection.upkeep.snapshot import load

COMPARED = 8  # newest items of an index that are compared with the ledger before it catches up

log = logging.getLogger(__name__)


class Follower:
    """Keep an index of a ledger's vectors. Safe to use from several threads.

    Attributes:
        index: the newest one, or None while nobody has used it.
        measured: what was measured of it (`index_selection`); None if nothing was.
        in_file: whether its vectors are to stay in the snapshot's file.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.index: Index | None = None
        self.measured: dict[str, Any] | None = None
        self.in_file = False
        self._ledger = ledger
        self._lock = threading.Lock()

    def release(self) -> None:
        """Release the memory of the index."""
        self.index = None

    def follow(self) -> None:
        """Catch up after a write, unless the index was never used."""
        if self.index is not None:
            with self.current():
                pass

    @contextmanager
    def current(self) -> Iterator[tuple[View, Index]]:
        """Yield a view of the ledger and the index of the same moment."""
        while True:
            before = self.index
            with self._ledger.reading() as view:
                if before is not None and before.sequence > view.sequence:
                    self._drop(before)  # the view is younger and yet behind
                index = self.index
                if index is None or index.sequence != view.sequence:
                    index = self._caught_up(view)
                if index.sequence == view.sequence:
                    yield view, index
                    return
            # Another thread's view was newer, and so is the index: read the ledger again.

    def attach(
        self, proposer: Proposer | None, measured: dict[str, Any], *, in_file: bool = False
    ) -> None:
        """Search with another proposer from now on."""
        with self.current(), self._lock:
            assert self.index is not None
            self.index, self.measured = Index(self.index.flat, proposer), measured
            self.in_file = in_file

    def relocate(self, flat: FlatIndex) -> None:
        """Read the vectors of an earlier moment from another file or array from now on."""
        with self._lock:
            if self.index is not None:  # what came since is read from the ledger once more
                self.index = Index(flat, self.index.proposer)

    def _caught_up(self, view: View) -> Index:
        """Return the index of the view's moment, or a newer one."""
        with self._lock:
            index = self.index or self._first(view)
            if index.sequence > view.sequence:
                return index
            if not _continued(view, index.flat):
                self._warn()
                self.measured, self.in_file = None, False
                index = Index(_room(view, self._ledger.path.parent))
            flat, since = index.flat, index.sequence
            for ids, vectors in view.vectors_since(since):
                _check_lengths(view, ids, vectors)
                flat = flat.added(ids, vectors, sequence=int(ids[-1]))
            gone = view.removed_since(since, flat.ids) if since else np.empty(0, np.int64)
            self.index = index.with_flat(flat.removed(gone, sequence=view.sequence))
            return self.index

    def _drop(self, index: Index) -> None:
        """Forget an index of a ledger that went back, unless another thread has done so."""
        with self._lock:
            if self.index is index:
                self._warn()
                self.index, self.measured, self.in_file = None, None, False

    def _warn(self) -> None:
        log.warning(
            "%s went back to an older state, or was replaced by another one: the index made before "
            "is not used, vectors are read from the ledger",
            self._ledger.path,
        )

    def _first(self, view: View) -> Index:
        snapshot = load(self._ledger.path.parent, view)
        if snapshot is not None:
            self.measured, self.in_file = snapshot.measured, snapshot.in_file
            return snapshot.index
        return Index(_room(view, self._ledger.path.parent))


def _continued(view: View, flat: FlatIndex) -> bool:
    """Whether the newest items of an index are the ledger's, or were removed since."""
    ids = flat.living_ids[-COMPARED:]
    stored = {number: view.vector(number) for number in ids.tolist()}
    missing = [number for number, vector in stored.items() if vector is None]
    if missing and not np.isin(missing, view.removed_since(flat.sequence, flat.ids)).all():
        return False
    rows = np.searchsorted(flat.ids, ids)
    return all(
        vector is None or np.array_equal(vector, flat.vectors[row])
        for row, vector in zip(rows.tolist(), stored.values(), strict=True)
    )


def _room(view: View, folder: Path) -> FlatIndex:
    """Return an empty index with room for the ledger; in a file if memory is limited to less."""
    count, limit = view.count(), view.promise.memory
    if limit is not None and 4 * view.dim * count > limit:
        with suppress(OSError):  # it cannot be written: better more memory than no answer
            return FlatIndex.empty(view.dim, reserve=count, scratch=folder)
    return FlatIndex.empty(view.dim, reserve=count)


def _check_lengths(view: View, ids: Ids, vectors: Vectors) -> None:
    """Refuse vectors of a wrong length: a flipped bit goes unnoticed by SQLite."""
    lengths = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1))
    bad = ids[~(np.abs(lengths - 1) < LENGTH_TOLERANCE)]
    if len(bad):
        raise view.damaged_vectors(bad.tolist(), "does not have length one")

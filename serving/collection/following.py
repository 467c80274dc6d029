"""The index in memory follows the ledger.

The ledger's sequence number says whether it has changed, whoever changed it. What is new since the
index's own number is read from it; nothing else ever touches the index. So it cannot drift, and a
first load, the step after a write and catching up with another process are one and the same.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from images.errors import ArtefactError
from serving.collection.index import FlatIndex, Ids
from serving.collection.ledger import Ledger
from serving.collection.transactions import View

LENGTH_TOLERANCE = 1e-3  # a stored vector further from length one was not written by us


class Follower:
    """Keeps an index of a ledger's vectors. Safe to use from several threads.

    Attributes:
        index: the newest one, or None while nobody has asked for it.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.index: FlatIndex | None = None
        self._ledger = ledger
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Let go of the index."""
        self.index = None

    def follow(self) -> None:
        """After a write: catch up, unless the index was never asked for."""
        if self.index is not None:
            with self.current():
                pass

    @contextmanager
    def current(self) -> Iterator[tuple[View, FlatIndex]]:
        """A view of the ledger and the index of the same moment."""
        while True:
            with self._ledger.reading() as view:
                index = self.index
                if index is None or index.sequence != view.sequence:
                    index = self._caught_up(view)
                if index.sequence == view.sequence:
                    yield view, index
                    return
            # Another thread's view was newer, and so is the index: look at the ledger again.

    def _caught_up(self, view: View) -> FlatIndex:
        """The index of the view's moment, or a newer one."""
        with self._lock:
            index = self.index or FlatIndex.empty(view.dim, reserve=view.count())
            since = index.sequence
            if since > view.sequence:
                return index
            for ids, vectors in view.vectors_since(since):
                _check_lengths(view, ids, vectors)
                index = index.added(ids, vectors, sequence=int(ids[-1]))
            gone = view.removed_since(since) if since else np.empty(0, np.int64)
            self.index = index.removed(gone, sequence=view.sequence)
            return self.index


def _check_lengths(view: View, ids: Ids, vectors: NDArray[np.float32]) -> None:
    """A flipped bit in a vector goes unnoticed by SQLite, but most change its length."""
    lengths = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1))
    bad = ids[~(np.abs(lengths - 1) < LENGTH_TOLERANCE)]
    if len(bad):
        key = view.keys_of([int(bad[0])]).get(int(bad[0]), "?")
        raise ArtefactError(
            f"the ledger is damaged: the vector of {key!r} does not have length one"
            f"{f' (and {len(bad) - 1} more)' if len(bad) > 1 else ''}; restore it from a backup, "
            "or remove the item and add it again"
        )

"""When a collection's index is built, extended and built again.

Up to `planning.SMALL` items, and where a recall of 1 is promised, every search is exact. Beyond
that `index_selection` builds what keeps the promise.

New items wait outside the proposer, compared one by one, until there are so many that this costs
more than it saves; then a copy of it takes them in. Removed items stay in it, stepping stones of a
graph, until they are a third of it; then all is built anew, as it is when the items have doubled or
the promise has changed. After a tenth more items the recall is measured again, on the new ones
before they are put in, and whether they lie where the old ones do (`proposer.fits`), so that data
which changes as it grows does not wear the promise away.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from base.errors import LookalikeError
from serving.collection.contract.errors import CollectionBusy
from serving.collection.index.proposer import SPARE, TUNED_NEIGHBORS
from serving.collection.upkeep.index_selection import build, sample
from serving.collection.upkeep.planning import is_small
from serving.collection.upkeep.tuning import can_prove, queries_needed, tune

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.collection.contract.promise import Promise
    from serving.collection.index.index import Index
    from serving.collection.index.proposer import Proposer
    from serving.collection.upkeep.index_sync import Follower

log = logging.getLogger(__name__)

MOST_OUTSIDE = 4096
MOST_REMOVED = 1 / 3
MOST_GROWTH = 2.0
MEASURED_GROWTH = 1.1


def renew(follower: Follower, threads: int) -> bool:
    """Build or extend the index if it is time to; return whether it should be saved."""
    with follower.current() as (view, index):
        promise = view.promise
    measured = follower.measured or {}
    stale = measured.get("asked") != promise.to_dict()
    grown = len(index) > MOST_GROWTH * measured.get("items", 0)
    proposer = index.proposer
    if proposer is None:
        if promise.exact or is_small(len(index), promise):
            return _spilled(follower, index, promise, threads)
        # measured and not kept: to be tried again when there is more to win
        if stale or grown:
            build(follower, threads)
        return stale or grown
    removed = len(proposer) - (len(index) - index.uncovered)
    if stale or grown or removed > MOST_REMOVED * len(proposer):
        build(follower, threads)
        return True
    if index.uncovered > MOST_OUTSIDE:
        _extend(follower, index, proposer, promise, threads)
        return True
    return False


def _spilled(follower: Follower, index: Index, promise: Promise, threads: int) -> bool:
    """Keep vectors that would take too much memory in their file; return whether to save."""
    if promise.memory is None or index.nbytes <= promise.memory:
        return False
    if not index.flat.in_file:
        build(follower, threads)
        return True
    return index.flat.in_memory > MOST_OUTSIDE


def _extend(
    follower: Follower, index: Index, proposer: Proposer, promise: Promise, threads: int
) -> None:
    flat, measured = index.flat, dict(follower.measured or {})
    ids = flat.living_ids
    newer = ids[ids > proposer.last]
    vectors = flat.vectors[flat.rows_of(newer)]
    grown = len(index) > MEASURED_GROWTH * measured.get("items_measured", 0)
    queries = sample(newer, min(queries_needed(promise.recall), len(newer)))
    if grown and can_prove(promise.recall, len(queries)):
        recall = tune(proposer, flat, queries, promise.recall)
        if not recall.kept or not proposer.fits(vectors):
            build(follower, threads)
            return
        again = proposer.tuned(recall.effort, recall.spread)
        if again.cost(TUNED_NEIGHBORS + SPARE) > proposer.cost(TUNED_NEIGHBORS + SPARE):
            proposer = again
            measured |= recall.to_dict()
        measured["items_measured"] = len(index)
    extended = proposer.extended(newer, vectors, threads=threads)
    follower.attach(extended, measured, in_file=follower.in_file)


class IndexMaintainer:
    """Renew an index in a thread of its own whenever it is notified of a change.

    It uses one thread of the processor, so that searches keep the others.
    """

    def __init__(self, maintain: Callable[[], bool]) -> None:
        self._maintain = maintain
        self._due = threading.Event()
        self._idle = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="index upkeep", daemon=True)
        self._thread.start()
        self.notify()

    def notify(self) -> None:
        """Check whether the index needs to be renewed, because something has changed."""
        self._idle.clear()
        self._due.set()

    def wait(self) -> None:
        """Wait until there is nothing to do."""
        self._idle.wait()

    def close(self) -> None:
        """Stop; what is being built now is dropped."""
        self._closed = True
        self._due.set()

    def _work(self) -> None:
        while not self._closed:
            self._due.wait()
            self._due.clear()
            try:
                while not self._closed and self._maintain():
                    pass
            except CollectionBusy as busy:  # it is saved the next time
                log.info("the renewed index is not saved yet: %s", busy)
            except LookalikeError:
                if not self._closed:
                    log.exception("the index could not be renewed; searches keep using the old one")
            if not self._due.is_set():
                self._idle.set()

"""When a collection's index is built, extended and built again.

Up to SMALL items, and where a recall of 1 is promised, every search is exact. Beyond that a graph
is built and tuned on items held out of it (``tuning``); they are put in afterwards. If no effort
keeps the promise, searches stay exact: slow is better than wrong.

New items wait outside the graph, compared one by one, until there are so many that this costs more
than the graph saves; then a copy of the graph takes them in. Removed items stay in it as stepping
stones until they are a third of it; then it is built anew. A graph that has doubled is tuned anew.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from images.errors import LookalikeError, UsageError
from serving.collection.errors import CollectionBusy
from serving.collection.graph import Graph
from serving.collection.tuning import queries_needed, tune

if TYPE_CHECKING:
    from serving.collection.following import Follower
    from serving.collection.index import Ids
    from serving.collection.mixed import Index

log = logging.getLogger(__name__)

Progress = Callable[[int, int], object]

DEFAULT_RECALL = 0.99
HIGHEST_RECALL = 0.9999  # more than that cannot be proved with a bearable number of queries
SMALL = 20_000  # items that are compared one by one in about a millisecond
MOST_OUTSIDE = 4096
MOST_REMOVED = 1 / 3
MOST_GROWTH = 2.0
MOST_HELD_OUT = 0.1


def check_recall(recall: float) -> None:
    """Refuse what cannot be promised.

    Raises:
        UsageError: not in (0, 0.9999] and not 1.
    """
    if not (0 < recall <= HIGHEST_RECALL or recall == 1):
        raise UsageError(
            f"recall is {recall}: a number above 0 and up to {HIGHEST_RECALL} is needed, or 1 for "
            "exact searches only"
        )


def build(follower: Follower, threads: int, on_progress: Progress | None = None) -> None:
    """Build and tune the index for what the collection promises now, and search with it."""
    with follower.current() as (view, index):
        asked, flat = view.recall, index.flat
    ids = flat.ids if flat.live is None else flat.ids[flat.live]
    if asked == 1 or len(ids) < SMALL:
        follower.attach(None, None)
        return
    held_out = _sample(ids, min(queries_needed(asked), int(len(ids) * MOST_HELD_OUT)))
    inside = np.setdiff1d(ids, held_out, assume_unique=True)
    total = len(ids)
    graph = Graph.build(
        inside,
        flat.vectors,
        flat.rows_of(inside),
        threads=threads,
        on_progress=on_progress and (lambda done: on_progress(done, total)),
    )
    measured = tune(graph, flat, held_out, asked)
    if not measured.kept:
        follower.attach(None, measured.to_dict())
        return
    graph = graph.extended(held_out, flat.vectors[flat.rows_of(held_out)], threads=threads)
    follower.attach(graph.with_effort(measured.effort), measured.to_dict() | {"items": total})
    if on_progress:
        on_progress(total, total)


def renew(follower: Follower, threads: int) -> bool:
    """Build or extend the index if it is time to; returns whether it was."""
    with follower.current() as (view, index):
        asked = view.recall
    graph = index.graph
    if graph is None:
        # measured and not kept: to be tried again when there is more to win
        tried = (follower.recall or {}).get("asked") == asked
        if asked == 1 or len(index) < SMALL or tried:
            return False
        build(follower, threads)
        return True
    tuned = (follower.recall or {}).get("items", 0)
    removed = len(graph) - (len(index) - index.uncovered)
    if asked == 1 or removed > MOST_REMOVED * len(graph) or len(index) > MOST_GROWTH * tuned:
        build(follower, threads)
        return True
    if index.uncovered > MOST_OUTSIDE:
        _extend(follower, index, graph, threads)
        return True
    return False


def _extend(follower: Follower, index: Index, graph: Graph, threads: int) -> None:
    flat = index.flat
    newer = flat.ids > graph.last
    if flat.live is not None:
        newer &= flat.live
    extended = graph.extended(flat.ids[newer], flat.vectors[newer], threads=threads)
    follower.attach(extended, follower.recall)


def _sample(ids: Ids, count: int) -> Ids:
    """Numbers drawn evenly, ascending; the same for the same items."""
    chosen: Ids = np.sort(np.random.default_rng(0).choice(ids, count, replace=False))
    return chosen


def describe(recall: dict[str, Any] | None) -> str:
    """What was measured, in a line."""
    if recall is None:
        return "exact"
    text = (
        f"recall@10 {recall['recall']:.4f} ({recall['low']:.4f} to {recall['high']:.4f} with 95 % "
        f"confidence, {recall['queries']} queries), {recall['median_ms']:.2f} ms a query"
    )
    return text if recall["low"] >= recall["asked"] else f"exact, because no graph came to {text}"


class Tender:
    """Renews an index in a thread of its own, whenever it is told that something has changed.

    One thread of the processor, so that searches keep the others.
    """

    def __init__(self, tend: Callable[[], bool]) -> None:
        self._tend = tend
        self._due = threading.Event()
        self._idle = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="index upkeep", daemon=True)
        self._thread.start()
        self.notify()

    def notify(self) -> None:
        """Something has changed: look whether the index needs to be renewed."""
        self._idle.clear()
        self._due.set()

    def wait(self) -> None:
        """Until there is nothing to do."""
        self._idle.wait()

    def close(self) -> None:
        """Do nothing more; what is being built now is dropped."""
        self._closed = True
        self._due.set()

    def _work(self) -> None:
        while not self._closed:
            self._due.wait()
            self._due.clear()
            try:
                while not self._closed and self._tend():
                    pass
            except CollectionBusy as busy:  # what is missing is only saved the next time
                log.info("the renewed index is not saved yet: %s", busy)
            except LookalikeError:
                if not self._closed:
                    log.exception("the index could not be renewed; searches go on with the old one")
            if not self._due.is_set():
                self._idle.set()

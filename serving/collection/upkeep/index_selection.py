"""Select a collection's index: build and measure candidates, use one that keeps the promise.

The candidates of `planning` are tried in their order. Each is tuned on items that are held out of
it and added afterwards. The first that keeps the recall and the latency is used; if none is fast
enough, the fastest of those that keep the recall; if none keeps the recall, searches stay exact:
slow is better than wrong.

What was measured is a dict, kept with the snapshot: "asked" (the promise), "kind", "in_file",
"items" there were ("items_measured": when the recall was last measured), "recall" with "low" and
"high" (the ends of its 95 % interval) from so many "queries", "effort", "spread", "median_ms" and
"p99_ms" of a search, and "tried": why other candidates were rejected, each a line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import UsageError
from serving.collection.contract.factory_strings import training_points
from serving.collection.contract.promise import AUTO
from serving.collection.index.factory import Factory
from serving.collection.index.graph import Graph, axes_of
from serving.collection.index.index import Index
from serving.collection.upkeep.planning import EXACT, Candidate, plan
from serving.collection.upkeep.tuning import can_prove, latency, queries_needed, tune

if TYPE_CHECKING:
    from base.progress import OnProgress
    from serving.collection.contract.promise import Promise
    from serving.collection.contract.scores import Ids
    from serving.collection.index.flat_index import FlatIndex
    from serving.collection.index.proposer import Proposer
    from serving.collection.upkeep.index_sync import Follower


MOST_HELD_OUT = 0.1
TIMED_QUERIES = 200


@dataclass(frozen=True)
class MeasuredIndex:
    """An index and its measurements."""

    proposer: Proposer | None
    in_file: bool
    measured: dict[str, Any]


def build(follower: Follower, threads: int, on_progress: OnProgress | None = None) -> None:
    """Build and tune the index for what the collection promises now, and search with it."""
    with follower.current() as (view, index):
        promise, flat = view.promise, index.flat
    builder = CandidateBuilder(flat, promise, threads, on_progress)
    best: MeasuredIndex | None = None
    for candidate in plan(len(flat), flat.dim, promise):
        made = builder.make(candidate)
        if made is None:
            continue
        slow = promise.latency is not None and made.measured["median_ms"] > promise.latency
        if best is None or made.measured["median_ms"] < best.measured["median_ms"] or not slow:
            best = made
        if not slow:
            break
    assert best is not None  # the last candidate is exact
    measured = best.measured | {"tried": builder.tried}
    follower.attach(best.proposer, measured, in_file=best.in_file)
    if on_progress:
        on_progress(len(flat), len(flat))


class CandidateBuilder:
    """Build, tune and time candidates on the vectors of one moment.

    Attributes:
        tried: why candidates were rejected (recall not kept, too slow), each a line.
    """

    def __init__(
        self, flat: FlatIndex, promise: Promise, threads: int, on_progress: OnProgress | None
    ) -> None:
        self.tried: list[str] = []
        self._flat, self._promise, self._threads = flat, promise, threads
        self._on_progress = on_progress
        self._ids = flat.living_ids
        most = int(len(self._ids) * MOST_HELD_OUT)
        queries = TIMED_QUERIES if promise.exact else queries_needed(promise.recall)
        self._held_out = sample(self._ids, min(queries, most))

    def make(self, candidate: Candidate) -> MeasuredIndex | None:
        """Build, tune and time it; None if it does not keep the recall."""
        if candidate.kind == EXACT:
            return self._exact(candidate)
        promised = self._promise.recall
        if not can_prove(promised, len(self._held_out)):
            self.tried.append(f"{candidate.kind}: {len(self._ids)} items are too few to prove it")
            return None
        inside = np.setdiff1d(self._ids, self._held_out, assume_unique=True)
        if (needed := training_points(candidate.kind, self._flat.dim)) > len(inside):
            self.tried.append(f"{candidate.kind}: {needed} items are needed to learn it from")
            return None
        built = self._built(candidate.kind, inside)
        recall = tune(built, self._flat, self._held_out, promised)
        if not recall.kept:
            self.tried.append(f"{candidate.kind}: {recall}")
            return None
        vectors = self._flat.vectors[self._flat.rows_of(self._held_out)]
        tuned = built.tuned(recall.effort, recall.spread)
        tuned = tuned.extended(self._held_out, vectors, threads=self._threads)
        measured = recall.to_dict() | self._timed(Index(self._flat, tuned))
        self._note_if_slow(candidate.kind, measured)
        return MeasuredIndex(tuned, candidate.in_file, measured | self._facts(candidate))

    def _built(self, kind: str, inside: Ids) -> Proposer:
        rows, total, on_progress = self._flat.rows_of(inside), len(self._ids), self._on_progress
        options: dict[str, Any] = {
            "threads": self._threads,
            "on_progress": on_progress and (lambda done, _: on_progress(done, total)),
        }
        axes = axes_of(kind)
        if axes is not None:
            return Graph.build(inside, self._flat.vectors, rows, axes=axes, **options)
        return Factory.build(kind, inside, self._flat.vectors, rows, **options)

    def _exact(self, candidate: Candidate) -> MeasuredIndex:
        certain = {"recall": 1.0, "low": 1.0, "high": 1.0, "queries": 0}
        measured = certain | self._timed(Index(self._flat))
        self._note_if_slow(candidate.kind, measured)
        return MeasuredIndex(None, candidate.in_file, measured | self._facts(candidate))

    def _timed(self, index: Index) -> dict[str, float]:
        rows = index.flat.rows_of(self._held_out[:TIMED_QUERIES])
        median, slowest = latency(index, index.flat.vectors[rows])
        return {"median_ms": median, "p99_ms": slowest}

    def _facts(self, candidate: Candidate) -> dict[str, Any]:
        return {
            "asked": self._promise.to_dict(),
            "kind": candidate.kind,
            "in_file": candidate.in_file,
            "items": len(self._ids),
            "items_measured": len(self._ids),
        }

    def _note_if_slow(self, kind: str, measured: dict[str, Any]) -> None:
        limit = self._promise.latency
        if limit is not None and measured["median_ms"] > limit:
            self.tried.append(f"{kind}: {measured['median_ms']:.3g} ms a query")


def check_enough(promise: Promise, items: int, dim: int) -> None:
    """Refuse to build an index that so many items cannot be learned from.

    Raises:
        UsageError: naming how many there are and how many are needed.
    """
    if promise.exact or promise.index == AUTO:
        return
    inside = items - int(items * MOST_HELD_OUT)
    if (needed := training_points(promise.index, dim)) > inside:
        raise UsageError(
            f"index {promise.index} is learned from at least {needed} items, and of {items} it "
            f"may see {inside} (the others measure its recall): add items, name one with fewer "
            "lists, or choose auto"
        )


def sample(ids: Ids, count: int) -> Ids:
    """Return a random sample of items, ascending; the same for the same items."""
    selection: Ids = np.sort(np.random.default_rng(0).choice(ids, count, replace=False))
    return selection

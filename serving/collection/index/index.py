"""The index that a collection searches: exact, or proposals scored exactly.

A proposer (`proposer`) covers the items up to some number. Newer ones are compared with the query
one by one, removed ones are left out: so an answer always reflects the ledger's newest state,
however old the proposer is.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from serving.collection.index.proposer import SPARE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from serving.collection.contract.scores import Ids, Scores, Vectors
    from serving.collection.index.flat_index import FlatIndex
    from serving.collection.index.proposer import Proposer


@dataclass(frozen=True)
class Index:
    """An immutable value, like the indexes it holds.

    Attributes:
        flat: all vectors.
        proposer: most of them, searched faster; None: every search is exact.
    """

    flat: FlatIndex
    proposer: Proposer | None = None
    _rows: Ids = field(init=False, repr=False)  # of the proposer's nodes; -1: no longer there

    def __post_init__(self) -> None:
        nodes = np.empty(0, np.int64) if self.proposer is None else self.proposer.ids
        object.__setattr__(self, "_rows", _rows_of_nodes(self.flat, nodes))

    def __len__(self) -> int:
        return len(self.flat)

    @property
    def sequence(self) -> int:
        """The last change it knows."""
        return self.flat.sequence

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self.flat.nbytes + (
            0 if self.proposer is None else self.proposer.nbytes + 2 * self._rows.nbytes
        )

    @property
    def uncovered(self) -> int:
        """How many items the proposer does not have and each search looks at one by one."""
        return self.flat.count - self._newer

    def with_flat(self, flat: FlatIndex) -> Index:
        """Return an index with the same proposer and newer vectors."""
        if flat.layout is not self.flat.layout:
            return Index(flat, self.proposer)
        newer = copy(self)  # does not look up a million nodes at each write
        newer.__dict__.pop("_newer", None)
        object.__setattr__(newer, "flat", flat)
        return newer

    def search(
        self, queries: Vectors, k: int, allowed: Ids | None = None, *, exact: bool = False
    ) -> list[tuple[Ids, Scores]]:
        """Return the k nearest items of each query; see `FlatIndex.search`.

        Args:
            queries: float32 [Q, E], of length one.
            k: at least 1.
            allowed: numbers of the items that may be found, ascending; None for all.
            exact: compare every vector; else the proposer's recall holds, if there is one.
        """
        rows = None if allowed is None else self.flat.living(allowed)
        available = len(self) if rows is None else len(rows)
        # So many proposals that enough of them are allowed, unless the query's own neighbors are
        # mostly those that are not.
        count = -(-(k + SPARE) * (len(self._rows) - 1 + self.uncovered) // max(available, 1))
        if exact or not self._worth(k, count, available):
            return self.flat.nearest(queries, k, rows)
        usable = self.flat.live if rows is None else _mask(rows, self.flat.count)
        newer = self._nearest_newer(queries, k + SPARE, rows)
        results = []
        for q, nodes in enumerate(self._proposed(queries, count)):
            query = queries[q : q + 1]
            candidates = self._living(query, nodes, usable, k=k, count=count, available=available)
            if candidates is None:
                results += self.flat.nearest(query, k, rows)
                continue
            if newer is not None:
                candidates = np.concatenate([candidates, newer[q]])
            results.append(self._best(queries[q], candidates, k))
        return results

    def _worth(self, k: int, count: int, available: int) -> bool:
        """Whether so many proposals are cheaper than comparing every allowed item."""
        if self.proposer is None or k + SPARE > available // 2:
            return False
        return self.proposer.cost(count) < available

    def _proposed(self, queries: Vectors, count: int) -> Ids:
        """Return nodes int64 [Q, count or more]; -1 where there are no more."""
        assert self.proposer is not None
        return self.proposer.propose(queries, count)

    def _living(
        self,
        query: Vectors,
        nodes: Ids,
        usable: NDArray[np.bool_] | None,
        *,
        k: int,
        count: int,
        available: int,
    ) -> Ids | None:
        """Return rows of enough allowed proposals; None: comparing all items is cheaper."""
        assert self.proposer is not None
        candidates = self._kept(nodes, usable)
        while len(candidates) < self._enough(nodes, k, count):
            count *= 4
            if not self._worth(k, count, available):
                return None
            nodes = self._proposed(query, count)[0]
            candidates = self._kept(nodes, usable)
        return candidates

    def _kept(self, nodes: Ids, usable: NDArray[np.bool_] | None) -> Ids:
        """Return the rows of nodes, without those that were removed or are not allowed."""
        rows = self._rows.take(nodes)
        if rows.item(rows.argmin()) < 0:
            rows = rows[rows >= 0]
        return rows if usable is None else rows[usable[rows]]

    def _enough(self, nodes: Ids, k: int, count: int) -> int:
        """Return how many of the proposals must be left, or more are requested.

        Of the items near a query more may be gone than of all. Where a proposer makes many for each
        that is requested, because its codes are coarse, as many more of them must be left.
        """
        least = k + SPARE // 2
        return max(least, int(np.count_nonzero(nodes >= 0)) * least // count)

    def _best(self, query: Vectors, rows: Ids, k: int) -> tuple[Ids, Scores]:
        """Return the k best of these rows and those that tie with the k-th."""
        scores = self.flat.exact_scores(query, rows)
        order = (-scores).argsort(kind="stable")
        scores = scores.take(order)
        last = k
        while last < len(scores) and scores[last] == scores[k - 1]:
            last += 1
        best = scores[:last]
        if best.item(0) > 1 or best.item(-1) < -1:  # by rounding; they are in order
            best = best.clip(-1.0, 1.0)
        return self.flat.ids.take(rows.take(order[:last])), best

    @cached_property
    def _newer(self) -> int:
        """The first row that the proposer does not know."""
        last = 0 if self.proposer is None else self.proposer.last
        return int(np.searchsorted(self.flat.ids, last, side="right"))

    def _nearest_newer(
        self, queries: Vectors, count: int, rows: Ids | None
    ) -> Sequence[Ids] | Ids | None:
        if not self.uncovered:
            return None
        if rows is None:
            return self.flat.nearest_after(self._newer, queries, count)
        return [rows[rows >= self._newer]] * len(queries)


def _mask(rows: Ids, count: int) -> NDArray[np.bool_]:
    mask = np.zeros(count, np.bool_)
    mask[rows] = True
    return mask


def _rows_of_nodes(flat: FlatIndex, nodes: Ids) -> Ids:
    """Return the row of each item, or -1; and one more -1, for the node -1."""
    rows = np.full(len(nodes) + 1, -1, np.int64)
    positions = np.searchsorted(flat.ids, nodes)
    existing = np.flatnonzero(positions < flat.count)
    existing = existing[flat.ids[positions[existing]] == nodes[existing]]
    rows[existing] = positions[existing]
    return rows

"""The index that a collection searches: exact, or proposals scored exactly.

A proposer (`proposer`) covers the items up to some number. What is newer is compared with the
query one by one, what was removed is left out: so an answer is always of the ledger's newest state,
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

    from serving.collection.index.flat_index import FlatIndex, Ids, Scores, Vectors
    from serving.collection.index.proposer import Proposer


@dataclass(frozen=True)
class Index:
    """A value that never changes, like its parts.

    Attributes:
        flat: all vectors.
        proposer: some of them, searched faster; None: every search is exact.
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
        """Return the same proposer, newer vectors."""
        if flat.layout is not self.flat.layout:
            return Index(flat, self.proposer)
        newer = copy(self)  # without looking a million nodes up at each write
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
        # So many proposals that enough of them may be found, if it is not the query's neighbors
        # of all that may not.
        count = -(-(k + SPARE) * (len(self._rows) - 1 + self.uncovered) // max(available, 1))
        if exact or not self._worth(k, count, available):
            return self.flat.nearest(queries, k, rows)
        usable = self.flat.live if rows is None else _mask(rows, self.flat.count)
        newer = self._nearest_newer(queries, k + SPARE, rows)
        results = []
        for q, nodes in enumerate(self._proposed(queries, count)):
            query = queries[q : q + 1]
            found = self._living(query, nodes, usable, k=k, count=count, available=available)
            if found is None:
                results += self.flat.nearest(query, k, rows)
                continue
            if newer is not None:
                found = np.concatenate([found, newer[q]])
            results.append(self._best(queries[q], found, k))
        return results

    def _worth(self, k: int, count: int, available: int) -> bool:
        """Whether asking for so many is cheaper than comparing all that may be found."""
        if self.proposer is None or k + SPARE > available // 2:
            return False
        return self.proposer.cost(count) < available

    def _proposed(self, queries: Vectors, count: int) -> Ids:
        """Nodes int64 [Q, count or more]; -1 where there is none."""
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
        """Rows of proposals that may be found, of more and more; None: comparing all is cheaper."""
        assert self.proposer is not None
        found = self._kept(nodes, usable)
        while len(found) < self._enough(nodes, k, count):
            count *= 4
            if not self._worth(k, count, available):
                return None
            nodes = self._proposed(query, count)[0]
            found = self._kept(nodes, usable)
        return found

    def _kept(self, nodes: Ids, usable: NDArray[np.bool_] | None) -> Ids:
        """Rows without those that are no longer there or may not be found."""
        rows = self._rows.take(nodes)
        if rows.item(rows.argmin()) < 0:
            rows = rows[rows >= 0]
        return rows if usable is None else rows[usable[rows]]

    def _enough(self, nodes: Ids, k: int, count: int) -> int:
        """How many of the proposals must be left, or more are asked for.

        Of the items near a query more may be gone than of all. Where a proposer makes many for each
        that is asked for, because its codes are coarse, as many more of them must be left.
        """
        least = k + SPARE // 2
        return max(least, int(np.count_nonzero(nodes >= 0)) * least // count)

    def _best(self, query: Vectors, rows: Ids, k: int) -> tuple[Ids, Scores]:
        """Return the k best of these rows and what ties with the k-th."""
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
    known = np.flatnonzero(positions < flat.count)
    known = known[flat.ids[positions[known]] == nodes[known]]
    rows[known] = positions[known]
    return rows

"""The index that a collection searches: exact, or a graph's proposals scored exactly.

A graph covers the items up to some number. What is newer is compared with the query one by one,
what was removed is left out: so an answer is always of the ledger's newest state, however old the
graph is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from serving.collection.index import MARGIN, FlatIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from serving.collection.graph import Graph
    from serving.collection.index import Ids, Scores, Vectors

# A filter that leaves a smaller share is answered exactly: a graph of which little may be found is
# walked for nothing, and few vectors are compared soon.
FEW = 0.05
TUNED_NEIGHBOURS = 10  # recall@10


@dataclass(frozen=True)
class Index:
    """A value that never changes, like its parts.

    Attributes:
        flat: all vectors.
        graph: some of them, searched faster; None: every search is exact.
    """

    flat: FlatIndex
    graph: Graph | None = None

    def __len__(self) -> int:
        return len(self.flat)

    @property
    def sequence(self) -> int:
        """The last change it knows."""
        return self.flat.sequence

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self.flat.nbytes + (0 if self.graph is None else self.graph.nbytes)

    @property
    def uncovered(self) -> int:
        """How many items the graph does not have and each search looks at one by one."""
        return self.flat.count - self._newer

    def with_flat(self, flat: FlatIndex) -> Index:
        """The same graph, newer vectors."""
        return replace(self, flat=flat)

    def search(
        self, queries: Vectors, k: int, allowed: Ids | None = None, *, exact: bool = False
    ) -> list[tuple[Ids, Scores]]:
        """The k nearest items of each query; see ``FlatIndex.search``.

        Args:
            queries: float32 [Q, E], of length one.
            k: at least 1.
            allowed: numbers of the items that may be found, ascending; None for all.
            exact: compare every vector; else the graph's recall holds, if there is a graph.
        """
        graph = self.graph
        few = allowed is not None and len(allowed) < FEW * len(self)
        if graph is None or exact or few or k + MARGIN > len(self) // 2:
            return self.flat.search(queries, k, allowed)
        count = k + MARGIN
        effort = -(-graph.effort * count // (TUNED_NEIGHBOURS + MARGIN))
        bitmap = self._alive if allowed is None else graph.bitmap(self._of_alive(allowed))
        proposed = graph.propose(queries, count, bitmap, effort=effort)
        newer = self._nearest_newer(queries, count, allowed)
        results = []
        for q in range(len(queries)):
            rows = np.concatenate([self._alive_rows(proposed[q]), newer[q]])
            if len(rows) < min(k, len(self) if allowed is None else len(allowed)):
                results += self.flat.search(queries[q : q + 1], k, allowed)  # a walk that got stuck
                continue
            scores = self.flat.exact_scores(queries[q], rows)
            best = np.argsort(-scores, kind="stable")[:k]
            results.append((self.flat.ids[rows[best]], np.clip(scores[best], -1.0, 1.0)))
        return results

    @cached_property
    def _newer(self) -> int:
        """The first row that the graph does not know."""
        last = 0 if self.graph is None else self.graph.last
        return int(np.searchsorted(self.flat.ids, last, side="right"))

    def _nearest_newer(self, queries: Vectors, count: int, allowed: Ids | None) -> list[Ids]:
        if allowed is None:
            return list(self.flat.nearest_after(self._newer, queries, count))
        rows = self.flat.rows_of(allowed)
        rows = rows[rows >= self._newer]
        if self.flat.live is not None:
            rows = rows[self.flat.live[rows]]
        return [rows] * len(queries)

    @cached_property
    def _alive(self) -> NDArray[np.uint8] | None:
        """The graph's nodes that were not removed; None if all are there."""
        flat, graph = self.flat, self.graph
        assert graph is not None
        known = flat.ids[: self._newer]
        if flat.live is not None:
            known = known[flat.live[: self._newer]]
        return None if len(known) == len(graph) else graph.bitmap(known)

    def _of_alive(self, ids: Ids) -> Ids:
        return self.flat.ids[self._alive_rows(ids)]

    def _alive_rows(self, ids: Ids) -> Ids:
        rows = self.flat.rows_of(ids)
        return rows if self.flat.live is None else rows[self.flat.live[rows]]

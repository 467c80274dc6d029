"""The index that a collection searches: exact, or a graph's proposals scored exactly.

A graph covers the items up to some number. What is newer is compared with the query one by one,
what was removed is left out: so an answer is always of the ledger's newest state, however old the
graph is.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from serving.collection.index import MARGIN, FlatIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    _rows: Ids = field(init=False, repr=False)  # of the graph's nodes; -1: no longer there

    def __post_init__(self) -> None:
        nodes = np.empty(0, np.int64) if self.graph is None else self.graph.ids
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
        return self.flat.nbytes + (0 if self.graph is None else self.graph.nbytes)

    @property
    def uncovered(self) -> int:
        """How many items the graph does not have and each search looks at one by one."""
        return self.flat.count - self._newer

    def with_flat(self, flat: FlatIndex) -> Index:
        """The same graph, newer vectors."""
        if flat.layout is not self.flat.layout:
            return Index(flat, self.graph)
        newer = copy(self)  # without looking a million nodes up at each write
        newer.__dict__.pop("_newer", None)
        newer.__dict__.pop("_alive", None)
        object.__setattr__(newer, "flat", flat)
        return newer

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
        bitmap = self._alive if allowed is None else self._bitmap(allowed)
        proposed = self._rows[graph.propose(queries, count, bitmap, effort=effort)]
        newer = self._nearest_newer(queries, count, allowed)
        wanted = min(k, len(self) if allowed is None else len(allowed))
        results = []
        for q in range(len(queries)):
            rows = proposed[q][proposed[q] >= 0]
            if newer is not None:
                rows = np.concatenate([rows, newer[q]])
            if len(rows) < wanted:  # a walk that got stuck
                results += self.flat.search(queries[q : q + 1], k, allowed)
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

    def _nearest_newer(
        self, queries: Vectors, count: int, allowed: Ids | None
    ) -> Sequence[Ids] | Ids | None:
        if not self.uncovered:
            return None
        if allowed is None:
            return self.flat.nearest_after(self._newer, queries, count)
        rows = self._living(self.flat.rows_of(allowed))
        return [rows[rows >= self._newer]] * len(queries)

    @cached_property
    def _alive(self) -> NDArray[np.uint8] | None:
        """The graph's nodes that were not removed; None if all are there."""
        rows = self._rows[:-1]
        alive = rows >= 0
        if self.flat.live is not None:
            alive &= self.flat.live[rows]
        return None if alive.all() else np.packbits(alive, bitorder="little")

    def _bitmap(self, allowed: Ids) -> NDArray[np.uint8]:
        assert self.graph is not None
        alive = np.zeros(len(self.graph), np.bool_)
        alive[self.graph.nodes_of(self.flat.ids[self._living(self.flat.rows_of(allowed))])] = True
        return np.packbits(alive, bitorder="little")

    def _living(self, rows: Ids) -> Ids:
        return rows if self.flat.live is None else rows[self.flat.live[rows]]


def _rows_of_nodes(flat: FlatIndex, nodes: Ids) -> Ids:
    """The row of each item, or -1; and one more -1, for the node -1."""
    rows = np.full(len(nodes) + 1, -1, np.int64)
    places = np.searchsorted(flat.ids, nodes)
    known = np.flatnonzero(places < flat.count)
    known = known[flat.ids[places[known]] == nodes[known]]
    rows[known] = places[known]
    return rows

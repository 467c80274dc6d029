"""The exact search index: FAISS's exhaustive inner product over the vectors in memory.

An index is a value that never changes: `added` and `removed` return another one. So searches
run without a lock, each on the index it began with, while the next one is made, and the collection
only swaps a pointer. Two properties make that cheap:

- vectors lie in one growing buffer. An index sees its first n rows; adding writes behind them,
  where no older index looks. A full buffer is copied into one half as large again.
- a removed row is masked. Its memory is taken back when most rows are masked.

Vectors that were saved may stay in their file (`mapped`): nothing else changes.

Rows are in the order of the items' numbers, so a number is found by bisection. That is all FAISS's
IDMap2 would do, without its traps: it accepts an id twice and rebuilds its map at each removal.

Scores are computed again in float64 for the best rows and rounded to 7 digits. FAISS's float32 sums
depend on a row's position and on how many queries come at once (`contract.scores`); but an image
that is stored twice must get the same score twice, and a query the same answer alone and in a
batch.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Self

import numpy as np

from serving.collection.contract.scores import (
    MARGIN,
    ROUNDING,
    SCORE_DIGITS,
    Ids,
    Mask,
    Scores,
    Vectors,
)
from serving.collection.index.brute_force import top_inner_products
from serving.collection.index.mapped import mapped_rows
from serving.collection.index.vector_buffer import VectorBuffer

GROWTH = 1.5
SCORED_ROWS = 16384  # rows brought to float64 at a time
MAPPED_ROOM = 1_000_000  # rows that may be added behind those in a file, and as many as there are


@dataclass(frozen=True)
class FlatIndex:
    """Vectors of one ledger sequence number.

    Attributes:
        sequence: the last change it knows.
        count: its rows, masked ones among them.
        live: bool [count], False for removed rows; None while there are none.
        size: how many rows are not masked.
        layout: the same object as long as items keep their rows.
    """

    sequence: int
    count: int
    live: Mask | None
    size: int
    layout: object
    _buffer: VectorBuffer

    @classmethod
    def empty(cls, dim: int, *, reserve: int = 0, scratch: Path | None = None) -> Self:
        """Return an empty index with room for `reserve` vectors.

        Args:
            dim: length of a vector.
            reserve: how many vectors.
            scratch: a folder; the room is in a file there, gone when no longer used.
        """
        capacity = max(reserve, 64)
        if scratch is None:
            return cls(0, 0, None, 0, object(), VectorBuffer(capacity, dim))
        with TemporaryFile(dir=scratch) as file:
            buffer = VectorBuffer(
                capacity, dim, np.memmap(file, np.float32, "w+", shape=(capacity, dim))
            )
        buffer.in_file = capacity
        return cls(0, 0, None, 0, object(), buffer)

    @classmethod
    def of(cls, ids: Ids, vectors: Vectors, *, sequence: int) -> Self:
        """Return an index of items, taking over the array of their vectors.

        Args:
            ids: int64 [n], ascending.
            vectors: float32 [n or more, E]; what is behind the first n is room for more.
            sequence: the last change it knows.
        """
        buffer = VectorBuffer(len(vectors), vectors.shape[1], vectors)
        buffer.ids[: len(ids)] = ids
        buffer.used = len(ids)
        return cls(sequence, len(ids), None, len(ids), object(), buffer)

    @classmethod
    def mapped(cls, ids: Ids, file: BinaryIO, dim: int, *, sequence: int) -> Self:
        """Return an index as `of`, of vectors in a file: little-endian float32 [n, dim], n > 0."""
        rows = mapped_rows(file, len(ids), 2 * len(ids) + MAPPED_ROOM, dim)
        buffer = VectorBuffer(len(rows), dim, rows)
        buffer.ids[: len(ids)] = ids
        buffer.used = buffer.in_file = len(ids)
        return cls(sequence, len(ids), None, len(ids), object(), buffer)

    def __len__(self) -> int:
        return self.size

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self._buffer.nbytes + (0 if self.live is None else self.live.nbytes)

    @property
    def in_file(self) -> bool:
        """Whether vectors are in a file and not in memory."""
        return self._buffer.in_file > 0

    @property
    def in_memory(self) -> int:
        """How many vectors are in memory."""
        return max(self.count - self._buffer.in_file, 0)

    @property
    def dim(self) -> int:
        """Length of a vector, E."""
        return int(self._buffer.rows.shape[1])

    @property
    def vectors(self) -> Vectors:
        """float32 [count, E]."""
        return self._buffer.rows[: self.count]

    @property
    def ids(self) -> Ids:
        """int64 [count], ascending."""
        return self._buffer.ids[: self.count]

    @property
    def living_ids(self) -> Ids:
        """int64 [size], ascending: of the rows that are not masked."""
        return self.ids if self.live is None else self.ids[self.live]

    def added(self, ids: Ids, vectors: Vectors, *, sequence: int) -> Self:
        """Return an index with more items, whose numbers are above all there are.

        Args:
            ids: int64 [B], ascending.
            vectors: float32 [B, E], of length one.
            sequence: the change up to which the result is complete.
        """
        total = self.count + len(ids)
        buffer = self._buffer
        if buffer.used != self.count or total > len(buffer.rows):
            buffer = VectorBuffer(max(total, int(len(buffer.rows) * GROWTH)), buffer.rows.shape[1])
            buffer.rows[: self.count] = self.vectors
            buffer.ids[: self.count] = self.ids
        buffer.rows[self.count : total] = vectors
        buffer.ids[self.count : total] = ids
        buffer.used = total
        live = self.live
        if live is not None:
            live = np.concatenate([live, np.ones(len(ids), np.bool_)])
        size = self.size + len(ids)
        return replace(self, sequence=sequence, count=total, live=live, size=size, _buffer=buffer)

    def removed(self, ids: Ids, *, sequence: int) -> Self:
        """Return an index without some items; numbers that are not there are ignored."""
        if not len(ids):
            return replace(self, sequence=sequence)
        live = np.ones(self.count, np.bool_) if self.live is None else self.live.copy()
        live[self.rows_of(ids)] = False
        left = int(np.count_nonzero(live))
        if left == self.count:
            return replace(self, sequence=sequence, live=None, size=left)
        if left < self.count // 2 and not self.in_file:  # a file is written anew when it is saved
            dense = self.empty(self.vectors.shape[1], reserve=left)
            return dense.added(self.ids[live], self.vectors[live], sequence=sequence)
        return replace(self, sequence=sequence, live=live, size=left)

    def search(
        self, queries: Vectors, k: int, allowed: Ids | None = None
    ) -> list[tuple[Ids, Scores]]:
        """Return the k nearest items of each query, and every further one that ties with the k-th.

        Args:
            queries: float32 [Q, E], of length one.
            k: at least 1.
            allowed: numbers of the items that may be found; None for all.

        Returns:
            for each query the items' numbers and cosines, best first; fewer than k where there are
            no more.
        """
        return self.nearest(queries, k, None if allowed is None else self.living(allowed))

    def nearest(self, queries: Vectors, k: int, rows: Ids | None) -> list[tuple[Ids, Scores]]:
        """Search as `search` does, among rows (`living`) that were looked up already; None: all."""
        available = self.size if rows is None else len(rows)
        fetch = min(k + MARGIN, available)
        if not fetch:
            return [(np.empty(0, np.int64), np.empty(0)) for _ in queries]
        rough, ranked = self._ranked(queries, fetch, rows)
        return [
            self._settled(queries[q : q + 1], k, rows, rough[q], ranked[q])
            for q in range(len(queries))
        ]

    def _settled(
        self, query: Vectors, k: int, among: Ids | None, rough: Vectors, rows: Ids
    ) -> tuple[Ids, Scores]:
        """Score exactly; look further while an item not fetched could tie with the k-th."""
        available = self.size if among is None else len(among)
        while True:
            scores = self.exact_scores(query[0], rows)
            order = np.argsort(-scores, kind="stable")
            rows, scores = rows[order], scores[order]
            if len(rows) == available or scores[k - 1] > rough[-1] + ROUNDING:
                break
            more = min(4 * len(rows), available)
            rough, rows = (ranked[0] for ranked in self._ranked(query, more, among))
        if len(rows) > k:
            best = scores >= scores[k - 1]
            rows, scores = rows[best], scores[best]
        return self.ids[rows], np.clip(scores, -1.0, 1.0)

    def nearest_after(self, row: int, queries: Vectors, k: int) -> Ids:
        """Return rows int64 [Q, <= k] of the nearest items from a row on."""
        if self.live is not None:
            rows = np.flatnonzero(self.live[row:]) + row
            return self._ranked(queries, min(k, len(rows)), rows)[1]
        return self._ranked(queries, min(k, self.count - row), None, row)[1] + row

    def _ranked(
        self, queries: Vectors, k: int, rows: Ids | None, first: int = 0
    ) -> tuple[Vectors, Ids]:
        """Return rough scores float32 [Q, k], best first, and rows int64 [Q, k].

        Among these rows, or all from `first` on, which count from 0 then; there must be k.
        """
        live = self.live if rows is None else None
        return top_inner_products(queries, self.vectors[first:], k, rows=rows, live=live)

    def exact_scores(self, query: Vectors, rows: Ids) -> Scores:
        """Return the cosines of a query [E] and some rows, the same wherever the rows lie."""
        wide = query.astype(np.float64)
        scores = np.empty(len(rows))
        for start in range(0, len(rows), SCORED_ROWS):
            block = slice(start, start + SCORED_ROWS)
            # row by row, so a row's score does not depend on its neighbors'
            np.vecdot(self.vectors.take(rows[block], 0).astype(np.float64), wide, out=scores[block])
        return scores.round(SCORE_DIGITS, out=scores)

    def living(self, ids: Ids) -> Ids:
        """Return the rows, ascending, of those items that are here and not removed."""
        rows = self.rows_of(ids)
        return rows if self.live is None else rows[self.live[rows]]

    def rows_of(self, ids: Ids) -> Ids:
        """Return the rows of those items that are here, removed ones among them."""
        own = self.ids
        if len(own) and own[-1] - own[0] == len(own) - 1:  # no gaps: nothing to look for
            rows: Ids = ids - own[0]
            return rows[(rows >= 0) & (rows < len(own))]
        rows = np.searchsorted(own, ids)
        inside = rows < len(own)
        rows, ids = rows[inside], ids[inside]
        matches: Ids = rows[own[rows] == ids]
        return matches

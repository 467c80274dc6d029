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
depend on the place of a row and on how many queries come at once, by about 1e-7; but an image that
is stored twice must get the same score twice, and a query the same answer alone and in a batch.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from base.cpus import available_cpus
from serving.collection.index.mapped import mapped_rows

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Scores = NDArray[np.float64]
Mask = NDArray[np.bool_] | None

MARGIN = 32  # rows asked for beyond k, so that near ties at the end rarely need a second search
# Larger than any difference between FAISS's float32 sum and the float64 one for unit vectors.
ROUNDING = 1e-5
SCORE_DIGITS = 7  # float32 vectors hold no more
GROWTH = 1.5
SCORED_ROWS = 16384  # rows brought to float64 at a time
MAPPED_ROOM = 1_000_000  # rows that may be added behind those in a file, and as many as there are


@cache
def _cpus() -> int:
    return available_cpus()


class _Buffer:
    """Rows that several indexes share; each row is written once.

    Attributes:
        in_file: how many rows, the first ones, are in a file and take no memory.
    """

    def __init__(self, capacity: int, dim: int, rows: Vectors | None = None) -> None:
        self.rows = np.empty((capacity, dim), np.float32) if rows is None else rows
        self.ids = np.empty(capacity, np.int64)
        self.used = 0
        self.in_file = 0

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes; rows that were never written take none."""
        in_memory = max(self.used - self.in_file, 0)
        return in_memory * self.rows.itemsize * int(self.rows.shape[1]) + 8 * self.used


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
    live: Mask
    size: int
    layout: object
    _buffer: _Buffer

    @classmethod
    def empty(cls, dim: int, *, reserve: int = 0, scratch: Path | None = None) -> Self:
        """Return an index of nothing, with room for `reserve` vectors.

        Args:
            dim: length of a vector.
            reserve: how many vectors.
            scratch: a folder; the room is in a file there, which goes when nobody needs it.
        """
        capacity = max(reserve, 64)
        if scratch is None:
            return cls(0, 0, None, 0, object(), _Buffer(capacity, dim))
        with TemporaryFile(dir=scratch) as file:
            buffer = _Buffer(
                capacity, dim, np.memmap(file, np.float32, "w+", shape=(capacity, dim))
            )
        buffer.in_file = capacity
        return cls(0, 0, None, 0, object(), buffer)

    @classmethod
    def of(cls, ids: Ids, vectors: Vectors, *, sequence: int) -> Self:
        """Return an index of items and their vectors, whose array it takes over.

        Args:
            ids: int64 [n], ascending.
            vectors: float32 [n or more, E]; what is behind the first n is room for more.
            sequence: the last change it knows.
        """
        buffer = _Buffer(len(vectors), vectors.shape[1], vectors)
        buffer.ids[: len(ids)] = ids
        buffer.used = len(ids)
        return cls(sequence, len(ids), None, len(ids), object(), buffer)

    @classmethod
    def mapped(cls, ids: Ids, file: BinaryIO, dim: int, *, sequence: int) -> Self:
        """As `of`, with vectors that stay in a file: float32 little-endian [n, dim], n >= 1."""
        rows = mapped_rows(file, len(ids), 2 * len(ids) + MAPPED_ROOM, dim)
        buffer = _Buffer(len(rows), dim, rows)
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
        """With more items; their numbers must be above all there are.

        Args:
            ids: int64 [B], ascending.
            vectors: float32 [B, E], of length one.
            sequence: the change up to which the result is complete.
        """
        total = self.count + len(ids)
        buffer = self._buffer
        if buffer.used != self.count or total > len(buffer.rows):
            buffer = _Buffer(max(total, int(len(buffer.rows) * GROWTH)), buffer.rows.shape[1])
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
        """Without some items; numbers that are not there are passed over."""
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
        """As `search`, among rows (`living`) that were looked up already; None: all."""
        available = self.size if rows is None else len(rows)
        fetch = min(k + MARGIN, available)
        if not fetch:
            return [(np.empty(0, np.int64), np.empty(0)) for _ in queries]
        rough, found = self._nearest(queries, fetch, rows)
        return [
            self._settled(queries[q : q + 1], k, rows, rough[q], found[q])
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
            rough, rows = (found[0] for found in self._nearest(query, more, among))
        if len(rows) > k:
            wanted = scores >= scores[k - 1]
            rows, scores = rows[wanted], scores[wanted]
        return self.ids[rows], np.clip(scores, -1.0, 1.0)

    def nearest_after(self, row: int, queries: Vectors, k: int) -> Ids:
        """Rows int64 [Q, <= k] of the nearest items from a row on."""
        if self.live is not None:
            rows = np.flatnonzero(self.live[row:]) + row
            return self._nearest(queries, min(k, len(rows)), rows)[1]
        return self._nearest(queries, min(k, self.count - row), None, row)[1] + row

    def _nearest(
        self, queries: Vectors, k: int, rows: Ids | None, first: int = 0
    ) -> tuple[Vectors, Ids]:
        """FAISS: rough scores float32 [Q, k], best first, and rows int64 [Q, k].

        Among these rows, or all from `first` on, which count from 0 then; there must be k.
        """
        # One query needs one thread; OpenMP keeps a pool for every thread that ever asked for more.
        faiss.omp_set_num_threads(1 if len(queries) == 1 else _cpus())
        vectors = self.vectors[first:]
        scores = np.empty((len(queries), k), np.float32)
        found = np.empty((len(queries), k), np.int64)
        arguments = [faiss.swig_ptr(array) for array in (queries, vectors)]
        sizes = [vectors.shape[1], len(queries), len(vectors), k]
        results = [faiss.swig_ptr(array) for array in (scores, found)]
        selector: faiss.IDSelector | None = None
        if rows is not None:
            selector = faiss.IDSelectorArray(len(rows), faiss.swig_ptr(rows))
        elif self.live is not None:
            bits = np.packbits(self.live, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        if k and selector is None:
            faiss.knn_inner_product(*arguments, *sizes, *results)
        elif k:
            faiss.knn_inner_product(*arguments, *sizes, *results, selector)  # type: ignore[call-arg]
        return scores, found

    def exact_scores(self, query: Vectors, rows: Ids) -> Scores:
        """Cosines of a query [E] and some rows, the same wherever the rows lie."""
        wide = query.astype(np.float64)
        scores = np.empty(len(rows))
        for start in range(0, len(rows), SCORED_ROWS):
            part = slice(start, start + SCORED_ROWS)
            # row by row, so a row's score does not depend on its neighbors'
            np.vecdot(self.vectors.take(rows[part], 0).astype(np.float64), wide, out=scores[part])
        return scores.round(SCORE_DIGITS, out=scores)

    def living(self, ids: Ids) -> Ids:
        """Rows, ascending, of those items that are here and not removed."""
        rows = self.rows_of(ids)
        return rows if self.live is None else rows[self.live[rows]]

    def rows_of(self, ids: Ids) -> Ids:
        """Rows of those items that are here, removed ones among them."""
        known = self.ids
        if len(known) and known[-1] - known[0] == len(known) - 1:  # no gaps: nothing to look for
            rows: Ids = ids - known[0]
            return rows[(rows >= 0) & (rows < len(known))]
        rows = np.searchsorted(known, ids)
        inside = rows < len(known)
        rows, ids = rows[inside], ids[inside]
        found: Ids = rows[known[rows] == ids]
        return found

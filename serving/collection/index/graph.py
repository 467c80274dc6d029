"""An approximate index: FAISS's HNSW graph over vectors of one byte a number.

A graph only proposes. Its caller scores the proposals with the float32 vectors (`index`), so
rounding to bytes costs no accuracy in the scores, and in the order only what falls out of the
proposals. What it saves is memory traffic, which is the cost of a search in a graph that is larger
than the processor's cache. Measured at 200,000 x 128 on one core, per query at recall@10 0.999:
float32 0.115 ms, bytes in cluster order 0.109 ms; building 59 s against 25 s.

- Items enter in the order of their k-means cluster, so that neighbors lie together in memory.
- Of long vectors only the first principal axes go into it (`projection`). Then everything that a
  search looked at is proposed, not only as many as were requested: the order is a rough one.
- A graph never changes; `extended` copies it. So searches need no lock.
- Removed items stay as stepping stones: HNSW has no removal (facebookresearch/faiss#3339).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from base.cpus import available_cpus
from serving.collection.index.cluster_order import cluster_order
from serving.collection.index.pages import prefer_large
from serving.collection.index.projection import Projection
from serving.collection.index.proposer import (
    ADDED_AT_ONCE,
    GRAPH_EFFORTS,
    SCORE_COST,
    SPARE,
    STEP_COST,
    TUNED_NEIGHBORS,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from base.progress import OnProgress
    from serving.collection.contract.scores import Ids, Vectors

NEIGHBORS = 16  # M: links of a node, twice that in the lowest layer
# efConstruction. At 1,000,000 x 128 on two cores of Zen 4 a search has a recall@10 of 0.996 with an
# effort of 120 (0.15 ms) after 85 s of building with 120, with 80 (0.13 ms) after 135 s with 200.
BUILD_EFFORT = 200
LINK_BYTES = 2 * NEIGHBORS * 4 + 8  # of a node in the lowest layer; those above are a few percent
SCALE_SAMPLE = 100_000
KIND = f"HNSW{NEIGHBORS},SQ8"
_PROJECTED = re.compile(rf"PCA(\d+),{re.escape(KIND)}")


def projected_kind(dims: int) -> str:
    """Return FAISS's factory string for a graph over so many principal axes."""
    return f"PCA{dims},{KIND}"


def axes_of(kind: str) -> int | None:
    """Return how many principal axes a graph uses; 0: all numbers; None: `kind` is not a graph."""
    if kind == KIND:
        return 0
    match = _PROJECTED.fullmatch(kind)
    return int(match[1]) if match else None


@dataclass(frozen=True)
class Graph:
    """Items that can be searched approximately.

    Attributes:
        ids: int64 [n], the items' numbers in the order of the graph's nodes.
        scale: what a number of a vector is multiplied with before it is rounded to a byte.
        effort: efSearch for 10 neighbors; see `tuning`.
        projection: what is done to a vector before that; None: nothing.
    """

    ids: Ids
    scale: float
    effort: int
    _hnsw: Any
    projection: Projection | None = None
    _owner: Any = None  # keeps alive the FAISS index that holds `_hnsw`, if one does

    @classmethod
    def build(
        cls,
        ids: Ids,
        vectors: Vectors,
        rows: Ids | None = None,
        *,
        threads: int,
        axes: int = 0,
        on_progress: OnProgress | None = None,
    ) -> Graph:
        """Return a graph of these items.

        Args:
            ids: int64 [n], n >= 1.
            vectors: float32 [N, E], of length one; they are not copied.
            rows: int64 [n], where the items' vectors are; None: one after the other.
            threads: of the processor; results depend on their number in the rare near ties.
            axes: use only so many principal axes of the vectors; 0: all their numbers.
            on_progress: called with the items that are in and all items.
        """
        rows = np.arange(len(ids)) if rows is None else rows
        projection = Projection.learn(vectors, rows, axes) if axes else None

        def vectors_at(rows: Ids) -> Vectors:
            selection: Vectors = vectors[rows]
            return selection if projection is None else projection(selection)

        sample = vectors_at(rows[:: max(1, len(rows) // SCALE_SAMPLE)])
        scale = 127.0 / max(float(np.quantile(np.abs(sample), 0.9999)), 1e-6)
        hnsw = faiss.IndexHNSWSQ(
            sample.shape[1],
            faiss.ScalarQuantizer.QT_8bit_direct,  # type: ignore[arg-type]
            NEIGHBORS,
            faiss.METRIC_L2,
        )
        hnsw.hnsw.efConstruction = BUILD_EFFORT
        hnsw.is_trained = True
        order = cluster_order(vectors_at, rows, threads)
        _add(hnsw, scale, vectors_at, rows[order], threads=threads, on_progress=on_progress)
        _in_large_pages(hnsw)
        return cls(ids[order], scale, 4 * NEIGHBORS, hnsw, projection)

    def extended(self, ids: Ids, vectors: Vectors, *, threads: int) -> Graph:
        """Return a copy with more items, none of which it has already."""
        hnsw = faiss.clone_index(self._hnsw)
        vectors_at = self._projected(vectors).__getitem__
        _add(hnsw, self.scale, vectors_at, np.arange(len(ids)), threads=threads)
        _in_large_pages(hnsw)
        return replace(self, ids=np.concatenate([self.ids, ids]), _hnsw=hnsw, _owner=None)

    def tuned(self, effort: int, spread: int = 1) -> Graph:  # noqa: ARG002 - it has one spread
        """Return the same graph, searched with another effort."""
        return replace(self, effort=effort)

    @property
    def kind(self) -> str:
        """FAISS's factory string for it."""
        return KIND if self.projection is None else projected_kind(self._hnsw.d)

    @property
    def efforts(self) -> tuple[int, ...]:
        """The values that `tuned` takes."""
        return GRAPH_EFFORTS

    @property
    def spread(self) -> int:
        """The effort says how many proposals are made; bytes alone round off little."""
        return 1

    @property
    def spreads(self) -> tuple[int, ...]:
        """The values that `tuned` takes."""
        return (1,)

    def cost(self, count: int) -> float:
        """Return how many vectors could be compared one by one while it proposes so many."""
        return STEP_COST * self._effort(count) + SCORE_COST * self._proposals(count)

    def _effort(self, count: int) -> int:
        return max(-(-self.effort * count // (TUNED_NEIGHBORS + SPARE)), count)

    def _proposals(self, count: int) -> int:
        return count if self.projection is None else self._effort(count)

    def _projected(self, vectors: Vectors) -> Vectors:
        return vectors if self.projection is None else self.projection(vectors)

    def fits(self, vectors: Vectors) -> bool:
        """Whether its axes describe these vectors as well as those they were learned from."""
        return self.projection is None or self.projection.fits(vectors)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes, without the ids: codes and links."""
        return len(self) * (int(self._hnsw.d) + LINK_BYTES)

    @cached_property
    def last(self) -> int:
        """The highest number in it; 0 if it is empty."""
        return int(self.ids.max(initial=0))

    def propose(self, queries: Vectors, count: int) -> Ids:
        """Return nodes of items that are probably the nearest; see `proposer`."""
        codes = _codes(self._projected(queries), self.scale)
        fetch = self._proposals(count)
        distances = np.empty((len(codes), fetch), np.float32)
        nodes = np.empty((len(codes), fetch), np.int64)
        pointers = [faiss.swig_ptr(array) for array in (codes, distances, nodes)]
        parameters = _parameters(self._effort(count))
        faiss.omp_set_num_threads(1 if len(codes) == 1 else available_cpus())
        # FAISS's own function: what its Python wrapper checks takes as long as a small search
        self._hnsw.search_c(len(codes), pointers[0], fetch, *pointers[1:], parameters)
        return nodes

    # On the disk

    def to_bytes(self) -> NDArray[np.uint8]:
        """FAISS's serialization of the projection, nodes and links; the ids are not in it."""
        index = self._hnsw
        if self.projection is not None:
            index = faiss.IndexPreTransform(self.projection.to_faiss(), self._hnsw)
        data: NDArray[np.uint8] = faiss.serialize_index(index)
        return data

    @classmethod
    def from_bytes(cls, data: NDArray[np.uint8], ids: Ids, scale: float, effort: int) -> Graph:
        """Return the inverse; the data must have been checked, FAISS trusts what it reads.

        Raises:
            ValueError: another number of nodes than ids, or not a graph.
        """
        owner = projection = None
        try:
            hnsw = faiss.deserialize_index(data)
        except RuntimeError as error:
            raise ValueError(f"FAISS cannot read it: {error}") from error
        if isinstance(hnsw, faiss.IndexPreTransform):
            owner, hnsw = hnsw, faiss.downcast_index(hnsw.index)
            projection = Projection.from_faiss(owner)
        if not isinstance(hnsw, faiss.IndexHNSWSQ) or hnsw.ntotal != len(ids):
            raise ValueError(f"it is not a graph of {len(ids)} items")
        _in_large_pages(hnsw)
        return cls(ids, scale, effort, hnsw, projection, owner)


@cache
def _parameters(effort: int) -> Any:
    return faiss.SearchParametersHNSW(efSearch=effort)  # type: ignore[attr-defined]


def _add(
    hnsw: Any,
    scale: float,
    vectors_at: Callable[[Ids], Vectors],
    order: Ids,
    *,
    threads: int,
    on_progress: OnProgress | None = None,
) -> None:
    """Add vectors in this order; `vectors_at` gives those of some rows."""
    faiss.omp_set_num_threads(threads)
    for start in range(0, len(order), ADDED_AT_ONCE):
        block = order[start : start + ADDED_AT_ONCE]
        hnsw.add(_codes(vectors_at(block), scale))
        if on_progress is not None:
            on_progress(start + len(block), len(order))


def _in_large_pages(hnsw: Any) -> None:
    storage: Any = faiss.downcast_index(hnsw.storage)
    codes, links = storage.codes, hnsw.hnsw.neighbors
    prefer_large(int(codes.data()), codes.size())
    prefer_large(int(links.data()), 4 * links.size())


def _codes(vectors: Vectors, scale: float) -> Vectors:
    """Return bytes as the float32 that FAISS takes them in; it cuts the fraction off."""
    codes: Vectors = vectors * np.float32(scale)
    codes += 128.5
    np.maximum(codes, 0, out=codes)
    return np.minimum(codes, 255, out=codes)

"""An approximate index that a FAISS factory string names: "IVF1024,SQ8", "OPQ16,IVF256,PQ16x4fs".

Like the graph (`graph`) it only proposes. What its codes round off is made up for by more
proposals than are requested (`spread`), all of which are scored with the float32 vectors; so a
code of one bit per number can keep a recall of 0.99. Distances are L2, which orders vectors of
length one as their cosine does, and stays true under PCA's centering.

The effort of an inverted file is nprobe, of a graph efSearch; comparing all codes knows only one.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from base.cpus import available_cpus
from serving.collection.contract.factory_strings import (
    TRAINING_SAMPLE,
    inner_of,
    lists_of,
    make_index,
    parameters_of,
    shape_of,
)
from serving.collection.index.proposer import (
    ADDED_AT_ONCE,
    GRAPH_EFFORTS,
    SCORE_COST,
    SPARE,
    STEP_COST,
    TUNED_NEIGHBORS,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from base.progress import OnProgress
    from serving.collection.contract.scores import Ids, Vectors

_FAISS: Any = faiss  # where its type stubs know less than it can

FEWEST_TRAINED = 40_000  # vectors what is not an inverted file is learned from, if there are
LIST_EFFORTS = tuple(dict.fromkeys(round(1.19**step) for step in range(60)))  # nprobe, 1 to 28,000
SPREADS = (1, 2, 4, 8, 16)
CODE_COST = 0.3  # a code of an inverted list, in vectors compared one by one (see `proposer`)


@dataclass(frozen=True)
class Factory:
    """Items in an index made by FAISS's factory.

    Attributes:
        ids: int64 [n], the items' numbers in the order they were added.
        kind: the factory string.
        effort: nprobe or efSearch for 10 neighbors; see `tuning`.
        spread: proposals for each that is requested.
        tuned_items: how many items there were when it was tuned. Among more of them the same
            neighbors are in so many more lists and behind so many more proposals.
    """

    ids: Ids
    kind: str
    effort: int
    spread: int
    tuned_items: int
    _index: Any

    @classmethod
    def build(
        cls,
        kind: str,
        ids: Ids,
        vectors: Vectors,
        rows: Ids | None = None,
        *,
        threads: int,
        on_progress: OnProgress | None = None,
    ) -> Factory:
        """Train an index on a sample and put all of these items in.

        Args:
            kind: a factory string that `check_factory` does not refuse.
            ids: int64 [n], n >= `training_points(kind, dim)`.
            vectors: float32 [N, E], of length one; they are not copied.
            rows: int64 [n], where the items' vectors are; None: one after the other.
            threads: of the processor.
            on_progress: called with the items that are in and all items.
        """
        rows = np.arange(len(ids)) if rows is None else rows
        index = make_index(kind, vectors.shape[1])
        faiss.omp_set_num_threads(threads)
        sample = max(TRAINING_SAMPLE * lists_of(index), FEWEST_TRAINED)
        index.train(vectors[rows[:: max(1, len(rows) // sample)]])
        for start in range(0, len(rows), ADDED_AT_ONCE):
            index.add(vectors[rows[start : start + ADDED_AT_ONCE]])
            if on_progress is not None:
                on_progress(min(start + ADDED_AT_ONCE, len(rows)), len(rows))
        return cls(ids, kind, 1, 1, len(ids), index)

    def extended(self, ids: Ids, vectors: Vectors, *, threads: int) -> Factory:
        """Return a copy with more items, none of which it has already."""
        index = faiss.clone_index(self._index)
        faiss.omp_set_num_threads(threads)
        index.add(vectors)
        return replace(self, ids=np.concatenate([self.ids, ids]), _index=index)

    def fits(self, vectors: Vectors) -> bool:  # noqa: ARG002 - only the recall tells
        """Return True: whether vectors fit shows in the recall alone."""
        return True

    def tuned(self, effort: int, spread: int) -> Factory:
        """Return the same items, searched with another effort."""
        other = copy.copy(self)
        object.__setattr__(other, "effort", effort)
        object.__setattr__(other, "spread", spread)
        object.__setattr__(other, "tuned_items", len(self))
        return other

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def nbytes(self) -> int:
        """Memory held, in bytes, without the ids: what FAISS would write."""
        written = 0

        def count(data: bytes) -> None:
            nonlocal written
            written += len(data)

        _FAISS.write_index(self._index, _FAISS.PyCallbackIOWriter(count))
        return written

    @cached_property
    def last(self) -> int:
        """The highest number in it; 0 if it is empty."""
        return int(self.ids.max(initial=0))

    @cached_property
    def _inner(self) -> Any:
        return inner_of(self._index)

    @property
    def efforts(self) -> tuple[int, ...]:
        """Its efforts, as far as they make a difference."""
        if isinstance(self._inner, faiss.IndexHNSW):
            return GRAPH_EFFORTS
        lists = lists_of(self._index)
        return (*(effort for effort in LIST_EFFORTS if effort < lists), lists)

    @property
    def spreads(self) -> tuple[int, ...]:
        """The spreads of its kind; a graph has one, as its effort decides how many are proposed."""
        return (1,) if isinstance(self._inner, faiss.IndexHNSW) else SPREADS

    def cost(self, count: int) -> float:
        """Return how many vectors could be compared one by one while it proposes so many."""
        effort = self._effort(count)
        if isinstance(self._inner, faiss.IndexHNSW):
            return effort * (STEP_COST + SCORE_COST)
        lists = lists_of(self._index)
        codes = CODE_COST * len(self) * effort / lists
        return codes + lists + SCORE_COST * self._grown(count) * self.spread

    def _grown(self, count: int) -> int:
        return -(-count * len(self) // self.tuned_items)

    def _effort(self, count: int) -> int:
        count = self._grown(count)
        effort = -(-self.effort * count // (TUNED_NEIGHBORS + SPARE))
        if isinstance(self._inner, faiss.IndexHNSW):
            return max(effort, count)
        return min(effort, lists_of(self._index))

    def propose(self, queries: Vectors, count: int) -> Ids:
        """Return nodes of items that are probably the nearest; see `proposer`."""
        effort = self._effort(count)
        is_graph = isinstance(self._inner, faiss.IndexHNSW)
        fetch = effort if is_graph else self._grown(count) * self.spread
        parameters = parameters_of(shape_of(self._index), effort)
        faiss.omp_set_num_threads(1 if len(queries) == 1 else available_cpus())
        nodes: Ids = self._index.search(queries, fetch, params=parameters)[1]
        return nodes

    def to_bytes(self) -> NDArray[np.uint8]:
        """FAISS's serialization; the ids are not in it."""
        data: NDArray[np.uint8] = faiss.serialize_index(self._index)
        return data

    @classmethod
    def from_bytes(
        cls, data: NDArray[np.uint8], ids: Ids, kind: str, *, dim: int, tuned: tuple[int, int, int]
    ) -> Factory:
        """Return the inverse; the data must have been checked, FAISS trusts what it reads.

        Args:
            data: of `to_bytes`.
            ids: int64 [n].
            kind: the factory string.
            dim: length of a vector.
            tuned: effort, spread and tuned_items.

        Raises:
            ValueError: another number of items or dimension, or not such an index.
        """
        try:
            index = faiss.deserialize_index(data)
        except RuntimeError as error:
            raise ValueError(f"FAISS cannot read it: {error}") from error
        if index.d != dim or index.ntotal != len(ids) or shape_of(index) is None:
            raise ValueError(f"it is not an index of {len(ids)} items")
        return cls(ids, kind, *tuned, index)

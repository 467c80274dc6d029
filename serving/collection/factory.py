"""An approximate index that a FAISS factory string names: "IVF1024,SQ8", "OPQ16,IVF256,PQ16x4fs".

Like the graph (``graph``) it only proposes. What its codes round off is made up for by more
proposals than are asked for (``spread``), all of which are scored with the float32 vectors; so a
code of one bit a number can keep a recall of 0.99. Distances are L2, which orders vectors of length
one as their cosine does, and stays true under PCA's centring.

The effort of an inverted file is nprobe, of a graph efSearch; what compares all codes has one.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from images.cpus import available_cpus
from images.errors import UsageError
from serving.collection.proposer import SPARE, TUNED_NEIGHBOURS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from serving.collection.index import Ids, Vectors

_FAISS: Any = faiss  # where its type stubs know less than it can

TRAINING_SAMPLE = 64  # vectors a cluster is learned from
TRAINING_ROUNDS = 6  # of k-means
FEWEST_TRAINED = 40_000  # vectors what is not an inverted file is learned from, if there are
ADDED_AT_ONCE = 10_000
LIST_EFFORTS = tuple(dict.fromkeys(round(1.19**step) for step in range(60)))  # nprobe, 1 to 28,000
GRAPH_EFFORTS = tuple(round(26 * 1.125**step) for step in range(32))  # efSearch, 26 to 1001
SPREADS = (1, 2, 4, 8, 16)
# In vectors compared one by one, each on one core of Zen 4 with 128 numbers.
STEP_COST = 30.0  # a step of a graph
CODE_COST = 0.3  # a code of an inverted list
SCORE_COST = 8.0  # a proposal, which is read from anywhere and scored in float64
REFUSED = {
    "IDMap": "the collection keeps the items' numbers itself",
    "RFlat": "the collection itself scores what is proposed with the float32 vectors",
    "Refine": "the collection itself scores what is proposed with the float32 vectors",
}


@dataclass(frozen=True)
class Factory:
    """Items in an index made by FAISS's factory.

    Attributes:
        ids: int64 [n], the items' numbers in the order they were added.
        kind: the factory string.
        effort: nprobe or efSearch for 10 neighbours; see ``tuning``.
        spread: proposals for each that is asked for.
        tuned_items: how many items there were when it was tuned. Among more of them the same
            neighbours are in so many more lists and behind so many more proposals.
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
        on_progress: Callable[[int], object] | None = None,
    ) -> Factory:
        """Train an index on a sample and put all of these items in.

        Args:
            kind: a factory string that ``check_factory`` does not refuse.
            ids: int64 [n], n >= ``training_points(kind, dim)``.
            vectors: float32 [N, E], of length one; they are not copied.
            rows: int64 [n], where the items' vectors are; None: one after the other.
            threads: of the processor.
            on_progress: told how many items are in.
        """
        rows = np.arange(len(ids)) if rows is None else rows
        index = _made(kind, vectors.shape[1])
        faiss.omp_set_num_threads(threads)
        wanted = max(TRAINING_SAMPLE * _lists(index), FEWEST_TRAINED)
        index.train(vectors[rows[:: max(1, len(rows) // wanted)]])
        for start in range(0, len(rows), ADDED_AT_ONCE):
            index.add(vectors[rows[start : start + ADDED_AT_ONCE]])
            if on_progress is not None:
                on_progress(min(start + ADDED_AT_ONCE, len(rows)))
        return cls(ids, kind, 1, 1, len(ids), index)

    def extended(self, ids: Ids, vectors: Vectors, *, threads: int) -> Factory:
        """A copy with more items, none of which it has already."""
        index = faiss.clone_index(self._index)
        faiss.omp_set_num_threads(threads)
        index.add(vectors)
        return replace(self, ids=np.concatenate([self.ids, ids]), _index=index)

    def tuned(self, effort: int, spread: int) -> Factory:
        """The same items, searched with another effort."""
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
        return _inner(self._index)

    @property
    def efforts(self) -> tuple[int, ...]:
        """Of its kind, as far as they make a difference."""
        if isinstance(self._inner, faiss.IndexHNSW):
            return GRAPH_EFFORTS
        lists = _lists(self._index)
        return (*(effort for effort in LIST_EFFORTS if effort < lists), lists)

    @property
    def spreads(self) -> tuple[int, ...]:
        """A graph's proposals depend on how many are asked for; its effort does the same."""
        return (1,) if isinstance(self._inner, faiss.IndexHNSW) else SPREADS

    def cost(self, count: int) -> float:
        """How many vectors could be compared one by one while it proposes for so many."""
        effort = self._effort(count)
        if isinstance(self._inner, faiss.IndexHNSW):
            return effort * (STEP_COST + SCORE_COST)
        lists = _lists(self._index)
        codes = CODE_COST * len(self) * effort / lists
        return codes + lists + SCORE_COST * self._grown(count) * self.spread

    def _grown(self, count: int) -> int:
        return -(-count * len(self) // self.tuned_items)

    def _effort(self, count: int) -> int:
        count = self._grown(count)
        effort = -(-self.effort * count // (TUNED_NEIGHBOURS + SPARE))
        if isinstance(self._inner, faiss.IndexHNSW):
            return max(effort, count)
        return min(effort, _lists(self._index))

    def propose(self, queries: Vectors, count: int) -> Ids:
        """Nodes of items that are probably the nearest; see ``proposer``."""
        effort = self._effort(count)
        wanted = (
            effort if isinstance(self._inner, faiss.IndexHNSW) else self._grown(count) * self.spread
        )
        parameters = _parameters(_shape(self._index), effort)
        faiss.omp_set_num_threads(1 if len(queries) == 1 else available_cpus())
        nodes: Ids = self._index.search(queries, wanted, params=parameters)[1]
        return nodes

    def to_bytes(self) -> NDArray[np.uint8]:
        """FAISS's serialisation; the ids are not in it."""
        data: NDArray[np.uint8] = faiss.serialize_index(self._index)
        return data

    @classmethod
    def from_bytes(
        cls, data: NDArray[np.uint8], ids: Ids, kind: str, *, dim: int, tuned: tuple[int, int, int]
    ) -> Factory:
        """The inverse; the data must have been checked, FAISS trusts what it reads.

        Args:
            data: of ``to_bytes``.
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
        if index.d != dim or index.ntotal != len(ids) or _shape(index) is None:
            raise ValueError(f"it is not an index of {len(ids)} items")
        return cls(ids, kind, *tuned, index)


# Which factory strings there are


def check_factory(kind: str, dim: int) -> None:
    """Refuse a factory string that cannot be used, before anything is built.

    Raises:
        UsageError: naming it, why, and what to write instead.
    """
    remedy = "choose auto, flat, or a factory string such as IVF1024,SQ8"
    if not kind.isascii() or not kind.strip():
        raise UsageError(f"index is {kind!r}, which is no FAISS factory string; {remedy}")
    if kind.startswith("B"):
        raise UsageError(f"index {kind} is for binary vectors, an embedding is float32; {remedy}")
    for word, reason in REFUSED.items():
        if word in kind:
            raise UsageError(f"index {kind}: leave {word} out, {reason}")
    try:
        index = _made(kind, dim)
    except RuntimeError as error:
        why = str(error).partition("Error: ")[2].partition("\n")[0] or "FAISS does not know it"
        raise UsageError(
            f"index {kind} cannot be made for vectors of {dim} numbers ({why}); {remedy}"
        ) from error
    if _shape(index) is None:
        raise UsageError(
            f"index {kind} cannot be searched with an effort of its own for each query; {remedy}"
        )


@lru_cache(maxsize=64)
def training_points(kind: str, dim: int) -> int:
    """How many vectors an index must be learned from at least."""
    index = _made(kind, dim)
    inner = _inner(index)
    needed = [1, _lists(index)]
    quantizers = [inner, getattr(inner, "storage", None)]
    for part in (faiss.downcast_index(q) if q is not None else None for q in quantizers):
        for name in ("pq", "rq", "aq"):
            bits = getattr(getattr(part, name, None), "nbits", None)
            if bits is not None:
                needed.append(2 ** int(bits if isinstance(bits, int) else bits.at(0)))
    if _is_transformed(index):  # PCA, OPQ
        needed.append(dim)
    return max(needed)


def _made(kind: str, dim: int) -> Any:
    index = faiss.index_factory(dim, kind, faiss.METRIC_L2)
    inner = _inner(index)
    if isinstance(inner, faiss.IndexIVF):
        inner.cp.niter = TRAINING_ROUNDS
        inner.cp.max_points_per_centroid = TRAINING_SAMPLE
        inner.cp.min_points_per_centroid = 1
    quantizer = getattr(inner, "pq", None)
    if quantizer is not None:
        quantizer.cp.min_points_per_centroid = 1
    return index


def _inner(index: Any) -> Any:
    """What is behind the transformations of vectors."""
    index = faiss.downcast_index(index)
    while isinstance(index, faiss.IndexPreTransform):
        index = faiss.downcast_index(index.index)
    return index


def _is_transformed(index: Any) -> bool:
    return isinstance(faiss.downcast_index(index), faiss.IndexPreTransform)


def _lists(index: Any) -> int:
    inner = _inner(index)
    return int(inner.nlist) if isinstance(inner, faiss.IndexIVF) else 1


def _shape(index: Any) -> tuple[str, ...] | None:
    """What its parameters are made of, outermost first; None: they cannot be given to a search."""
    outer = ("transform",) if _is_transformed(index) else ()
    inner = _inner(index)
    if isinstance(inner, faiss.IndexIVF):
        quantizer = _inner(inner.quantizer)
        return (
            (*outer, "lists", "graph")
            if isinstance(quantizer, faiss.IndexHNSW)
            else (
                *outer,
                "lists",
            )
        )
    if isinstance(inner, faiss.IndexHNSW):
        return (*outer, "graph")
    plain = (faiss.IndexFlatCodes, faiss.IndexFastScan)
    return () if isinstance(inner, plain) else None


@lru_cache(maxsize=256)
def _parameters(shape: tuple[str, ...], effort: int) -> Any:
    """For one search; nothing of the index is changed."""
    if not shape:
        return None
    kind, *rest = shape
    if kind == "transform":
        return _FAISS.SearchParametersPreTransform(index_params=_parameters(tuple(rest), effort))
    if kind == "graph":
        return _FAISS.SearchParametersHNSW(efSearch=effort)
    if rest:  # the lists are found through a graph, which must find as many
        finding = _FAISS.SearchParametersHNSW(efSearch=2 * effort + 16)
        return _FAISS.SearchParametersIVF(nprobe=effort, quantizer_params=finding)
    return _FAISS.SearchParametersIVF(nprobe=effort)

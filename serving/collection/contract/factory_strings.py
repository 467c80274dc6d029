"""FAISS's factory strings: which can be used here, and the parameters of a search with one.

Each search has its own parameters, so an index itself never changes.
"""

from functools import lru_cache
from typing import Any

import faiss

from base.errors import UsageError

_FAISS: Any = faiss  # where its type stubs know less than it can

TRAINING_SAMPLE = 64  # vectors a cluster is learned from
TRAINING_ROUNDS = 6  # of k-means
REFUSED = {
    "IDMap": "the collection keeps the items' numbers itself",
    "RFlat": "the collection itself scores what is proposed with the float32 vectors",
    "Refine": "the collection itself scores what is proposed with the float32 vectors",
}


def check_factory(kind: str, dim: int) -> None:
    """Refuse a factory string that cannot be used, before anything is built.

    Raises:
        UsageError: naming it, why, and what to write instead.
    """
    remedy = "choose auto, flat, or a factory string such as IVF1024,SQ8"
    if not kind.isascii() or not kind.strip():
        raise UsageError(f"index is {kind!r}, which is not a FAISS factory string; {remedy}")
    if kind.startswith("B"):
        raise UsageError(f"index {kind} is for binary vectors, an embedding is float32; {remedy}")
    for word, reason in REFUSED.items():
        if word in kind:
            raise UsageError(f"index {kind}: leave {word} out, {reason}")
    try:
        index = make_index(kind, dim)
    except RuntimeError as error:
        why = str(error).partition("Error: ")[2].partition("\n")[0] or "FAISS does not know it"
        raise UsageError(
            f"index {kind} cannot be made for vectors of {dim} numbers ({why}); {remedy}"
        ) from error
    if shape_of(index) is None:
        raise UsageError(
            f"index {kind} cannot be searched with an effort of its own for each query; {remedy}"
        )


@lru_cache(maxsize=64)
def training_points(kind: str, dim: int) -> int:
    """Return how many vectors an index must be learned from at least."""
    index = make_index(kind, dim)
    inner = inner_of(index)
    needed = [1, lists_of(index)]
    quantizers = [inner, getattr(inner, "storage", None)]
    for quantizer in (faiss.downcast_index(q) if q is not None else None for q in quantizers):
        for name in ("pq", "rq", "aq"):
            bits = getattr(getattr(quantizer, name, None), "nbits", None)
            if bits is not None:
                needed.append(2 ** int(bits if isinstance(bits, int) else bits.at(0)))
    if _is_transformed(index):  # PCA, OPQ
        needed.append(dim)
    return max(needed)


def make_index(kind: str, dim: int) -> Any:
    """Return a new, untrained index.

    Raises:
        RuntimeError: FAISS cannot make it.
    """
    index = faiss.index_factory(dim, kind, faiss.METRIC_L2)
    inner = inner_of(index)
    if isinstance(inner, faiss.IndexIVF):
        inner.cp.niter = TRAINING_ROUNDS
        inner.cp.max_points_per_centroid = TRAINING_SAMPLE
        inner.cp.min_points_per_centroid = 1
    quantizer = getattr(inner, "pq", None)
    if quantizer is not None:
        quantizer.cp.min_points_per_centroid = 1
    return index


def inner_of(index: Any) -> Any:
    """Return the index behind the transformations of vectors."""
    index = faiss.downcast_index(index)
    while isinstance(index, faiss.IndexPreTransform):
        index = faiss.downcast_index(index.index)
    return index


def _is_transformed(index: Any) -> bool:
    return isinstance(faiss.downcast_index(index), faiss.IndexPreTransform)


def lists_of(index: Any) -> int:
    """Return how many inverted lists an index has; 1 if it has no such lists."""
    inner = inner_of(index)
    return int(inner.nlist) if isinstance(inner, faiss.IndexIVF) else 1


def shape_of(index: Any) -> tuple[str, ...] | None:
    """Return the levels with parameters, outermost first; None: a search cannot have its own."""
    outer = ("transform",) if _is_transformed(index) else ()
    inner = inner_of(index)
    if isinstance(inner, faiss.IndexIVF):
        quantizer = inner_of(inner.quantizer)
        is_graph = isinstance(quantizer, faiss.IndexHNSW)
        return (*outer, "lists", "graph") if is_graph else (*outer, "lists")
    if isinstance(inner, faiss.IndexHNSW):
        return (*outer, "graph")
    plain = (faiss.IndexFlatCodes, faiss.IndexFastScan)
    return () if isinstance(inner, plain) else None


@lru_cache(maxsize=256)
def parameters_of(shape: tuple[str, ...], effort: int) -> Any:
    """Return the parameters of one search; the index itself does not change."""
    if not shape:
        return None
    kind, *rest = shape
    if kind == "transform":
        return _FAISS.SearchParametersPreTransform(index_params=parameters_of(tuple(rest), effort))
    if kind == "graph":
        return _FAISS.SearchParametersHNSW(efSearch=effort)
    if rest:  # the lists are found through a graph, which must find as many
        quantizer = _FAISS.SearchParametersHNSW(efSearch=2 * effort + 16)
        return _FAISS.SearchParametersIVF(nprobe=effort, quantizer_params=quantizer)
    return _FAISS.SearchParametersIVF(nprobe=effort)

"""FAISS's exhaustive inner product over an array of vectors, which it does not copy."""

from functools import cache

import faiss
import numpy as np

from base.cpus import available_cpus
from serving.collection.contract.scores import Ids, Mask, Vectors


def top_inner_products(
    queries: Vectors,
    vectors: Vectors,
    k: int,
    *,
    rows: Ids | None = None,
    live: Mask | None = None,
) -> tuple[Vectors, Ids]:
    """Return the k largest inner products of each query, best first, and their rows.

    Args:
        queries: float32 [Q, E].
        vectors: float32 [N, E].
        k: there must be so many rows to choose from.
        rows: int64 [n], compare only these; None: all.
        live: bool [N], compare only where it is True; None: all. Not together with `rows`.

    Returns:
        scores float32 [Q, k] and rows int64 [Q, k].
    """
    # One query needs one thread; OpenMP keeps a pool for every thread that ever asked for more.
    faiss.omp_set_num_threads(1 if len(queries) == 1 else _cpus())
    scores = np.empty((len(queries), k), np.float32)
    top = np.empty((len(queries), k), np.int64)
    arguments = [faiss.swig_ptr(array) for array in (queries, vectors)]
    sizes = [vectors.shape[1], len(queries), len(vectors), k]
    results = [faiss.swig_ptr(array) for array in (scores, top)]
    selector: faiss.IDSelector | None = None
    if rows is not None:
        selector = faiss.IDSelectorArray(len(rows), faiss.swig_ptr(rows))
    elif live is not None:
        bits = np.packbits(live, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
    if k and selector is None:
        faiss.knn_inner_product(*arguments, *sizes, *results)
    elif k:
        faiss.knn_inner_product(*arguments, *sizes, *results, selector)  # type: ignore[call-arg]
    return scores, top


@cache
def _cpus() -> int:
    return available_cpus()

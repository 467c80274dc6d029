"""Other libraries' search, each built as its users would build it, on the vectors of ours."""

from __future__ import annotations

import importlib.util
import os
import time
from typing import TYPE_CHECKING

import faiss
import numpy as np

from benchmarks.search_vectors import portions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Search = Callable[[Vectors], NDArray[np.int64]]  # float32 [1, E] -> rows int64 [10]

NEIGHBORS = 10
LINKS, BUILD_EFFORT = 16, 100
EFFORTS = tuple(round(10 * 1.125**step) for step in range(35))  # 10 to 549
PACKAGES = {"faiss flat": "faiss", "hnswlib": "hnswlib", "usearch": "usearch"}
PACKAGES |= {"milvus-lite": "milvus_lite"}


def installed(name: str) -> bool:
    """Whether the library is there; hnswlib has to be compiled."""
    return importlib.util.find_spec(PACKAGES[name]) is not None


def build(name: str, vectors: Vectors, folder: Path) -> tuple[float, Callable[[int], Search]]:
    """Seconds it took, and what gives a search with an effort (efSearch)."""
    start = time.perf_counter()
    with_effort = BUILDERS[name](vectors, folder)
    return time.perf_counter() - start, with_effort


def flat(vectors: Vectors, _: Path) -> Callable[[int], Search]:
    """Every vector compared."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)

    def search(query: Vectors) -> NDArray[np.int64]:
        neighbors: NDArray[np.int64] = index.search(query, NEIGHBORS)[1][0]
        return neighbors

    return lambda _: search


def hnswlib(vectors: Vectors, _: Path) -> Callable[[int], Search]:
    """Return a graph with the links of ours, over float32."""
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), M=LINKS, ef_construction=BUILD_EFFORT)
    index.add_items(vectors)

    def with_effort(effort: int) -> Search:
        def search(query: Vectors) -> NDArray[np.int64]:
            neighbors: NDArray[np.int64] = index.knn_query(query, NEIGHBORS, num_threads=1)[0][0]
            return neighbors.astype(np.int64)

        index.set_ef(effort)
        return search

    return with_effort


def usearch(vectors: Vectors, _: Path) -> Callable[[int], Search]:
    """Return a graph with the links of ours, in the library's default precision."""
    from usearch.index import Index

    index = Index(
        ndim=vectors.shape[1], metric="ip", connectivity=LINKS, expansion_add=BUILD_EFFORT
    )
    index.add(np.arange(len(vectors)), vectors, threads=os.cpu_count() or 1)

    def with_effort(effort: int) -> Search:
        def search(query: Vectors) -> NDArray[np.int64]:
            neighbors: NDArray[np.int64] = index.search(query[0], NEIGHBORS, threads=1).keys
            return neighbors.astype(np.int64)

        index.expansion_search = effort
        return search

    return with_effort


def milvus_lite(vectors: Vectors, folder: Path) -> Callable[[int], Search]:
    """Return a graph with the links of ours in a database of its own, asked through its client."""
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(str(folder / "milvus.db"))
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
    index = client.prepare_index_params()
    index.add_index(
        "vector",
        index_type="HNSW",
        metric_type="IP",
        params={"M": LINKS, "efConstruction": BUILD_EFFORT},
    )
    client.create_collection("c", schema=schema, index_params=index)
    for start, size in portions(len(vectors), 10_000):
        rows = [{"id": n, "vector": vectors[n].tolist()} for n in range(start, start + size)]
        client.insert("c", rows)
    client.flush("c")
    client.load_collection("c")

    def with_effort(effort: int) -> Search:
        def search(query: Vectors) -> NDArray[np.int64]:
            hits = client.search(
                "c", query.tolist(), limit=NEIGHBORS, search_params={"params": {"ef": effort}}
            )[0]
            return np.array([hit["id"] for hit in hits], np.int64)

        return search

    return with_effort


BUILDERS = {"faiss flat": flat, "hnswlib": hnswlib, "usearch": usearch, "milvus-lite": milvus_lite}

"""The graph alone: what it proposes, its bytes, and what it is over."""

import faiss
import numpy as np
import pytest

from serving.collection.index.flat_index import FlatIndex
from serving.collection.index.graph import Graph
from serving.collection.index.index import Index
from tests.serving.collection.clustered import clustered

DIM = 24


@pytest.mark.parametrize("axes", [0, 6])
def test_a_graph_survives_its_bytes(axes: int) -> None:
    vectors = clustered(600, 1, DIM)
    graph = Graph.build(np.arange(5, 605), vectors, threads=1, axes=axes)
    assert graph.kind == ("PCA6,HNSW16,SQ8" if axes else "HNSW16,SQ8")
    again = Graph.from_bytes(graph.to_bytes(), graph.ids, graph.scale, graph.effort)
    queries = clustered(10, 2, DIM)
    np.testing.assert_array_equal(
        graph.tuned(30).propose(queries, 5), again.tuned(30).propose(queries, 5)
    )
    assert again.kind == graph.kind
    np.testing.assert_array_equal(again.to_bytes(), graph.to_bytes())
    with pytest.raises(ValueError, match="599"):
        Graph.from_bytes(graph.to_bytes(), graph.ids[1:], graph.scale, graph.effort)
    with pytest.raises(ValueError, match="cannot read"):
        Graph.from_bytes(graph.to_bytes()[:100], graph.ids, graph.scale, graph.effort)


def test_another_index_behind_a_transformation_is_no_graph() -> None:
    vectors = clustered(600, 1, DIM)
    for kind in ("PCA4,Flat", "RR4,HNSW16,SQ8"):
        other = faiss.index_factory(DIM, kind)
        other.train(vectors)
        other.add(vectors)
        with pytest.raises(ValueError, match="it is not a graph"):
            Graph.from_bytes(faiss.serialize_index(other), np.arange(600), 100.0, 10)


@pytest.mark.parametrize("axes", [0, 6])
def test_extending_leaves_the_old_graph_alone(axes: int) -> None:
    vectors = clustered(700, 1, DIM)
    old = Graph.build(np.arange(1, 601), vectors[:600], threads=1, axes=axes)
    new = old.extended(np.arange(601, 701), vectors[600:], threads=1)
    queries = vectors[650:660]
    best = new.ids[new.propose(queries, 1)]
    assert (best == np.arange(651, 661)[:, None]).any(axis=1).all()
    assert axes or best.shape == (10, 1)
    assert old.propose(queries, 1).max() < 600
    assert (len(old), len(new), old.last, new.last) == (600, 700, 600, 700)


def test_a_graph_over_principal_axes_proposes_all_that_it_looked_at() -> None:
    """So that what their rough order hides is scored: with more effort nothing is missed."""
    vectors = clustered(2000, 1, DIM)
    ids = np.arange(1, 2001)
    flat = FlatIndex.empty(DIM).added(ids, vectors, sequence=2000)
    graph = Graph.build(ids, vectors, threads=1, axes=DIM // 4)
    queries = clustered(30, 2, DIM)
    assert graph.tuned(52).propose(queries, 26).shape == (30, 52)
    assert graph.tuned(52).propose(queries, 260).shape == (30, 520)
    exact = flat.search(queries, 10)
    shares = []
    for effort in (26, 400):
        results = Index(flat, graph.tuned(effort)).search(queries, 10)
        pairs = zip(results, exact, strict=True)
        shares.append(np.mean([np.isin(a, b[:10]).sum() / 10 for (a, _), (b, _) in pairs]))
    assert shares[0] < shares[1]
    assert shares[1] > 0.99


def test_an_index_whose_graph_knows_removed_items_never_names_them() -> None:
    vectors = clustered(1000, 1, DIM)
    ids = np.arange(1, 1001)
    flat = FlatIndex.empty(DIM).added(ids, vectors, sequence=1000)
    graph = Graph.build(ids, vectors, threads=1).tuned(64)
    index = Index(flat.removed(ids[::3], sequence=1334), graph)
    for results, _ in index.search(vectors[:50], 10):
        assert len(results) == 10
        assert not np.isin(results, ids[::3]).any()

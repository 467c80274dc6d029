"""The approximate index: what it promises, and that it never answers with what is not there."""

from pathlib import Path

import numpy as np
import pytest

from base.errors import UsageError
from serving.collection import Collection, create_collection, open_collection
from serving.collection.index.graph import Graph
from tests.serving.collection.clustered import Vectors, clustered, numbered

DIM = 24


def recall(collection: Collection, queries: Vectors) -> float:
    results = collection.search(queries, 10)
    truth = collection.search(queries, 10, exact=True)
    return float(
        np.mean(
            [
                np.mean([hit.score >= best[-1].score for hit in hits])
                for hits, best in zip(results, truth, strict=True)
            ]
        )
    )


def test_the_promise_is_kept_on_fresh_queries(tuned: Collection) -> None:
    measured = tuned.stats()["index"]["measured"]
    assert measured["low"] >= 0.95
    assert measured["low"] <= measured["recall"] <= measured["high"]
    assert recall(tuned, clustered(400, 2, DIM)) >= 0.95 - (measured["recall"] - measured["low"])


def test_a_search_without_enough_effort_misses_something(tuned: Collection) -> None:
    """Else the tests of recall could not fail."""
    index = tuned._follower.index
    assert index is not None
    assert index.proposer is not None
    queries = clustered(200, 2, DIM)
    truth = index.search(queries, 10, exact=True)
    rough = index.proposer.ids[index.proposer.tuned(10, 1).propose(queries, 10)]
    hits = [len(np.intersect1d(t[0], r)) for t, r in zip(truth, rough, strict=True)]
    assert np.mean(hits) < 9.99


def test_scores_are_those_of_the_exact_search(tuned: Collection) -> None:
    queries = clustered(20, 3, DIM)
    for hits, exact in zip(
        tuned.search(queries, 5), tuned.search(queries, 5, exact=True), strict=True
    ):
        scores = {hit.key: hit.score for hit in exact}
        for hit in hits:
            assert scores.get(hit.key, hit.score) == hit.score


def test_new_items_are_found_and_removed_ones_are_not(tuned: Collection) -> None:
    new = clustered(50, 4, DIM)
    tuned.add(numbered(new, first=900_000))
    assert [hits[0].key for hits in tuned.search(new, 1)] == [f"{900_000 + n}" for n in range(50)]
    gone = {hit.key for hits in tuned.search(new, 20) for hit in hits}
    tuned.remove(gone)
    left = {hit.key for hits in tuned.search(new, 20) for hit in hits}
    assert left
    assert not left & gone


@pytest.mark.parametrize("modulus", [1, 10])
def test_filters_hold(tuned: Collection, modulus: int) -> None:
    expected = {"n": {"$lt": modulus}}
    for hits in tuned.search(clustered(20, 5, DIM), 10, filter=expected):
        assert len(hits) == 10
        assert all(hit.metadata["n"] < modulus for hit in hits)


def test_many_neighbors_are_all_found(tuned: Collection) -> None:
    assert len(tuned.search(clustered(1, 5, DIM), 1200)[0]) == 1200
    assert len(tuned.search(clustered(1, 5, DIM), 5000)[0]) == 3000


def test_the_index_is_renewed_when_it_is_time(tuned: Collection) -> None:
    assert not tuned.maintain()
    tuned.add(numbered(clustered(150, 6, DIM), first=500_000))
    assert tuned.stats()["index"]["uncovered"] == 150
    assert tuned.maintain()
    assert tuned.stats()["index"]["uncovered"] == 0
    assert not tuned.maintain()
    tuned.remove(tuned.keys(limit=1500))
    assert tuned.maintain()
    index = tuned._follower.index
    assert index is not None
    assert index.proposer is not None
    assert len(index.proposer) == len(tuned) == 1650


def along_axes(count: int, seed: int, further: float = 0.0) -> Vectors:
    """Vectors that differ along six axes, six others as far as is said, and a little along all.

    How far they are along the others makes no difference to which of those without are nearest.
    """
    random = np.random.default_rng(seed)
    vectors = 0.05 * random.standard_normal((count, DIM))
    vectors[:, :6] += random.standard_normal((count, 6))
    vectors[:, 12:18] += further * random.standard_normal((count, 6))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize("further", [0.0, 0.8])
def test_axes_are_learned_anew_where_new_items_differ_along_others(
    small: None, tmp_path: Path, further: float
) -> None:
    path = tmp_path / "c"
    with create_collection(path, "ab" * 32, DIM, recall=0.95, index="PCA12,HNSW16,SQ8") as made:
        made.add(numbered(along_axes(3000, 1)))
        assert made.tune(threads=1)["kind"] == "PCA12,HNSW16,SQ8"
    with open_collection(path) as collection:
        before = graph_of(collection)
        collection.add(numbered(along_axes(1500, 2, further), first=500_000))
        assert collection.maintain()
        after = graph_of(collection)
        assert len(after) == 4500
        assert (after.projection is before.projection) == (further == 0)
        assert recall(collection, along_axes(300, 3, further)) >= 0.93


def graph_of(collection: Collection) -> Graph:
    collection.search(clustered(1, 8, DIM), 1)
    index = collection._follower.index
    assert index is not None
    assert isinstance(index.proposer, Graph)
    return index.proposer


def test_nobody_needs_to_ask_for_it(small: None, tmp_path: Path) -> None:
    with create_collection(tmp_path / "c", "ab" * 32, DIM, recall=0.9):
        pass
    with open_collection(tmp_path / "c", maintain_index=True) as collection:
        collection.add(numbered(clustered(2000, 1, DIM)))
        maintainer = collection._maintainer
        assert maintainer is not None
        maintainer.wait()
        assert collection.stats()["index"]["kind"] == "HNSW16,SQ8"
    with open_collection(tmp_path / "c") as again:
        assert again.stats()["index"]["kind"] == "HNSW16,SQ8"


def test_what_cannot_be_promised_stays_exact(small: None, tmp_path: Path) -> None:
    """Of random vectors without structure, and too few to prove 0.9999."""
    with create_collection(tmp_path / "c", "ab" * 32, DIM, recall=0.9999) as collection:
        collection.add(numbered(clustered(1500, 1, DIM)))
        index = collection.tune(threads=1)
        assert index["exact"]
        assert "1500 items are too few to prove it" in index["measured"]["tried"][0]
        assert recall(collection, clustered(20, 2, DIM)) == 1
        assert not collection.maintain()


@pytest.mark.parametrize("wrong", [0.0, -1.0, 1.5, float("nan"), 0.99999])
def test_impossible_promises_are_refused(tmp_path: Path, wrong: float) -> None:
    with pytest.raises(UsageError, match="recall"):
        create_collection(tmp_path / "c", "ab" * 32, DIM, recall=wrong)


def test_a_graph_outlives_its_vectors_moving(tuned: Collection) -> None:
    """Most items are removed: the others get other rows, the graph stays the old one."""
    tuned.remove(tuned.keys(limit=1600))
    tuned.add(numbered(clustered(20, 8, DIM), first=600_000))
    queries = clustered(30, 7, DIM)
    exact = tuned.search(queries, 10, exact=True)
    keys = set(tuned.keys(limit=5000))
    for hits, best in zip(tuned.search(queries, 10), exact, strict=True):
        assert {hit.key for hit in hits} <= keys
        assert hits[0] == best[0]

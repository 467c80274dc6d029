"""The approximate index: what it promises, and that it never answers with what is not there."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import UsageError
from serving.collection import Collection, Record, create_collection, open_collection
from serving.collection.index.graph import Graph
from serving.collection.upkeep import planning, upkeep
from serving.collection.upkeep.tuning import interval, queries_needed

Vectors = NDArray[np.float32]
DIM = 24


def clustered(count: int, seed: int) -> Vectors:
    """Unit vectors around 40 centers, as embeddings lie: float32 [count, 24]."""
    centers = np.random.default_rng(0).standard_normal((40, DIM))
    random = np.random.default_rng(seed)
    vectors = centers[random.integers(40, size=count)]
    vectors = vectors + 0.5 * random.standard_normal((count, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors.astype(np.float32)
    return unit


def numbered(vectors: Vectors, first: int = 0) -> list[Record]:
    return [
        Record(f"{first + n:06}", vector, "", metadata={"n": n % 10})
        for n, vector in enumerate(vectors)
    ]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs from 1,000 items on."""
    monkeypatch.setattr(planning, "SMALL", 1000)
    monkeypatch.setattr(upkeep, "MOST_OUTSIDE", 100)


@pytest.fixture
def tuned(small: None, tmp_path: Path) -> Collection:
    """3,000 items with a graph, promised recall 0.95."""
    collection = create_collection(tmp_path / "c", "ab" * 32, DIM, recall=0.95)
    collection.add(numbered(clustered(3000, 1)))
    assert collection.tune(threads=1)["kind"] == "HNSW16,SQ8"
    return collection


def recall(collection: Collection, queries: Vectors) -> float:
    found = collection.search(queries, 10)
    truth = collection.search(queries, 10, exact=True)
    return float(
        np.mean(
            [
                np.mean([hit.score >= best[-1].score for hit in hits])
                for hits, best in zip(found, truth, strict=True)
            ]
        )
    )


def test_the_promise_is_kept_on_fresh_queries(tuned: Collection) -> None:
    measured = tuned.stats()["index"]["measured"]
    assert measured["low"] >= 0.95
    assert measured["low"] <= measured["recall"] <= measured["high"]
    assert recall(tuned, clustered(400, 2)) >= 0.95 - (measured["recall"] - measured["low"])


def test_a_search_without_enough_effort_misses_something(tuned: Collection) -> None:
    """Else the tests of recall could not fail."""
    index = tuned._follower.index
    assert index is not None
    assert index.proposer is not None
    queries = clustered(200, 2)
    truth = index.search(queries, 10, exact=True)
    rough = index.proposer.ids[index.proposer.tuned(10, 1).propose(queries, 10)]
    hits = [len(np.intersect1d(t[0], r)) for t, r in zip(truth, rough, strict=True)]
    assert np.mean(hits) < 9.99


def test_scores_are_those_of_the_exact_search(tuned: Collection) -> None:
    queries = clustered(20, 3)
    for found, exact in zip(
        tuned.search(queries, 5), tuned.search(queries, 5, exact=True), strict=True
    ):
        scores = {hit.key: hit.score for hit in exact}
        for hit in found:
            assert scores.get(hit.key, hit.score) == hit.score


def test_new_items_are_found_and_removed_ones_are_not(tuned: Collection) -> None:
    new = clustered(50, 4)
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
    for hits in tuned.search(clustered(20, 5), 10, filter=expected):
        assert len(hits) == 10
        assert all(hit.metadata["n"] < modulus for hit in hits)


def test_many_neighbors_are_all_found(tuned: Collection) -> None:
    assert len(tuned.search(clustered(1, 5), 1200)[0]) == 1200
    assert len(tuned.search(clustered(1, 5), 5000)[0]) == 3000


def test_the_index_is_renewed_when_it_is_time(tuned: Collection) -> None:
    assert not tuned.maintain()
    tuned.add(numbered(clustered(150, 6), first=500_000))
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
    collection.search(clustered(1, 8), 1)
    index = collection._follower.index
    assert index is not None
    assert isinstance(index.proposer, Graph)
    return index.proposer


def test_nobody_needs_to_ask_for_it(small: None, tmp_path: Path) -> None:
    with create_collection(tmp_path / "c", "ab" * 32, DIM, recall=0.9):
        pass
    with open_collection(tmp_path / "c", maintain_index=True) as collection:
        collection.add(numbered(clustered(2000, 1)))
        maintainer = collection._maintainer
        assert maintainer is not None
        maintainer.wait()
        assert collection.stats()["index"]["kind"] == "HNSW16,SQ8"
    with open_collection(tmp_path / "c") as again:
        assert again.stats()["index"]["kind"] == "HNSW16,SQ8"


def test_what_cannot_be_promised_stays_exact(small: None, tmp_path: Path) -> None:
    """Of random vectors without structure, and too few to prove 0.9999."""
    with create_collection(tmp_path / "c", "ab" * 32, DIM, recall=0.9999) as collection:
        collection.add(numbered(clustered(1500, 1)))
        index = collection.tune(threads=1)
        assert index["exact"]
        assert "1500 items are too few to prove it" in index["measured"]["tried"][0]
        assert recall(collection, clustered(20, 2)) == 1
        assert not collection.maintain()


@pytest.mark.parametrize("wrong", [0.0, -1.0, 1.5, float("nan"), 0.99999])
def test_impossible_promises_are_refused(tmp_path: Path, wrong: float) -> None:
    with pytest.raises(UsageError, match="recall"):
        create_collection(tmp_path / "c", "ab" * 32, DIM, recall=wrong)


def test_a_graph_outlives_its_vectors_moving(tuned: Collection) -> None:
    """Most items are removed: the others get other rows, the graph stays the old one."""
    tuned.remove(tuned.keys(limit=1600))
    tuned.add(numbered(clustered(20, 8), first=600_000))
    queries = clustered(30, 7)
    exact = tuned.search(queries, 10, exact=True)
    keys = set(tuned.keys(limit=5000))
    for found, best in zip(tuned.search(queries, 10), exact, strict=True):
        assert {hit.key for hit in found} <= keys
        assert found[0] == best[0]


# Snapshots


def test_a_snapshot_is_loaded_and_followed(tuned: Collection) -> None:
    queries = clustered(30, 7)
    before = tuned.search(queries, 5)
    tuned.close()
    with open_collection(tuned.path) as again:
        assert again.stats()["index"]["kind"] == "HNSW16,SQ8"
        assert again.search(queries, 5) == before
        again.add(numbered(queries[:1], first=700_000))
    with open_collection(tuned.path) as later:
        assert later.search(queries[:1], 1)[0][0].key == "700000"
        assert later.stats()["index"]["uncovered"] == 1


def test_the_first_item_after_opening_does_not_copy_all_others(tuned: Collection) -> None:
    tuned.close()
    with open_collection(tuned.path) as again:
        again.search(clustered(1, 8), 1)
        before = again._follower.index
        again.add(numbered(clustered(1, 8), first=700_000))
        after = again._follower.index
        assert before is not None
        assert after is not None
        assert len(after) == len(before) + 1
        assert np.shares_memory(before.flat.vectors, after.flat.vectors)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def restate(index: Path, old: str, new: str) -> None:
    """Change what the manifest says."""
    text = (index / "manifest.json").read_text()
    changed = re.sub(old, new, text, count=1)
    assert changed != text
    (index / "manifest.json").write_text(changed)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "bit in the graph": lambda index: flip(next(index.glob("graph-*"))),
    "bit in the vectors": lambda index: flip(next(index.glob("vectors-*"))),
    "short": lambda index: next(index.glob("ids-*")).write_bytes(b"12345678"),
    "long": lambda index: lengthen(next(index.glob("nodes-*"))),
    "missing": lambda index: next(index.glob("graph-*")).unlink(),
    "no JSON": lambda index: (index / "manifest.json").write_text("{"),
    "another format": lambda index: (index / "manifest.json").write_text('{"format_version": 9}'),
    "another shape": lambda index: (index / "manifest.json").write_text("[1]"),
    "a moment before all": lambda index: restate(
        index, r'"sequence": \d+', f'"sequence": {-(10**30)}'
    ),
    "more than memory": lambda index: restate(index, r'"bytes": \d+', f'"bytes": {10**18}'),
    "an endless effort": lambda index: restate(index, r'"effort": \d+', '"effort": Infinity'),
    "a scale in words": lambda index: restate(index, r'"scale": [\d.]+', '"scale": "much"'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_snapshot_is_not_used(
    tuned: Collection, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    queries = clustered(5, 7)
    exact = tuned.search(queries, 5, exact=True)
    tuned.close()
    DAMAGES[damage](tuned.path / "index")
    with caplog.at_level(logging.WARNING), open_collection(tuned.path) as again:
        assert again.stats()["index"]["kind"] == "Flat"
        assert again.search(queries, 5) == exact
    assert "collection tune" in caplog.text


def test_a_snapshot_of_another_ledger_is_not_used(
    tuned: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    """As after an older backup was put in place and went on by itself."""
    tuned.close()
    (tuned.path / "ledger.db").unlink()
    with create_collection(tuned.path.parent / "other", "ab" * 32, DIM, recall=0.95) as other:
        other.add(numbered(clustered(3000, 9)))
    for file in other.path.glob("ledger.db*"):
        file.rename(tuned.path / file.name)
    with caplog.at_level(logging.WARNING), open_collection(tuned.path) as again:
        assert again.search(clustered(3000, 9)[:1], 1)[0][0].score == 1
    assert "it is of another ledger" in caplog.text


def test_a_new_snapshot_replaces_the_old_one_whole(tuned: Collection) -> None:
    tuned.add(numbered(clustered(5, 3), first=800_000))
    tuned.save()
    names = sorted(file.name for file in (tuned.path / "index").iterdir())
    assert names == sorted(
        ["manifest.json", *(f"{part}-3005" for part in ("graph", "ids", "nodes", "vectors"))]
    )


# The parts


@pytest.mark.parametrize("asked", [0.5, 0.9, 0.99, 0.999])
def test_enough_queries_prove_a_recall(asked: float) -> None:
    assert interval([1.0] * queries_needed(asked))[0] >= asked


def test_the_interval_is_wilsons_for_yes_or_no() -> None:
    """Of 90 out of 100, as tables give it."""
    low, high = interval([1.0] * 90 + [0.0] * 10)
    assert low == pytest.approx(0.8256, abs=1e-4)
    assert high == pytest.approx(0.9448, abs=1e-4)


def test_the_interval_covers_the_truth() -> None:
    random = np.random.default_rng(0)
    truth, covered = 0.97, 0
    for _ in range(300):
        low, high = interval(list(random.binomial(10, truth, 200) / 10))
        covered += low <= truth <= high
    assert covered >= 0.92 * 300

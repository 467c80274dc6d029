"""Every kind of index keeps what is promised, whatever is added, removed or damaged."""

from pathlib import Path

import numpy as np
import pytest

from base.errors import UsageError
from serving.collection import Collection, create_collection, open_collection
from serving.collection.contract.promise import Promise
from serving.collection.upkeep import planning
from serving.collection.verification import verify
from serving.copying import copy, open_target
from tests.serving.collection.clustered import clustered, numbered, tuned_collection

DIM = 128
RECALL = 0.9
AUTO_KINDS = {  # bytes an item that are allowed, and what is chosen of 2,400 items then
    "HNSW16,SQ8": 320,
    "IVF32,SQ8": 200,
    "IVF32,PQ64x4fs": 110,
    "IVF32,RaBitQ": 76,
}
RAW = ("PCA24,IVF32_HNSW16,SQ8", "HNSW16", "RaBitQ")
pytestmark = pytest.mark.usefixtures("few_lists")


def recall(collection: Collection) -> float:
    """Of 300 fresh queries, against numpy."""
    items = collection.items(limit=10_000)
    vectors = np.stack([item.vector for item in items]).astype(np.float64)
    queries = clustered(300, 2, DIM)
    scores = queries.astype(np.float64) @ vectors.T
    truth = np.argsort(-scores, axis=1)[:, :10]
    shares = [
        len({items[i].key for i in best} & {hit.key for hit in hits}) / 10
        for best, hits in zip(truth, collection.search(queries, 10), strict=True)
    ]
    return float(np.mean(shares))


@pytest.mark.parametrize("kind", [*AUTO_KINDS, *RAW])
def test_the_promise_outlives_adds_and_removes(kind: str, tmp_path: Path) -> None:
    limits = {"memory": 2400 * AUTO_KINDS[kind]} if kind in AUTO_KINDS else {"index": kind}
    with tuned_collection(tmp_path / "c", **limits) as collection:
        stats = collection.stats()["index"]
        assert (stats["kind"], stats["exact"]) == (kind, False)
        assert stats["measured"]["low"] >= RECALL
        assert recall(collection) >= RECALL
        collection.add(numbered(clustered(90, 5, DIM), first=500_000))
        collection.remove(collection.keys(limit=300))
        assert not collection.maintain()
        assert recall(collection) >= RECALL
        collection.add(numbered(clustered(200, 6, DIM), first=600_000))
        assert collection.maintain()
        stats = collection.stats()["index"]
        assert (stats["kind"], stats["uncovered"]) == (kind, 0)
        assert recall(collection) >= RECALL
    assert verify(tmp_path / "c").faults == 0


@pytest.mark.parametrize("kind", AUTO_KINDS)
def test_the_limit_is_kept_and_predicted(kind: str, tmp_path: Path) -> None:
    limit = 2400 * AUTO_KINDS[kind]
    with tuned_collection(tmp_path / "c", memory=limit) as collection:
        stats = collection.stats()["index"]
        predicted = planning.plan(2400, DIM, collection_promise(collection))[0].nbytes
    assert stats["in_file"]
    assert stats["bytes"] == pytest.approx(predicted, rel=0.1)
    assert stats["kept"] == {"recall": True, "memory": True}
    assert stats["notes"] == []


def test_where_nothing_fits_the_most_frugal_says_what_it_takes(tmp_path: Path) -> None:
    with tuned_collection(tmp_path / "c", memory=1000) as collection:
        stats = collection.stats()["index"]
    assert (stats["kind"], stats["kept"]["memory"]) == ("IVF32,RaBitQ", False)
    assert f"holds {stats['bytes']:,} bytes, more than the 1,000 asked" in stats["notes"][0]


def collection_promise(collection: Collection) -> Promise:
    with collection._ledger.reading() as view:
        return view.promise


def test_an_index_too_weak_would_be_noticed(tmp_path: Path) -> None:
    """Else the tests of recall could not fail."""
    with tuned_collection(tmp_path / "c", index="RaBitQ") as collection:
        searched = collection._follower.index
        assert searched is not None
        assert searched.proposer is not None
        weak = searched.proposer.tuned(1, 1)
        collection._follower.attach(weak, collection._follower.measured or {})
        assert recall(collection) < RECALL


def test_the_fastest_is_taken_where_none_is_fast_enough(tmp_path: Path) -> None:
    with tuned_collection(tmp_path / "c") as collection:
        slow = collection.tune(threads=1, latency=1e-6)
        assert slow["kept"] == {"recall": True, "latency": False}
        assert len(slow["measured"]["tried"]) == 5
        assert "lower recall" in slow["notes"][0]
        fast = collection.tune(threads=1, latency=10_000)
        assert fast["kept"] == {"recall": True, "latency": True}
        assert (fast["kind"], fast["measured"]["tried"]) == ("HNSW16,SQ8", [])


def test_an_index_needs_enough_to_learn_from(tmp_path: Path) -> None:
    with create_collection(tmp_path / "c", "ab" * 32, DIM, index="IVF512,SQ8") as collection:
        collection.add(numbered(clustered(500, 1, DIM)))
        with pytest.raises(UsageError, match="at least 512 items, and of 500 it may see 450"):
            collection.tune()
        collection.maintain()
        assert collection.stats()["index"]["exact"]
        assert len(collection.search(clustered(1, 2, DIM), 3)[0]) == 3


def test_copies_and_backups_promise_the_same(tmp_path: Path) -> None:
    with tuned_collection(tmp_path / "c", memory=123_456, index="IVF32,SQ8") as collection:
        promise = collection.stats()["promise"]
        collection.back_up(tmp_path / "backup")
        with open_target(collection, tmp_path / "copy", None) as target:
            copy(collection, target, on_progress=lambda *_: None)
    for name in ("backup", "copy"):
        with open_collection(tmp_path / name) as other:
            assert other.stats()["promise"] == promise
            assert len(other) == 2400


def test_milvus_keeps_its_own_index() -> None:
    with pytest.raises(UsageError, match="Milvus keeps its own index"):
        create_collection("milvus://nowhere/c", "ab" * 32, DIM, memory=5)

"""Every kind of index keeps what is promised, whatever is added, removed or damaged."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import UsageError
from serving.collection import Collection, Record, create_collection, open_collection
from serving.collection.contract.promise import Promise
from serving.collection.index import flat_index as index
from serving.collection.index.factory import Factory
from serving.collection.index.flat_index import FlatIndex
from serving.collection.upkeep import planning, upkeep
from serving.collection.upkeep.snapshot import saved_facts
from serving.collection.verification import verify
from serving.copying import copy, open_target

Vectors = NDArray[np.float32]
DIM = 128
RECALL = 0.9
AUTO_KINDS = {  # bytes an item that are allowed, and what is chosen of 2,400 items then
    "HNSW16,SQ8": 320,
    "IVF32,SQ8": 200,
    "IVF32,PQ64x4fs": 110,
    "IVF32,RaBitQ": 76,
}
RAW = ("PCA24,IVF32_HNSW16,SQ8", "HNSW16", "RaBitQ")


def clustered(count: int, seed: int) -> Vectors:
    """Unit vectors around 40 centers: float32 [count, 128]."""
    centers = np.random.default_rng(0).standard_normal((40, DIM))
    random = np.random.default_rng(seed)
    x = centers[random.integers(40, size=count)] + 0.5 * random.standard_normal((count, DIM))
    unit: Vectors = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return unit


def numbered(vectors: Vectors, first: int = 0) -> list[Record]:
    return [Record(f"{first + n:06}", vector, "") for n, vector in enumerate(vectors)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes from 1,000 items on."""
    monkeypatch.setattr(planning, "SMALL", 1000)
    monkeypatch.setattr(planning, "list_count", lambda _: 32)
    monkeypatch.setattr(upkeep, "MOST_OUTSIDE", 100)


def made(folder: Path, *, memory: int | None = None, index: str = "auto") -> Collection:
    """2,400 items, tuned to recall 0.9."""
    collection = create_collection(
        folder, "ab" * 32, DIM, recall=RECALL, memory=memory, index=index
    )
    collection.add(numbered(clustered(2400, 1)))
    collection.tune(threads=1)
    return collection


def recall(collection: Collection) -> float:
    """Of 300 fresh queries, against numpy."""
    items = collection.items(limit=10_000)
    vectors = np.stack([item.vector for item in items]).astype(np.float64)
    queries = clustered(300, 2)
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
    with made(tmp_path / "c", **limits) as collection:
        stats = collection.stats()["index"]
        assert (stats["kind"], stats["exact"]) == (kind, False)
        assert stats["measured"]["low"] >= RECALL
        assert recall(collection) >= RECALL
        collection.add(numbered(clustered(90, 5), first=500_000))
        collection.remove(collection.keys(limit=300))
        assert not collection.maintain()
        assert recall(collection) >= RECALL
        collection.add(numbered(clustered(200, 6), first=600_000))
        assert collection.maintain()
        stats = collection.stats()["index"]
        assert (stats["kind"], stats["uncovered"]) == (kind, 0)
        assert recall(collection) >= RECALL
    assert verify(tmp_path / "c").faults == 0


@pytest.mark.parametrize("kind", AUTO_KINDS)
def test_the_limit_is_kept_and_predicted(kind: str, tmp_path: Path) -> None:
    limit = 2400 * AUTO_KINDS[kind]
    with made(tmp_path / "c", memory=limit) as collection:
        stats = collection.stats()["index"]
        predicted = planning.plan(2400, DIM, collection_promise(collection))[0].nbytes
    assert stats["in_file"]
    assert stats["bytes"] == pytest.approx(predicted, rel=0.1)
    assert stats["kept"] == {"recall": True, "memory": True}
    assert stats["notes"] == []


def test_where_nothing_fits_the_most_frugal_says_what_it_takes(tmp_path: Path) -> None:
    with made(tmp_path / "c", memory=1000) as collection:
        stats = collection.stats()["index"]
    assert (stats["kind"], stats["kept"]["memory"]) == ("IVF32,RaBitQ", False)
    assert f"holds {stats['bytes']:,} bytes, more than the 1,000 asked" in stats["notes"][0]


def collection_promise(collection: Collection) -> Promise:
    with collection._ledger.reading() as view:
        return view.promise


def test_an_index_too_weak_would_be_noticed(tmp_path: Path) -> None:
    """Else the tests of recall could not fail."""
    with made(tmp_path / "c", index="RaBitQ") as collection:
        searched = collection._follower.index
        assert searched is not None
        assert searched.proposer is not None
        weak = searched.proposer.tuned(1, 1)
        collection._follower.attach(weak, collection._follower.measured or {})
        assert recall(collection) < RECALL


# Vectors in their file


def test_mapped_vectors_answer_as_those_in_memory(tmp_path: Path) -> None:
    queries = clustered(20, 3)
    answers = []
    for name, memory in (("memory", None), ("file", 1)):
        with made(tmp_path / name, index="flat", memory=memory) as collection:
            assert collection.stats()["index"]["in_file"] is (memory == 1)
            collection.add(numbered(queries[:5], first=800_000))
            collection.remove(collection.keys(limit=1500))
            answers.append(collection.search(queries, 7))
            collection.save()
        with open_collection(tmp_path / name) as again:
            searched = again._follower.index
            assert searched is not None
            assert searched.flat.in_memory == (905 if memory is None else 0)
            assert again.search(queries, 7) == answers[-1]
    assert answers[0] == answers[1]


def test_what_is_written_behind_a_mapping_stays_out_of_its_file(tmp_path: Path) -> None:
    vectors = clustered(300, 1)
    path = tmp_path / "vectors"
    path.write_bytes(vectors.tobytes())
    ids = np.arange(1, 301)
    with path.open("rb") as file:
        flat = FlatIndex.mapped(ids, file, DIM, sequence=300)
    path.unlink()
    more = flat.added(np.arange(301, 401), clustered(100, 2), sequence=400)
    np.testing.assert_array_equal(more.vectors[:300], vectors)
    np.testing.assert_array_equal(more.vectors[300:], clustered(100, 2))
    assert (flat.in_memory, more.in_memory) == (0, 100)
    assert more.nbytes == 100 * DIM * 4 + 400 * 8


def test_where_no_room_can_be_reserved_the_file_is_mapped_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the system never promises more memory than it has."""
    monkeypatch.setattr(index, "MAPPED_ROOM", 2**50)
    path = tmp_path / "vectors"
    path.write_bytes(clustered(100, 1).tobytes())
    with path.open("rb") as file:
        flat = FlatIndex.mapped(np.arange(1, 101), file, DIM, sequence=100)
    assert len(flat._buffer.rows) == 100
    more = flat.added(np.arange(101, 103), clustered(2, 2), sequence=102)
    np.testing.assert_array_equal(more.vectors[:100], flat.vectors)
    assert (flat.in_memory, more.in_memory) == (0, 102)


def test_a_limit_that_is_lifted_brings_the_vectors_back(tmp_path: Path) -> None:
    with made(tmp_path / "c", memory=1) as collection:
        tuned = collection.tune(threads=1, memory=None)
        assert (tuned["kind"], tuned["in_file"], tuned["kept"]) == (
            "HNSW16,SQ8",
            False,
            {"recall": True},
        )
        flat = collection._follower.index
        assert flat is not None
        assert not flat.flat.in_file


def test_without_a_snapshot_the_vectors_need_no_memory_either(tmp_path: Path) -> None:
    with made(tmp_path / "c", index="flat", memory=1) as collection:
        before = collection.search(clustered(5, 3), 5)
    (tmp_path / "c" / "index" / "manifest.json").unlink()
    with open_collection(tmp_path / "c") as again:
        assert again.stats()["index"]["in_file"]
        assert again.search(clustered(5, 3), 5) == before


def test_a_service_moves_vectors_out_of_memory_by_itself(tmp_path: Path) -> None:
    """Also where there are too few for an index."""
    with create_collection(tmp_path / "c", "ab" * 32, DIM, memory=50_000) as collection:
        collection.add(numbered(clustered(1, 1)))
        collection.refresh()
        collection.add(numbered(clustered(899, 2), first=1))
        assert collection.stats()["index"]["kept"]["memory"] is False
        assert collection.maintain()
        assert not collection.maintain()
        assert collection.stats()["index"]["kept"] == {"recall": True, "memory": True}


# Latency


def test_the_fastest_is_taken_where_none_is_fast_enough(tmp_path: Path) -> None:
    with made(tmp_path / "c") as collection:
        slow = collection.tune(threads=1, latency=1e-6)
        assert slow["kept"] == {"recall": True, "latency": False}
        assert len(slow["measured"]["tried"]) == 5
        assert "lower recall" in slow["notes"][0]
        fast = collection.tune(threads=1, latency=10_000)
        assert fast["kept"] == {"recall": True, "latency": True}
        assert (fast["kind"], fast["measured"]["tried"]) == ("HNSW16,SQ8", [])


# What is kept


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "bit in the index": lambda folder: flip(next(folder.glob("graph-*"))),
    "bit in the vectors": lambda folder: flip(next(folder.glob("vectors-*"))),
    "missing": lambda folder: next(folder.glob("nodes-*")).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_snapshot_is_built_anew(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with made(tmp_path / "c", memory=1) as collection:
        before = collection.search(clustered(5, 3), 5, exact=True)
    DAMAGES[damage](tmp_path / "c" / "index")
    with caplog.at_level(logging.WARNING), open_collection(tmp_path / "c") as again:
        assert again.search(clustered(5, 3), 5) == before
        assert again.stats()["index"]["exact"]
        assert again.maintain()
        assert again.stats()["index"]["kind"] == "IVF32,RaBitQ"
    assert "collection tune" in caplog.text
    assert verify(tmp_path / "c").faults == 0


def test_stats_say_what_was_saved_without_loading_it(tmp_path: Path) -> None:
    with made(tmp_path / "c", index="IVF32,SQ8") as collection:
        loaded = collection.stats()["index"]
    with open_collection(tmp_path / "c", load_index=False) as again:
        saved = again.stats()["index"]
        assert again.stats()["promise"] == {
            "recall": RECALL,
            "memory": None,
            "latency": None,
            "index": "IVF32,SQ8",
        }
    assert saved == loaded | {"loaded": False}
    assert {"median_ms", "p99_ms"} <= saved["measured"].keys()
    assert saved_facts(tmp_path) == {}


def test_a_factory_index_survives_its_bytes() -> None:
    vectors = clustered(600, 1)
    built = Factory.build("IVF16,RaBitQ", np.arange(5, 605), vectors, threads=1).tuned(3, 2)
    data = built.to_bytes()
    again = Factory.from_bytes(data, built.ids, built.kind, dim=DIM, tuned=(3, 2, 600))
    queries = clustered(10, 2)
    np.testing.assert_array_equal(built.propose(queries, 5), again.propose(queries, 5))
    assert built.propose(queries, 5).shape == (10, 10)
    with pytest.raises(ValueError, match="599"):
        Factory.from_bytes(data, built.ids[1:], built.kind, dim=DIM, tuned=(3, 2, 600))
    with pytest.raises(ValueError, match="cannot read"):
        Factory.from_bytes(data[:100], built.ids, built.kind, dim=DIM, tuned=(3, 2, 600))


def test_more_items_take_more_proposals() -> None:
    vectors = clustered(900, 1)
    built = Factory.build("SQ4", np.arange(600), vectors[:600], threads=1).tuned(1, 2)
    grown = built.extended(np.arange(600, 900), vectors[600:], threads=1)
    assert built.propose(vectors[:1], 10).shape == (1, 20)
    assert grown.propose(vectors[:1], 10).shape == (1, 30)


def test_an_index_needs_enough_to_learn_from(tmp_path: Path) -> None:
    with create_collection(tmp_path / "c", "ab" * 32, DIM, index="IVF512,SQ8") as collection:
        collection.add(numbered(clustered(500, 1)))
        with pytest.raises(UsageError, match="at least 512 items, and of 500 it may see 450"):
            collection.tune()
        collection.maintain()
        assert collection.stats()["index"]["exact"]
        assert len(collection.search(clustered(1, 2), 3)[0]) == 3


def test_copies_and_backups_promise_the_same(tmp_path: Path) -> None:
    with made(tmp_path / "c", memory=123_456, index="IVF32,SQ8") as collection:
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

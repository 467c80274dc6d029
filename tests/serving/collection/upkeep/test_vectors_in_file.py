"""Vectors stay in their file where the promised memory would not hold them."""

from pathlib import Path

import pytest

from serving.collection import create_collection, open_collection
from tests.serving.collection.clustered import clustered, numbered, tuned_collection

DIM = 128
pytestmark = pytest.mark.usefixtures("few_lists")


def test_mapped_vectors_answer_as_those_in_memory(tmp_path: Path) -> None:
    queries = clustered(20, 3, DIM)
    answers = []
    for name, memory in (("memory", None), ("file", 1)):
        with tuned_collection(tmp_path / name, index="flat", memory=memory) as collection:
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


def test_a_limit_that_is_lifted_brings_the_vectors_back(tmp_path: Path) -> None:
    with tuned_collection(tmp_path / "c", memory=1) as collection:
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
    with tuned_collection(tmp_path / "c", index="flat", memory=1) as collection:
        before = collection.search(clustered(5, 3, DIM), 5)
    (tmp_path / "c" / "index" / "manifest.json").unlink()
    with open_collection(tmp_path / "c") as again:
        assert again.stats()["index"]["in_file"]
        assert again.search(clustered(5, 3, DIM), 5) == before


def test_a_service_moves_vectors_out_of_memory_by_itself(tmp_path: Path) -> None:
    """Also where there are too few for an index."""
    with create_collection(tmp_path / "c", "ab" * 32, DIM, memory=50_000) as collection:
        collection.add(numbered(clustered(1, 1, DIM)))
        collection.refresh()
        collection.add(numbered(clustered(899, 2, DIM), first=1))
        assert collection.stats()["index"]["kept"]["memory"] is False
        assert collection.maintain()
        assert not collection.maintain()
        assert collection.stats()["index"]["kept"] == {"recall": True, "memory": True}

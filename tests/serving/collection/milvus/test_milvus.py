"""A collection in Milvus: searches, failures and limits of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import ArtifactError, LookalikeError, UsageError
from serving.collection import Record, create_collection, open_collection

DIGEST, DIM = "ab" * 32, 8

pymilvus = pytest.importorskip("pymilvus", reason="needs the extra milvus")
pytest.importorskip("milvus_lite", reason="needs the extra milvus")


# Searching


def test_ties_reach_beyond_what_was_asked_for_first(milvus: str) -> None:
    with create_collection(milvus, DIGEST, 2) as collection:
        collection.add(Record(f"{999 - number}", [1.0, 0.0], "") for number in range(700))
        collection.add([Record("other", [0.0, 1.0], "")])
        (hits,) = collection.search([[1.0, 0.0]], 5)
        assert [hit.key for hit in hits] == ["300", "301", "302", "303", "304"]


def test_exact_searches_compare_everything(milvus: str) -> None:
    vectors = np.random.default_rng(1).standard_normal((2500, DIM)).astype(np.float32)
    with create_collection(milvus, DIGEST, DIM) as collection:
        collection.add(Record(f"{row:04}", vector, "") for row, vector in enumerate(vectors))
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        results = collection.search(vectors[:3], 7, exact=True, filter={"label": None})
        for query, hits in zip(unit[:3], results, strict=True):
            best = np.argsort(-(unit @ query), kind="stable")[:7]
            assert [hit.key for hit in hits] == [f"{row:04}" for row in best]


def test_the_index_and_its_effort_are_milvus_own(milvus: str) -> None:
    with create_collection(milvus, DIGEST, DIM) as collection:
        index = collection.stats()["index"]
        assert index == {"kind": "hnsw", "exact": False, "search": {"ef": 128}}
    with create_collection(f"{milvus}_flat", DIGEST, DIM, recall=1) as collection:
        index = collection.stats()["index"]
        assert index == {"kind": "flat", "exact": True, "search": {}}
        with pytest.raises(UsageError, match="at most 16384"):
            collection.search([[1.0] * DIM], 16_385)


# Writing


def test_a_failure_in_the_middle_says_what_is_in(
    milvus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.collection.milvus.collection.BYTES_AT_ONCE", 6_000)
    records = [Record(f"{number:03}", [1.0] * DIM, "") for number in range(100)]
    calls = []

    def failing(self: Any, *arguments: Any, data: Any, **named: Any) -> Any:
        calls.append(len(data))
        if len(calls) == 3:
            raise pymilvus.MilvusException(message="the disk is full")
        return upsert(self, *arguments, data=data, **named)

    upsert = pymilvus.MilvusClient.upsert
    with create_collection(milvus, DIGEST, DIM) as collection:
        with monkeypatch.context() as patch:
            patch.setattr(pymilvus.MilvusClient, "upsert", failing)
            with pytest.raises(LookalikeError, match="disk is full") as failed:
                collection.add(records)
        done = sum(calls[:2])
        assert f"{done} of 100 items" in str(failed.value)
        assert len(collection) == done
        report = collection.add(records, on_duplicate="replace")
        assert (report.added, report.unchanged) == (100 - done, done)
        assert len(collection) == 100


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"uri": "x" * 70_000}, "uri has 70000 bytes"),
        ({"uri": "", "label": "é" * 40_000}, "the label has 80000 bytes"),
        ({"uri": "", "metadata": {"t": "x" * 70_000}}, "its metadata has 70008 bytes"),
        ({"uri": "", "metadata": {"t": list(range(5000))}}, "its metadata has too many"),
        ({"uri": "", "sha256": "x" * 2000}, "sha256 has"),
    ],
)
def test_what_is_too_large_for_milvus_is_refused(
    milvus: str, fields: dict[str, Any], message: str
) -> None:
    with create_collection(milvus, DIGEST, DIM) as collection:
        with pytest.raises(UsageError, match=f"item 'big': {message}"):
            collection.add([Record("fine", [1.0] * DIM, ""), Record("big", [1.0] * DIM, **fields)])
        assert len(collection) == 0


def test_the_longest_keys_fit(milvus: str) -> None:
    keys = sorted(["k" * 1024, "é" * 512, "😀" * 256])
    with create_collection(milvus, DIGEST, DIM) as collection:
        collection.add(Record(key, [1.0] * DIM, "u" * 65_535) for key in keys)
        assert collection.keys() == keys
        assert collection.remove(keys) == keys


def test_what_is_not_there_or_not_ours_is_refused(milvus: str, tmp_path: Path) -> None:
    for missing in (milvus, f"milvus+file:{tmp_path / 'none.db'}#x"):
        with pytest.raises(UsageError, match="lookalike collection create"):
            open_collection(missing)
    assert list(tmp_path.iterdir()) == []
    create_collection(milvus, DIGEST, DIM).close()
    with pytest.raises(UsageError, match="is there already"):
        create_collection(milvus, DIGEST, DIM)
    with pytest.raises(UsageError, match="no folder"):
        create_collection(f"milvus+file:{tmp_path / 'no/x.db'}#x", DIGEST, DIM)
    file, _, name = milvus.removeprefix("milvus+file:").rpartition("#")
    client = pymilvus.MilvusClient(file)
    client.create_collection(f"{name}_foreign", dimension=4)
    client.close()
    with pytest.raises(ArtifactError, match="not a collection of Lookalike's"):
        open_collection(f"{milvus}_foreign")

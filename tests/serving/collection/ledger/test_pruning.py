"""Removals are not remembered for ever; whoever is behind comes to the same result."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.collection import Collection, Record, open_collection
from serving.collection.ledger import write_transaction

Make = Callable[[int], Record]
QUERY = [[1.0] * 8]


@pytest.fixture(autouse=True)
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_transaction, "KEPT_CHANGES", 20)


def found_keys(collection: Collection) -> list[str]:
    return sorted(hit.key for hit in collection.search(QUERY, 1000)[0])


def test_the_ledger_does_not_grow_with_each_removal(collection: Collection, record: Make) -> None:
    for _ in range(100):
        collection.add([record(1)])
        collection.remove(["item-001"])
    stats = collection.stats()
    assert stats["sequence"] == 200
    assert 0 < stats["removals"] <= 20


def test_a_reader_that_is_far_behind_catches_up(
    folder: Path, collection: Collection, record: Make
) -> None:
    collection.add(map(record, range(40)))
    with open_collection(folder) as reader:
        assert len(found_keys(reader)) == 40
        collection.remove([f"item-{number:03}" for number in range(0, 40, 2)])
        collection.add([Record("item-001", record(99).vector, "")], on_duplicate="replace")
        for number in range(100, 130):
            collection.add([record(number)])
        collection.remove(["item-100"])
        assert collection.stats()["removals"] < 21
        expected = [f"item-{n:03}" for n in [*range(1, 40, 2), *range(101, 130)]]
        assert found_keys(reader) == found_keys(collection) == expected
        hit = reader.search([record(99).vector], 1)[0][0]
        assert (hit.key, hit.score) == ("item-001", 1.0)
        collection.remove(["item-101"])  # and from there as ever
        assert found_keys(reader) == [key for key in expected if key != "item-101"]


def test_a_snapshot_that_is_far_behind_is_still_used(
    folder: Path, collection: Collection, record: Make, caplog: pytest.LogCaptureFixture
) -> None:
    collection.add(map(record, range(40)))
    collection.remove(["item-003"])
    collection.save()
    collection.remove([f"item-{number:03}" for number in range(20, 40)])
    collection.add(map(record, range(50, 80)))
    collection.remove(["item-050"])
    before = found_keys(collection)
    with open_collection(folder) as again:
        assert found_keys(again) == before
        vectors = np.stack([item.vector for item in again.items()])
        assert len(vectors) == len(before)
    assert not caplog.records

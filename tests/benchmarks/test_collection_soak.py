"""The soak of collections passes over a few kills, and notices what it is there to notice."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.collection_soak import Ordeal, survive
from benchmarks.collection_writer import records_of, table_of
from serving.collection import Collection, open_collection

Damage = Callable[[Collection], object]


def test_a_few_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    survive(tmp_path, kills=2, items=300, seed=1)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["metrics"] == {"kills": 2, "recall10": 1.0}
    assert sum(result["details"]["killed_in"].values()) == 2


@pytest.fixture
def ordeal(tmp_path: Path) -> Iterator[Ordeal]:
    made = Ordeal(tmp_path, items=50, seed=0)
    yield made
    made.reader.close()


WRITE = {"kind": "put", "version": 9, "numbers": [7, 60, 61], "encoder": 2}


def half_done(collection: Collection) -> None:
    collection.add(records_of(table_of(1), [7, 60], 9), "replace")


@pytest.mark.parametrize(
    "damage",
    [
        lambda collection: collection.remove(["000007"]),  # an acknowledged item is lost
        lambda collection: collection.add(records_of(table_of(1), [70], 0)),  # or another is back
        half_done,
    ],
)
def test_what_is_neither_before_nor_after_is_noticed(ordeal: Ordeal, damage: Damage) -> None:
    ordeal.check(None)
    ordeal.check(WRITE)
    with open_collection(ordeal.folder) as collection:
        damage(collection)
    with pytest.raises(AssertionError, match="neither before nor after"):
        ordeal.check(WRITE)


def test_a_call_that_was_not_acknowledged_may_be_there(ordeal: Ordeal) -> None:
    with open_collection(ordeal.folder) as collection:
        collection.add(records_of(table_of(1), [7, 60, 61], 9), "replace")
    ordeal.check(WRITE)
    assert (ordeal.model[61], ordeal.whole["put"]) == (9, 1)


def test_a_wrong_vector_is_noticed(ordeal: Ordeal) -> None:
    with open_collection(ordeal.folder) as collection:
        collection.add(records_of(table_of(2), [7], 0), "replace")
    with pytest.raises(AssertionError, match="000007"):
        ordeal.check(None)

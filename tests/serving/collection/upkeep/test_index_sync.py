"""The index of an open collection whose ledger goes back to an older state."""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from serving.collection import Collection, Record, open_collection
from serving.collection.ledger.ledger import FILE_NAME

Make = Callable[[int], Record]


def copied(source: Path, target: Path) -> None:
    """Copy a ledger over another one in place, as SQLite's backup does."""
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written)


@pytest.fixture
def older(collection: Collection, record: Make, tmp_path: Path) -> Path:
    """A copy of the ledger with 20 items, of a collection that has 30 by now."""
    collection.add([record(number) for number in range(20)])
    copied(collection.path / FILE_NAME, tmp_path / "older.db")
    collection.add([record(number) for number in range(20, 30)])
    return tmp_path / "older.db"


def test_a_ledger_that_goes_back_is_searched_with_a_warning(
    collection: Collection, older: Path, record: Make, caplog: pytest.LogCaptureFixture
) -> None:
    assert collection.search([record(29).vector], 1)[0][0].key == "item-029"
    copied(older, collection.path / FILE_NAME)
    with caplog.at_level(logging.WARNING):
        hits = collection.search([record(29).vector], 30)[0]
    assert {hit.key for hit in hits} == {f"item-{number:03}" for number in range(20)}
    assert "went back" in caplog.text


@pytest.mark.parametrize("added", [11, 15])
def test_an_index_of_lost_items_is_not_used_for_others(
    collection: Collection, older: Path, record: Make, added: int
) -> None:
    collection.search([record(0).vector], 1)
    copied(older, collection.path / FILE_NAME)
    with open_collection(collection.path) as other:
        other.add([record(number) for number in range(100, 100 + added)])
    for query in (25, 105):
        hit = collection.search([record(query).vector], 1)[0][0]
        item = collection.get(hit.key)
        assert item is not None
        with open_collection(collection.path) as other:
            assert other.search([record(query).vector], 1, exact=True)[0][0] == hit


@pytest.mark.parametrize("added", [0, 1, 10, 15])
def test_a_snapshot_of_lost_items_is_not_used(
    collection: Collection, older: Path, record: Make, added: int
) -> None:
    collection.tune(recall=1)
    path = collection.path
    collection.close()
    copied(older, path / FILE_NAME)
    with open_collection(path) as other:
        other.add([record(number) for number in range(100, 100 + added)])
    with open_collection(path) as other:
        hits = other.search([record(105).vector], 50)[0]
        assert {hit.key for hit in hits} >= {f"item-{n:03}" for n in range(100, 100 + added)}
        if added > 5:
            assert hits[0].key == "item-105"
            assert hits[0].score == pytest.approx(1)

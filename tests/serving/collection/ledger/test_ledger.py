"""The ledger on the disk: what is damaged or foreign is refused, what is older is brought up."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from base.errors import ArtifactError, LookalikeError, UsageError
from serving.collection import Collection, Record, open_collection
from serving.collection.ledger import migration, schema

Make = Callable[[int], Record]


def run_sql(folder: Path, statement: str, *values: object) -> None:
    """Change a ledger behind the collection's back."""
    with closing(sqlite3.connect(folder / "ledger.db")) as connection, connection:
        connection.execute(statement, values)


def test_the_ledger_says_what_it_is(collection: Collection, record: Make) -> None:
    collection.add([record(1)])
    with closing(sqlite3.connect(collection.path / "ledger.db")) as connection:
        pragmas = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version", "journal_mode", "integrity_check")
        }
        tables = {
            name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    assert pragmas == {
        "application_id": 0x4C4B4C44,
        "user_version": 5,
        "journal_mode": "wal",
        "integrity_check": "ok",
    }
    assert tables == {
        "collection": [
            "one",
            "encoder_sha256",
            "dim",
            "encoder_path",
            "created",
            "sequence",
            "recall",
            "generation",
            "pruned",
            "memory_bytes",
            "latency_ms",
            "index_kind",
            "dtype",
        ],
        "items": ["sequence", "key", "uri", "label", "width", "height", "sha256", "metadata"],
        "vectors": ["sequence", "vector", "crc32"],
        "removals": ["sequence", "item"],
        "fields": ["name", "kind", "value", "item"],
        "rebuilding": ["one", "encoder_sha256", "dim", "encoder_path"],
        "rebuilt": ["sequence", "vector", "crc32", "width", "height", "sha256"],
    }


def test_every_connection_waits_for_the_disk(collection: Collection) -> None:
    """synchronous=FULL is a property of the connection, not of the file."""
    with collection._ledger._borrowed() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2


@pytest.mark.parametrize("content", [b"", b"not a database, only text" * 100])
def test_a_file_that_is_no_ledger_is_refused(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / "ledger.db").write_bytes(content)
    with pytest.raises(ArtifactError) as refused:
        open_collection(folder)
    assert str(folder) in str(refused.value)
    assert (folder / "ledger.db").read_bytes() == content


def test_a_database_of_another_program_is_refused(folder: Path) -> None:
    folder.mkdir()
    run_sql(folder, "CREATE TABLE bookmarks (uri TEXT)")
    with pytest.raises(ArtifactError, match="another program"):
        open_collection(folder)


def test_a_newer_ledger_is_refused(folder: Path, collection: Collection) -> None:
    collection.close()
    run_sql(folder, "PRAGMA user_version = 6")
    with pytest.raises(ArtifactError, match=r"version 6.*knows 5.*update"):
        open_collection(folder)


def test_an_older_ledger_is_brought_up(
    folder: Path, collection: Collection, record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.add([record(1)])
    collection.close()
    steps = (*schema.MIGRATIONS, "ALTER TABLE items ADD COLUMN note TEXT;")
    monkeypatch.setattr(migration, "MIGRATIONS", steps)
    monkeypatch.setattr(migration, "SCHEMA_VERSION", 6)
    with open_collection(folder) as again:
        assert again.keys() == ["item-001"]
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 6
        assert connection.execute("SELECT note FROM items").fetchone() == (None,)


def test_the_first_schema_is_brought_up_with_its_metadata(
    tmp_path: Path, collection: Collection
) -> None:
    """What the second version adds is the same for old items and new ones."""
    metadata = {"n": 1, "text": "x", "yes": True, "big": 2**70, "list": ["a", 2, None], "no": None}
    collection.add([Record("a", np.ones(8), "", metadata=metadata | {"object": {"deep": 1}})])
    fresh = collection._ledger.path
    old = tmp_path / "old" / "ledger.db"
    old.parent.mkdir()
    with closing(sqlite3.connect(fresh)) as now, closing(sqlite3.connect(old)) as before:
        now.backup(before)
        before.executescript(
            "DROP TABLE fields; ALTER TABLE collection DROP COLUMN recall;"
            "ALTER TABLE collection DROP COLUMN generation;"
            "ALTER TABLE collection DROP COLUMN pruned;"
            "ALTER TABLE collection DROP COLUMN memory_bytes;"
            "ALTER TABLE collection DROP COLUMN latency_ms;"
            "ALTER TABLE collection DROP COLUMN index_kind;"
            "ALTER TABLE collection DROP COLUMN dtype;"
            "ALTER TABLE vectors DROP COLUMN crc32; DROP TABLE rebuilding; DROP TABLE rebuilt;"
            "PRAGMA user_version = 1;"
        )
    with open_collection(old.parent) as again:
        assert again.stats()["recall"] == 1
        assert [hit.key for hit in again.search([np.ones(8)], 1, filter={"list": "a"})[0]] == ["a"]
    with closing(sqlite3.connect(fresh)) as now, closing(sqlite3.connect(old)) as before:
        rows = [set(c.execute("SELECT * FROM fields")) for c in (now, before)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 8


def test_a_step_that_fails_leaves_the_old_ledger(
    folder: Path, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.close()
    before = (folder / "ledger.db").read_bytes()
    steps = (*schema.MIGRATIONS, "CREATE TABLE extra (x); CREATE TABLE items (x);")
    monkeypatch.setattr(migration, "MIGRATIONS", steps)
    monkeypatch.setattr(migration, "SCHEMA_VERSION", 6)
    with pytest.raises(LookalikeError):
        open_collection(folder)
    assert (folder / "ledger.db").read_bytes() == before


def test_a_truncated_ledger_is_refused(folder: Path, collection: Collection, record: Make) -> None:
    collection.add(map(record, range(200)))
    collection.close()
    whole = (folder / "ledger.db").read_bytes()
    for length in (100, 5000, len(whole) // 2, len(whole) - 4096):
        (folder / "ledger.db").write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match="damaged"):
            open_collection(folder)


def test_a_vector_with_a_flipped_bit_is_found_at_opening(
    folder: Path, collection: Collection, record: Make
) -> None:
    collection.add(map(record, range(20)))
    item = collection.get("item-007")
    collection.close()
    assert item is not None
    raw = bytearray(np.asarray(item.vector, "<f4").tobytes())
    raw[0] ^= 0x01  # the lowest bit of a number
    run_sql(folder, "UPDATE vectors SET vector = ? WHERE sequence = 8", bytes(raw))
    with pytest.raises(ArtifactError, match="'item-007'"):
        open_collection(folder)
    run_sql(folder, "UPDATE vectors SET vector = ? WHERE sequence = 8", bytes(raw[:-4]))
    with pytest.raises(ArtifactError, match="28 bytes"):
        open_collection(folder)


def test_the_item_with_a_damaged_vector_can_be_replaced(
    folder: Path, collection: Collection, record: Make
) -> None:
    """The remedy that the message gives."""
    collection.add(map(record, range(20)))
    collection.close()
    run_sql(folder, "UPDATE vectors SET vector = zeroblob(32) WHERE sequence = 8")
    with open_collection(folder, load_index=False) as damaged:
        assert damaged.remove(["item-007"]) == ["item-007"]
        damaged.add([record(7)])
    with open_collection(folder) as repaired:
        assert repaired.search([record(7).vector], 1)[0][0].key == "item-007"


def test_a_ledger_without_its_binding_is_refused(folder: Path, collection: Collection) -> None:
    collection.close()
    run_sql(folder, "DELETE FROM collection")
    with pytest.raises(ArtifactError, match="which encoder"):
        open_collection(folder)


def test_a_ledger_that_vanishes_is_no_new_empty_one(collection: Collection, record: Make) -> None:
    collection.add([record(1)])
    collection.close()
    (collection.path / "ledger.db").unlink()
    with pytest.raises(UsageError):
        open_collection(collection.path)
    assert not (collection.path / "ledger.db").exists()

"""A ledger of schema version 2, as SQL, is brought up: nothing is lost, checksums are there."""

import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from base.errors import ArtifactError
from serving.collection import open_collection

# float32 little-endian (1, 0), (0, 1) and (0.6, 0.8)
VERSION_2 = """
CREATE TABLE collection (
    one INTEGER PRIMARY KEY CHECK (one = 1), encoder_sha256 TEXT NOT NULL,
    dim INTEGER NOT NULL CHECK (dim > 0), encoder_path TEXT, created TEXT NOT NULL,
    sequence INTEGER NOT NULL DEFAULT 0,
    recall REAL NOT NULL DEFAULT 1 CHECK (recall > 0 AND recall <= 1)
) STRICT;
CREATE TABLE items (
    sequence INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, uri TEXT NOT NULL, label TEXT,
    width INTEGER, height INTEGER, sha256 TEXT, metadata TEXT NOT NULL
) STRICT;
CREATE INDEX items_by_label ON items (label);
CREATE TABLE vectors (sequence INTEGER PRIMARY KEY, vector BLOB NOT NULL) STRICT;
CREATE TABLE removals (sequence INTEGER PRIMARY KEY, item INTEGER NOT NULL) STRICT;
CREATE TABLE fields (
    name TEXT NOT NULL, kind INTEGER NOT NULL, value ANY NOT NULL, item INTEGER NOT NULL,
    PRIMARY KEY (name, kind, value, item)
) STRICT, WITHOUT ROWID;
INSERT INTO collection VALUES (1, 'abab', 2, NULL, '2026-11-01T00:00:00+00:00', 5, 0.99);
INSERT INTO items VALUES (1, 'right', '/r', 'one', 4, 3, NULL, '{"n":1}');
INSERT INTO items VALUES (3, 'up', '/u', NULL, NULL, NULL, NULL, '{}');
INSERT INTO items VALUES (5, 'between', '/b', 'two', NULL, NULL, 'cd', '{"n":2}');
INSERT INTO vectors VALUES (1, X'0000803F00000000'), (3, X'000000000000803F'),
                           (5, X'9A99193FCDCC4C3F');
INSERT INTO removals VALUES (4, 2);
INSERT INTO fields VALUES ('n', 0, 1, 1), ('n', 0, 2, 5);
PRAGMA application_id = 1280003140;
PRAGMA user_version = 2;
PRAGMA journal_mode = WAL;
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        connection.executescript(VERSION_2)
    return tmp_path


def test_a_ledger_of_version_2_is_brought_up(old: Path) -> None:
    with open_collection(old) as collection:
        hits = collection.search([[0.6, 0.8]], 3)[0]
        assert [(hit.key, hit.score) for hit in hits] == [
            ("between", 1.0),
            ("up", 0.8),
            ("right", 0.6),
        ]
        assert [hit.key for hit in collection.search([[1, 0]], 3, filter={"n": 2})[0]] == [
            "between"
        ]
        assert collection.stats()["recall"] == 0.99
        assert collection.stats()["dtype"] == "float32"
        assert collection.stats()["removals"] == 1
        collection.remove(["up"])
    with closing(sqlite3.connect(old / "ledger.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (5,)
        rows = connection.execute("SELECT sequence, vector, crc32 FROM vectors").fetchall()
    assert [row[0] for row in rows] == [1, 5]
    assert all(zlib.crc32(vector) == checksum for _, vector, checksum in rows)


def test_its_snapshot_is_still_used(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    """There were no generations then; it says nothing of one."""
    with open_collection(old) as collection:
        collection.save()
    manifest = old / "index" / "manifest.json"
    text = manifest.read_text()
    assert '"generation": "",' in text
    manifest.write_text(text.replace('"generation": "",', ""))
    with open_collection(old) as collection:
        assert collection.search([[1, 0]], 1)[0][0].key == "right"
    assert not caplog.records


def test_a_vector_damaged_before_is_still_noticed(old: Path) -> None:
    with closing(sqlite3.connect(old / "ledger.db")) as connection, connection:
        connection.execute("UPDATE vectors SET vector = X'0000803F0000803F' WHERE sequence = 3")
    with pytest.raises(ArtifactError, match=r"'up'.*length one"):
        open_collection(old)


def test_the_snapshot_of_another_ledger_of_the_same_numbers_is_not_used(
    tmp_path: Path, old: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_collection(old) as collection:
        collection.save()
    with closing(sqlite3.connect(old / "ledger.db")) as connection, connection:
        connection.execute("UPDATE collection SET generation = 'another'")
    with open_collection(old) as collection:
        assert np.isclose(collection.search([[1, 0]], 1)[0][0].score, 1)
    assert "of another ledger" in caplog.text

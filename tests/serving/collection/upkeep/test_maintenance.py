"""verify, compact, backup, export and duplicates: what looks after a collection."""

import json
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from base.errors import UsageError
from serving.cli.cli import app
from serving.collection import AnyCollection, Collection, Record, create_collection, open_collection
from serving.collection.contract.locations import Location
from serving.collection.duplicates import find_duplicates
from serving.collection.upkeep.planning import SMALL
from serving.collection.verification import verify
from tests.serving.collection.conftest import DIGEST, DIM

ZEROS = f"vector = zeroblob({4 * DIM}), crc32 = {zlib.crc32(bytes(4 * DIM))}"
Make = Callable[[int], Record]


@pytest.fixture
def filled(collection: Collection, record: Make) -> Collection:
    """100 items, some replaced and removed, with a snapshot in the middle."""
    collection.add([record(i) for i in range(60)])
    collection.save()
    collection.add([record(i) for i in range(60, 100)])
    collection.remove([f"item-{i:03}" for i in range(0, 100, 7)])
    collection.add([replace(record(1), label="new")], "replace")
    return collection


def content(collection: AnyCollection) -> list[tuple[object, ...]]:
    return [
        (one.key, one.uri, one.label, one.width, one.sha256, dict(one.metadata),
         np.asarray(one.vector).tobytes())
        for one in collection.items(limit=1000)
    ]  # fmt: skip


def test_a_whole_collection_is_whole(filled: Collection, folder: Path) -> None:
    progress: list[tuple[int, int]] = []
    report = verify(folder, lambda *done: progress.append(done))
    assert (report.items, report.faults, report.snapshot, report.remedy) == (85, 0, "whole", None)
    assert progress[-1] == (85, 85)
    assert verify(folder).to_dict()["told"] == []


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        ("UPDATE vectors SET vector = zeroblob(32) WHERE sequence = 5", "not the one that was"),
        ("UPDATE vectors SET vector = zeroblob(3) WHERE sequence = 5", "3 bytes instead of 32"),
        (f"UPDATE vectors SET {ZEROS} WHERE sequence = 5", "length 0"),
        ("DELETE FROM vectors WHERE sequence = 5", "it has no vector"),
        ("DELETE FROM items WHERE sequence = 5", "1 rows of the table vectors belong to no item"),
        ("DELETE FROM fields WHERE item = 5 AND name = 'even'", "filters do not find it"),
        ("UPDATE fields SET value = 77 WHERE item = 5 AND name = 'number'", "filters do not find"),
        ("INSERT INTO fields VALUES ('x', 0, 1, 999999)", "1 rows of the table fields belong"),
        ("UPDATE items SET metadata = '[' WHERE sequence = 5", "not a JSON object"),
        ("INSERT INTO removals VALUES (1000, 5)", "1 items are there although they were removed"),
        ("UPDATE collection SET sequence = 50", "after the last one, 50"),
    ],
)  # fmt: skip
def test_each_damage_to_the_ledger_is_named(
    filled: Collection, folder: Path, damage: str, fault: str
) -> None:
    filled.close()
    with closing(sqlite3.connect(folder / "ledger.db")) as connection, connection:
        assert connection.execute(damage).rowcount > 0
    report = verify(folder)
    assert any(fault in line for line in report.messages), report.messages
    assert report.remedy
    result = CliRunner().invoke(app, ["collection", "verify", str(folder)])
    assert result.exit_code == 3


def test_a_flipped_page_of_the_database_is_named(filled: Collection, folder: Path) -> None:
    filled.back_up(folder.with_name("copy"))
    ledger = folder.with_name("copy") / "ledger.db"
    data = bytearray(ledger.read_bytes())
    location = data.rindex(b"item-050")
    data[location : location + 8] = b"item-999"
    ledger.write_bytes(data)
    assert any("database is damaged" in line for line in verify(ledger.parent).messages)


def test_a_damaged_snapshot_is_named_and_made_anew(filled: Collection, folder: Path) -> None:
    vectors = next((folder / "index").glob("vectors-*"))
    data = bytearray(vectors.read_bytes())
    data[40] ^= 1
    vectors.write_bytes(data)
    report = verify(folder)
    assert report.snapshot == "damaged"
    assert report.faults == 1
    assert "collection tune" in str(report.remedy)
    with open_collection(folder) as again:
        again.tune()
    assert verify(folder).faults == 0


def test_compact_gives_back_space_and_keeps_everything(filled: Collection, folder: Path) -> None:
    filled.add(
        [Record(f"more-{i}", np.ones(DIM), "/m", metadata={"t": "x" * 900}) for i in range(999)]
    )
    filled.remove([f"more-{i}" for i in range(999)])
    before = content(filled)
    with open_collection(folder) as reader:
        report = filled.compact()
        assert report["forgotten"] == 999 + 15 + 1
        assert report["after"] < report["before"] / 2
        assert content(filled) == content(reader) == before
        assert reader.search([np.ones(DIM)], 3) == filled.search([np.ones(DIM)], 3)
        filled.remove([before[0][0]])  # type: ignore[list-item]
        assert len(reader.search([np.ones(DIM)], 100)[0]) == 84
    assert verify(folder).faults == 0


def test_a_log_that_vanishes_while_it_is_measured_does_not_fail(
    filled: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite removes its log when the last connection is closed, at any moment."""
    glob = Path.glob

    def listed_before(folder: Path, pattern: str) -> list[Path]:
        return [*glob(folder, pattern), folder / "ledger.db-gone"]

    monkeypatch.setattr(Path, "glob", listed_before)
    size = filled.stats()["bytes_on_disk"]
    report = filled.compact()
    assert (report["before"], report["forgotten"]) == (size, 15 + 1)
    assert report["after"] > 0


def test_a_backup_is_of_one_moment_and_a_collection_of_its_own(
    filled: Collection, folder: Path, record: Make
) -> None:
    before = content(filled)
    filled.back_up(folder.with_name("copy"))
    filled.add([record(150)])
    assert verify(folder.with_name("copy")).faults == 0
    with open_collection(folder.with_name("copy")) as copy:
        assert content(copy) == before
        copy.add([record(151)])
        assert [hit.key for hit in copy.search([record(151).vector], 1)[0]] == ["item-151"]
    with pytest.raises(UsageError, match="not empty"):
        filled.back_up(folder.with_name("copy"))
    # a snapshot of the one is never used for the other
    for file in (folder / "index").iterdir():
        (folder.with_name("copy") / "index").mkdir(exist_ok=True)
        (folder.with_name("copy") / "index" / file.name).write_bytes(file.read_bytes())
    assert verify(folder.with_name("copy")).snapshot == "damaged"


def test_an_export_is_read_by_others_and_taken_back(
    location: Location, record: Make, tmp_path: Path
) -> None:
    out = tmp_path / "all.parquet"
    with create_collection(location, DIGEST, DIM) as collection:
        collection.add([record(i) for i in range(100)])
        expected = content(collection)
    result = CliRunner().invoke(app, ["collection", "export", str(location), "--out", str(out)])
    assert result.exit_code == 0, result.output
    rows = duckdb.execute(
        "SELECT count(*), sum((metadata->>'$.number')::int), len(any_value(embedding))"
        f" FROM '{out}'"
    )
    assert rows.fetchall() == [(100, 200, DIM)]
    with create_collection(tmp_path / "again", DIGEST, DIM) as again:
        added = CliRunner().invoke(app, ["collection", "add", str(again.path), str(out), "--json"])
        assert json.loads(added.stdout)["added"] == 100
        assert content(again) == expected
        refused = CliRunner().invoke(app, ["collection", "add", str(again.path), str(out)])
        assert refused.exit_code != 0
    with create_collection(tmp_path / "other", "cd" * 32, DIM) as other:
        refused = CliRunner().invoke(app, ["collection", "add", str(other.path), str(out)])
        assert "cannot be compared" in str(refused.exception)


def near(vector: NDArray[np.float32], noise: float, seed: int) -> NDArray[np.float32]:
    unit = vector / np.linalg.norm(vector)
    other = np.random.default_rng(seed).standard_normal(len(vector))
    other -= (other @ unit) * unit
    moved: NDArray[np.float32] = (unit + noise * other / np.linalg.norm(other)).astype(np.float32)
    return moved


def test_duplicates_form_groups_and_the_largest_image_is_kept(
    location: Location, vectors: NDArray[np.float32]
) -> None:
    with create_collection(location, DIGEST, DIM) as collection:
        collection.add([Record(f"lone-{i}", vectors[i], f"/{i}", None, 9, 9) for i in range(50)])
        for i in range(3):
            size = 10 * (2 if i == 1 else 1)
            moved = near(vectors[60], 0.001 * i, i)
            collection.add([Record(f"pair-{i}", moved, f"/p{i}", None, size, size)])
        collection.add([Record(f"same-{i:02}", vectors[70], f"/s{i}") for i in range(40)])
        groups = find_duplicates(collection, 0.999)
    assert [(one.key, len(one.duplicates)) for one in groups] == [("same-00", 39), ("pair-1", 2)]
    assert {one.key for one in groups[1].duplicates} == {"pair-0", "pair-2"}
    assert all(0.999 < one.score <= 1 for group in groups for one in group.duplicates)
    # the truth, by comparing all pairs
    units = vectors[:50] / np.linalg.norm(vectors[:50], axis=1, keepdims=True)
    assert (np.triu(units @ units.T, 1) < 0.999).all()


def test_the_command_writes_what_can_go(
    collection: Collection, folder: Path, tmp_path: Path, vectors: NDArray[np.float32]
) -> None:
    collection.add([Record('a,"b"', vectors[0], "/a"), Record("c", vectors[0], "/c")])
    collection.add([Record("d", vectors[1], "/d")])
    out = tmp_path / "found.csv"
    result = CliRunner().invoke(app, ["collection", "duplicates", str(folder), "--out", str(out)])
    assert result.exit_code == 0
    assert out.read_text() == 'keep,duplicate,score,uri\n"a,""b""",c,1.0,/c\n'
    listed = CliRunner().invoke(app, ["collection", "duplicates", str(folder), "--json"])
    groups = json.loads(listed.stdout)["groups"]
    assert groups[0]["duplicates"] == [{"key": "c", "uri": "/c", "score": 1.0}]
    refused = CliRunner().invoke(app, ["collection", "duplicates", str(folder), "--threshold", "2"])
    assert "threshold is 2" in str(refused.exception)


def test_a_graph_is_verified_too(folder: Path) -> None:
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((50, DIM))
    points = centers[rng.integers(0, 50, SMALL + 500)] + 0.1 * rng.standard_normal(
        (SMALL + 500, DIM)
    )
    with create_collection(folder, DIGEST, DIM, recall=0.9) as collection:
        collection.add([Record(f"{i:06}", point, "/x") for i, point in enumerate(points[:SMALL])])
        collection.tune()
        collection.remove([f"{i:06}" for i in range(0, 300, 3)])
        collection.add([Record(f"{i:06}", points[i], "/x") for i in range(SMALL, SMALL + 500)])
    assert verify(folder).to_dict()["faults"] == 0
    with closing(sqlite3.connect(folder / "ledger.db")) as connection, connection:
        connection.execute(f"UPDATE vectors SET {ZEROS} WHERE sequence = 9")
    assert verify(folder).faults == 1

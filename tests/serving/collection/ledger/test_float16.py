"""Vectors stored as float16: half the bytes, the same item after every journey."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from base.errors import UsageError
from serving.collection import AnyCollection, Record, create_collection, open_collection
from serving.collection.contract.locations import Location
from serving.collection.contract.records import checked_rows
from serving.collection.contract.stored_vectors import bytes_of, loaded
from serving.collection.exporting import export_parquet, read_export
from serving.collection.ledger.inspection import LENGTH_TOLERANCE
from serving.collection.upkeep.rebuilding import NewEncoder
from serving.collection.verification import verify
from serving.copying import copy, open_target
from tests.serving.collection.conftest import DIGEST, DIM
from tests.serving.collection.ledger.test_ledger import run_sql

Make = Callable[[int], Record]


def content(collection: AnyCollection) -> list[tuple[str, bytes]]:
    return [(one.key, np.asarray(one.vector).tobytes()) for one in collection.items(limit=1000)]


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    units: NDArray[np.float64] = vectors / np.linalg.norm(
        vectors.astype(np.float64), axis=1, keepdims=True
    )
    return units


def stored_bytes(folder: Path) -> list[bytes]:
    with closing(sqlite3.connect(folder / "ledger.db")) as database:
        rows = database.execute("SELECT vector FROM vectors ORDER BY sequence")
        return [vector for (vector,) in rows]


def test_half_the_bytes_and_scores_within_a_thousandth(
    folder: Path, record: Make, vectors: NDArray[np.float32]
) -> None:
    with create_collection(folder, DIGEST, DIM, dtype="float16") as collection:
        collection.add(map(record, range(150)))
        assert collection.stats()["dtype"] == "float16"
        results = collection.search(vectors[150:], 150)
        collection.save()
    blobs = stored_bytes(folder)
    assert {len(blob) for blob in blobs} == {2 * DIM}
    expected = unit(vectors[:150]).astype("<f2")
    assert b"".join(blobs) == expected.tobytes()
    for query, hits in zip(unit(vectors[150:]), results, strict=True):
        own = {hit.key: hit.score for hit in hits}
        for row in range(150):
            assert abs(own[f"item-{row:03}"] - expected[row].astype(float) @ query) < 1e-6
            assert abs(own[f"item-{row:03}"] - unit(vectors[row : row + 1])[0] @ query) < 1e-3
    with open_collection(folder) as again:
        assert again.search(vectors[150:], 150) == results
    assert (verify(folder).faults, verify(folder).snapshot) == (0, "whole")


@given(arrays(np.float32, (3, 2), elements=st.floats(-4, 4, width=32)), st.booleans())
def test_what_is_read_and_added_again_is_the_same(
    vectors: NDArray[np.float32], large: bool
) -> None:
    """Of few numbers too, where rounding changes the length most."""
    originals = vectors[np.abs(vectors).max(axis=1) > 1e-3] * (1000 if large else 1)
    rows = checked_rows([Record(f"{i}", one, "") for i, one in enumerate(originals)], 2, "float16")
    for row in rows:
        (vector,) = loaded([row.vector], 2, "float16")
        assert abs(np.linalg.norm(vector.astype(np.float64)) - 1) < LENGTH_TOLERANCE
        (again,) = checked_rows([Record(row.key, vector, "")], 2, "float16")
        assert again.vector == row.vector


def test_every_journey_keeps_the_items(folder: Path, record: Make, tmp_path: Path) -> None:
    with create_collection(folder, DIGEST, DIM, dtype="float16") as collection:
        collection.add(map(record, range(100)))
        assert collection.add(collection.items(), "replace").unchanged == 100
        collection.remove(["item-007"])
        before = content(collection)
        collection.compact()
        assert content(collection) == before
        collection.back_up(tmp_path / "backup")
        export_parquet(collection, tmp_path / "all.parquet")
        with open_target(collection, str(tmp_path / "copy"), None) as target:
            assert copy(collection, target, on_progress=lambda *_: None).copied == 99
        with open_target(collection, str(tmp_path / "copy"), None) as target:
            assert copy(collection, target, on_progress=lambda *_: None).unchanged == 99
    with create_collection(tmp_path / "again", DIGEST, DIM, dtype="float16") as again:
        for records in read_export(tmp_path / "all.parquet", DIGEST):
            again.add(records)
    for location in ("backup", "copy", "again"):
        with open_collection(tmp_path / location) as opened:
            assert content(opened) == before
            assert opened.stats()["dtype"] == "float16"
        assert verify(tmp_path / location).faults == 0


def test_it_is_rebuilt_in_float16(folder: Path, record: Make) -> None:
    encoder = NewEncoder(sha256="cd" * 32, dim=4, path="/new")
    with create_collection(folder, DIGEST, DIM, dtype="float16") as collection:
        collection.add(map(record, range(20)))
        with collection.rebuilding(encoder) as rebuilder:
            rebuilder.begin()
            pending = rebuilder.pending(0, 100)
            new = [Record(one.item.key, [1.0, 2.0, 3.0, 4.0], "") for one in pending]
            rebuilder.store([(one.number, item) for one, item in zip(pending, new, strict=True)])
            rebuilder.finish([])
    assert {len(blob) for blob in stored_bytes(folder)} == {bytes_of(4, "float16")} == {8}
    with open_collection(folder) as opened:
        assert len(opened.search([[1.0, 2.0, 3.0, 4.0]], None, min_score=0.999)[0]) == 20
    assert verify(folder).faults == 0


def test_damage_is_named(folder: Path, record: Make) -> None:
    with create_collection(folder, DIGEST, DIM, dtype="float16") as collection:
        collection.add(map(record, range(5)))
    run_sql(folder, "UPDATE vectors SET vector = zeroblob(32) WHERE sequence = 2")
    assert verify(folder).messages == ("'item-001': its vector has 32 bytes instead of 16",)


def test_a_copy_from_anywhere_may_be_float16(
    location: Location, record: Make, tmp_path: Path
) -> None:
    with (
        create_collection(location, DIGEST, DIM) as original,
        create_collection(tmp_path / "half", DIGEST, DIM, dtype="float16") as half,
    ):
        original.add(map(record, range(50)))
        assert copy(original, half, on_progress=lambda *_: None).copied == 50
        query = [record(60).vector]
        exact, rounded = original.search(query, 50)[0], half.search(query, 50)[0]
        scores = {hit.key: hit.score for hit in exact}
        assert max(abs(hit.score - scores[hit.key]) for hit in rounded) < 1e-3


def test_other_dtypes_and_locations_are_refused(tmp_path: Path, milvus: str) -> None:
    with pytest.raises(UsageError, match="dtype is 'int8'; choose float32 or float16"):
        create_collection(tmp_path / "new", DIGEST, DIM, dtype="int8")  # type: ignore[call-overload]
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="Milvus holds float32"):
        create_collection(milvus, DIGEST, DIM, dtype="float16")

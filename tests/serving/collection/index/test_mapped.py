"""Vectors mapped from a file: the file never changes, and what is added goes to memory."""

from pathlib import Path

import numpy as np
import pytest

from serving.collection.index import flat_index
from serving.collection.index.flat_index import FlatIndex
from tests.serving.collection.clustered import clustered

DIM = 128


def test_what_is_written_behind_a_mapping_stays_out_of_its_file(tmp_path: Path) -> None:
    vectors = clustered(300, 1, DIM)
    path = tmp_path / "vectors"
    path.write_bytes(vectors.tobytes())
    ids = np.arange(1, 301)
    with path.open("rb") as file:
        flat = FlatIndex.mapped(ids, file, DIM, sequence=300)
    path.unlink()
    more = flat.added(np.arange(301, 401), clustered(100, 2, DIM), sequence=400)
    np.testing.assert_array_equal(more.vectors[:300], vectors)
    np.testing.assert_array_equal(more.vectors[300:], clustered(100, 2, DIM))
    assert (flat.in_memory, more.in_memory) == (0, 100)
    assert more.nbytes == 100 * DIM * 4 + 400 * 8


def test_where_no_room_can_be_reserved_the_file_is_mapped_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the system never promises more memory than it has."""
    monkeypatch.setattr(flat_index, "MAPPED_ROOM", 2**50)
    path = tmp_path / "vectors"
    path.write_bytes(clustered(100, 1, DIM).tobytes())
    with path.open("rb") as file:
        flat = FlatIndex.mapped(np.arange(1, 101), file, DIM, sequence=100)
    assert len(flat._buffer.rows) == 100
    more = flat.added(np.arange(101, 103), clustered(2, 2, DIM), sequence=102)
    np.testing.assert_array_equal(more.vectors[:100], flat.vectors)
    assert (flat.in_memory, more.in_memory) == (0, 102)

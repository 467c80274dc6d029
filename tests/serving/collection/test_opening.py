"""Creating, closing and opening a collection; what cannot be opened is refused with the remedy."""

from collections.abc import Callable
from pathlib import Path

import pytest

from base.errors import ArtifactError, LookalikeError, UsageError
from serving.collection import Record, create_collection, open_collection
from serving.collection.contract.locations import Location

DIGEST, DIM = "ab" * 32, 8


def test_everything_is_there_after_opening_again(
    location: Location, record: Callable[[int], Record]
) -> None:
    collection = create_collection(location, DIGEST, DIM)
    collection.add(map(record, range(60)))
    collection.remove([f"item-{number:03}" for number in range(0, 60, 2)])
    queries = [record(number).vector for number in range(5)]
    before = collection.search(queries, 10)
    collection.close()
    with open_collection(location) as again:
        assert again.search(queries, 10) == before
        assert (again.dim, again.encoder_digest) == (DIM, DIGEST)


def test_a_collection_that_is_closed_says_so(location: Location) -> None:
    collection = create_collection(location, DIGEST, DIM)
    collection.close()
    collection.close()
    with pytest.raises(LookalikeError, match="closed"):
        len(collection)


def test_the_encoder_is_remembered_and_checked(location: Location, tmp_path: Path) -> None:
    encoder = tmp_path / "encoder.onnx"
    create_collection(location, DIGEST, DIM, encoder_path=encoder).close()
    with open_collection(location, encoder_digest=DIGEST) as collection:
        assert collection.encoder_path == str(encoder)
    with pytest.raises(ArtifactError) as refusal:
        open_collection(location, encoder_digest="cd" * 32)
    for word in ("abababababab", "cdcdcdcdcdcd", "new collection"):
        assert word in str(refusal.value)


def test_a_collection_is_made_only_where_nothing_is(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    create_collection(folder, DIGEST, DIM).close()
    with pytest.raises(UsageError, match="not empty"):
        create_collection(folder, DIGEST, DIM)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UsageError, match="not empty"):
        create_collection(file, DIGEST, DIM)
    with pytest.raises(UsageError, match="cannot make"):
        create_collection(file / "below", DIGEST, DIM)
    with pytest.raises(UsageError, match="dim is 0"):
        create_collection(tmp_path / "other", DIGEST, 0)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["collection", "file"]


def test_a_wrong_path_is_distinguished_from_a_foreign_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lookalike collection create"):
        open_collection(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match="not a collection"):
        open_collection(tmp_path)

"""Collections for the tests: small vectors with a known truth."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.collection import Collection, Record, create_collection
from serving.collection.places import Place

DIGEST = "ab" * 32
DIM = 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the test's collection lies."""
    return tmp_path / "collection"


@pytest.fixture
def collection(folder: Path) -> Iterator[Collection]:
    """An empty collection of 8 dimensions."""
    with create_collection(folder, DIGEST, DIM) as made:
        yield made


@pytest.fixture(scope="session")
def milvus_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of milvus-lite for many collections, open all the while."""
    pytest.importorskip("pymilvus", reason="needs the extra milvus")
    pytest.importorskip("milvus_lite", reason="needs the extra milvus")
    path = tmp_path_factory.mktemp("milvus") / "tests.db"
    with create_collection(f"milvus+file:{path}#kept_open", DIGEST, DIM):
        yield path


_numbers = itertools.count()


@pytest.fixture
def milvus(milvus_file: Path) -> str:
    """Where a test's collection in Milvus is to be made."""
    return f"milvus+file:{milvus_file}#test_{next(_numbers)}"


@pytest.fixture(params=["folder", "milvus"])
def place(request: pytest.FixtureRequest) -> Place:
    """Where a test's collection is to be made, one after the other: a folder, or in Milvus."""
    place: Place = request.getfixturevalue(request.param)
    return place


@pytest.fixture
def vectors() -> NDArray[np.float32]:
    """float32 [200, 8], not normalised."""
    return np.random.default_rng(3).standard_normal((200, DIM)).astype(np.float32)


@pytest.fixture
def record(vectors: NDArray[np.float32]) -> Callable[[int], Record]:
    """Makes item number i: key, label and metadata follow from the number."""

    def make(number: int) -> Record:
        return Record(
            key=f"item-{number:03}",
            vector=vectors[number],
            uri=f"/pictures/{number}.jpg",
            label=f"label-{number % 3}",
            width=10 + number,
            height=20,
            sha256=f"{number:064x}",
            metadata={"number": number % 5, "even": number % 2 == 0},
        )

    return make

"""Collections for the tests: small vectors with a known truth."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.collection import Collection, Record, create_collection
from serving.collection.contract.locations import Location
from serving.collection.upkeep import planning, upkeep
from tests.serving.collection.clustered import clustered, numbered

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


@pytest.fixture(params=["folder", "milvus"])
def location(request: pytest.FixtureRequest) -> Location:
    """Where a test's collection is to be made, one after the other: a folder, or in Milvus."""
    location: Location = request.getfixturevalue(request.param)
    return location


@pytest.fixture
def vectors() -> NDArray[np.float32]:
    """float32 [200, 8], not normalized."""
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


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build approximate indexes from 1,000 items on."""
    monkeypatch.setattr(planning, "SMALL", 1000)
    monkeypatch.setattr(upkeep, "MOST_OUTSIDE", 100)


@pytest.fixture
def few_lists(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build them with 32 inverted lists, enough for 2,400 items."""
    monkeypatch.setattr(planning, "list_count", lambda _: 32)


@pytest.fixture
def tuned(small: None, tmp_path: Path) -> Collection:
    """3,000 items of 24 numbers with a graph, promised recall 0.95."""
    collection = create_collection(tmp_path / "c", "ab" * 32, 24, recall=0.95)
    collection.add(numbered(clustered(3000, 1, 24)))
    assert collection.tune(threads=1)["kind"] == "HNSW16,SQ8"
    return collection

"""The index of several workers: one renews it, the others take the newer one over."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.collection import Collection, Record, create_collection, open_collection
from serving.http.engine.upkeep import Upkeep

DIGEST, DIM = "0" * 64, 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with create_collection(tmp_path / "shop", DIGEST, DIM) as collection:
        rng = np.random.default_rng(1)
        collection.add(Record(f"{n}", rng.standard_normal(DIM), "/") for n in range(20))
    return tmp_path / "shop"


@pytest.fixture
def opened(folder: Path) -> Iterator[Collection]:
    with open_collection(folder, encoder_digest=DIGEST) as collection:
        yield collection


def upkeep(collection: Collection, newer: list[Collection], *, maintains: bool) -> Upkeep:
    return Upkeep(collection, DIGEST, maintains=maintains, on_newer=newer.append, grace=0.0)


def test_one_worker_maintains_the_index(
    opened: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def maintain() -> bool:
        calls.append(1)
        return True

    monkeypatch.setattr(opened, "maintain", maintain)
    newer: list[Collection] = []
    assert upkeep(opened, newer, maintains=True).look()
    assert (calls, newer) == ([1], [])


def test_the_others_take_over_what_was_saved(
    folder: Path, opened: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        opened, "maintain", lambda: pytest.fail("it is not the one that maintains the index")
    )
    newer: list[Collection] = []
    other = upkeep(opened, newer, maintains=False)
    assert not other.look()
    with open_collection(folder) as other_worker:
        other_worker.add([Record("20", [1.0] * DIM, "/")])
        assert not other.look()  # what is added, a search finds by itself
        other_worker.save()
    assert other.look()
    (collection,) = newer
    with collection:
        assert collection.search([[1.0] * DIM], 1)[0][0].key == "20"
        assert not other.look()
        assert len(newer) == 1

"""The work that near-duplicates cost: searches, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from serving.collection.contract.records import Record
from serving.collection.duplicates import find_duplicates

if TYPE_CHECKING:
    import pytest
    from numpy.typing import NDArray

    from serving.collection.collection import Collection


def _counted(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list that gets (vectors, k) of each search."""
    searches: list[tuple[int, int]] = []
    search = collection.search

    def counting(vectors: NDArray[np.float32], k: int, **options: Any) -> Any:
        searches.append((len(vectors), k))
        return search(vectors, k, **options)

    monkeypatch.setattr(collection, "search", counting)
    return searches


def test_equal_vectors_are_one_group_without_searches_of_their_own(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    others = random.standard_normal((40, 8)).astype(np.float32)
    same = [Record(f"same-{i:04}", np.ones(8, np.float32), "") for i in range(2000)]
    collection.add([*same, *(Record(f"x-{i}", row, "") for i, row in enumerate(others))])
    searches = _counted(collection, monkeypatch)
    (group,) = find_duplicates(collection, 0.9999)
    assert group.key == "same-0000"
    assert len(group.duplicates) == 1999
    assert sum(vectors for vectors, _ in searches) < 100


def test_a_large_group_of_near_ones_is_searched_no_further_than_the_nearest(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    near = 1 + 0.01 * random.standard_normal((3000, 8)).astype(np.float32)
    collection.add(Record(f"near-{i:04}", row, "") for i, row in enumerate(near))
    searches = _counted(collection, monkeypatch)
    (group,) = find_duplicates(collection, 0.99)
    assert len(group.duplicates) == 2999
    assert sum(vectors * k for vectors, k in searches) < 3000 * 64

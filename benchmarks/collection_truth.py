"""What a collection must hold and find, by brute force, for `collection_soak`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.collection_writer import (
    NUMBERS,
    vectors_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from serving.collection import Collection


TOLERANCE = 2e-6


Model = dict[int, int]


class Truth:
    """Brute force over what the model says is there."""

    def __init__(self, model: Model, table: NDArray[np.float32]) -> None:
        self.numbers = np.fromiter(model, np.int64, len(model))
        versions = np.fromiter(model.values(), np.int64, len(model))
        vectors = vectors_of(table, self.numbers, versions).astype(np.float64)
        self.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.rows = {int(number): row for row, number in enumerate(self.numbers)}
        self.passing = (self.numbers % 3 == 1) & np.isin(self.numbers % 7, (0, 3))

    def check_vectors(self, collection: Collection) -> None:
        """Check that each item has the vector of its version."""
        for item in collection.items(limit=NUMBERS):
            expected = self.vectors[self.rows[int(item.key)]]
            assert np.abs(np.asarray(item.vector) - expected).max() < TOLERANCE, item.key

    def scores(self, query: NDArray[np.float32], filtered: bool) -> NDArray[np.float64]:
        """Return the scores of all, or of those that pass the filter, the best first."""
        vectors = self.vectors[self.passing] if filtered else self.vectors
        wide = query.astype(np.float64)
        ranked: NDArray[np.float64] = np.sort(vectors @ (wide / np.linalg.norm(wide)))[::-1]
        return ranked

    def check_hits(
        self,
        query: NDArray[np.float32],
        hits: Any,
        filtered: bool,
        k: int | None,
        floor: float | None,
    ) -> None:
        """Check that these are the nearest: the right scores, each the item's own, none twice."""
        scores = self.scores(query, filtered)[:k]
        if floor is not None:
            scores = scores[scores >= floor]
        assert len(hits) == len(scores), f"{len(hits)} hits, {len(scores)} are right"
        assert len({hit.key for hit in hits}) == len(hits), "an item is found twice"
        assert np.abs(np.array([hit.score for hit in hits]) - scores).max(initial=0) < TOLERANCE
        wide = query.astype(np.float64)
        for hit in hits:
            row = self.rows[int(hit.key)]
            assert self.passing[row] or not filtered
            own = self.vectors[row] @ (wide / np.linalg.norm(wide))
            assert abs(own - hit.score) < TOLERANCE, f"{hit.key} has another one's score"


def content(collection: Collection) -> Model:
    """Return what is there."""
    items = collection.items(limit=NUMBERS + 1)
    model = {int(item.key): int(item.metadata["version"]) for item in items}
    assert len(model) == len(items) == len(collection), "a key is there twice"
    return model

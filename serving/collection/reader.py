"""The reading half of a collection: searches, items, statistics."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.collection.contract.errors import check_encoder
from serving.collection.contract.interface import AnyCollection
from serving.collection.contract.records import Hit, Record, unit_vectors
from serving.collection.contract.scores import Ids, Scores
from serving.collection.contract.search_limits import check_bounds, everything
from serving.collection.ledger.ledger import FILE_NAME, Ledger
from serving.collection.ledger.view import View
from serving.collection.upkeep.index_stats import describe_index
from serving.collection.upkeep.index_sync import Follower

SAMPLED_KEYS = 100_000


class Reader(AnyCollection):
    """The half of a `Collection` that only reads.

    Attributes:
        path: its folder.
        encoder_digest: SHA-256 of the encoder file its vectors come from.
        encoder_path: where that file was when the collection was made, or None; only a hint.
        dim: length of a vector, E.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ledger = Ledger(path / FILE_NAME)
        binding = self._ledger.binding
        self.encoder_digest = binding.encoder_sha256
        self.encoder_path = binding.encoder_path
        self.dim = binding.dim
        self._follower = Follower(self._ledger)

    @property
    def location(self) -> str:
        """What opens it again: its folder."""
        return str(self.path)

    def close(self) -> None:
        """Close the ledger and release the index; closing twice is fine."""
        self._ledger.close()
        self._follower.release()

    def check_encoder(self, digest: str) -> None:
        """Refuse another encoder than the collection's own.

        Raises:
            ArtifactError: naming both and the remedy.
        """
        check_encoder(self.location, self.encoder_digest, digest)

    def search(
        self,
        vectors: Sequence[ArrayLike] | NDArray[np.float32],
        k: int | None = 10,
        *,
        min_score: float | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the word of the HTTP interface
        exact: bool = False,
    ) -> list[list[Hit]]:
        """Return the nearest items of each query, with the recall the collection promises.

        Otherwise as `AnyCollection.search`; `exact` misses nothing, whatever is promised.
        """
        check_bounds(k, min_score)
        queries = unit_vectors(vectors, self.dim, [f"query {q}" for q in range(len(vectors))])
        if k is None:
            return [self._everything(query, min_score, filter) for query in queries]
        with self._follower.current() as (view, index):
            allowed = view.matching(filter) if filter else None
            return [
                _hits(view, ids, scores, k, min_score)
                for ids, scores in index.search(queries, k, allowed, exact=exact)
            ]

    def _everything(
        self, query: NDArray[np.float32], min_score: float | None, condition: Any
    ) -> list[Hit]:
        def nearest(k: int) -> list[Hit]:
            return self.search([query], k, min_score=min_score, filter=condition, exact=True)[0]

        return everything(nearest)

    def get(self, key: str) -> Record | None:
        """Return an item with its vector, or None."""
        with self._ledger.reading() as view:
            return view.get(key)

    def existing(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that are there, in the order given."""
        with self._ledger.reading() as view:
            existing = view.present(keys)
        return [key for key in keys if key in existing]

    def keys(self, *, after: str | None = None, limit: int = 1000) -> list[str]:
        """Return the next keys in ascending order, after one that need not be there."""
        with self._ledger.reading() as view:
            return view.keys(after, limit)

    def items(self, *, after: str | None = None, limit: int = 1000) -> list[Record]:
        """Return the next items in the order of their keys, with their vectors."""
        with self._ledger.reading() as view:
            return view.page(after, limit)

    def sample(self, count: int) -> list[Record]:
        """Return a random sample of the first 100,000 items; fewer where there are fewer."""
        with self._ledger.reading() as view:
            keys = view.keys(None, SAMPLED_KEYS)
            sample = random.sample(keys, min(count, len(keys)))
            return [item for key in sample if (item := view.get(key)) is not None]

    def __len__(self) -> int:
        with self._ledger.reading() as view:
            return view.count()

    def stats(self) -> dict[str, Any]:
        """Return what the collection is and holds, ready for JSON."""
        with self._ledger.reading() as view:
            return {
                "kind": "collection",
                "path": str(self.path),
                "items": view.count(),
                "labels": view.count_labels(),
                "removals": view.count_removals(),
                "sequence": view.sequence,
                "dim": self.dim,
                "dtype": view.dtype,
                "encoder_sha256": self.encoder_digest,
                "encoder_path": self.encoder_path,
                "created": self._ledger.binding.created,
                "bytes_on_disk": self._ledger.bytes_on_disk(),
                "recall": view.promise.recall,
                "promise": view.promise.to_dict(),
                "index": describe_index(self.path, self._follower, view.promise),
            }

    def refresh(self) -> None:
        """Bring the index in memory up to date now instead of at the next search."""
        with self._follower.current():
            pass


def _hits(view: View, ids: Ids, scores: Scores, k: int, min_score: float | None) -> list[Hit]:
    """Cut to k, by score and then by key, and look the items up."""
    if min_score is not None:
        ids, scores = ids[scores >= min_score], scores[scores >= min_score]
    numbers = ids.tolist()
    if len(numbers) > 1 and (scores[1:] == scores[:-1]).any():
        keys = view.keys_of(numbers)
        order = sorted(range(len(numbers)), key=lambda i: (-scores[i], keys[numbers[i]]))
        numbers, scores = [numbers[i] for i in order], scores[order]
    return view.hits(numbers[:k], scores[:k].tolist())

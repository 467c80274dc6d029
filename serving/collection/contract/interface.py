"""The interface of a collection, wherever it is kept.

`Collection` keeps it in a folder, `milvus.MilvusCollection` in Milvus. What only a folder has
(snapshots, a promise of recall, backups, one writer at a time) does not belong here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.collection.contract.errors import KeyUnknown
from serving.collection.contract.mixing import NEGATIVE_WEIGHT, mixed_query
from serving.collection.contract.records import AddReport, Hit, OnDuplicate, Record, unit_vectors
from serving.collection.contract.voting import VOTERS, Suggestion, suggestion_of


class AnyCollection(Protocol):
    """An open collection; made by `open_collection` or `create_collection`.

    Safe to use from several threads.

    Attributes:
        encoder_digest: SHA-256 of the encoder file its vectors come from.
        encoder_path: where that file was when the collection was made, or None; only a hint.
        dim: length of a vector, E.
    """

    encoder_digest: str
    encoder_path: str | None
    dim: int

    @property
    def location(self) -> str:
        """What opens it again: its folder, or its URL without any secret."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; closing twice is fine."""
        ...

    def check_encoder(self, digest: str) -> None:
        """Refuse another encoder than the collection's own.

        Raises:
            ArtifactError: naming both and the remedy.
        """
        ...

    def add(self, records: Iterable[Record], on_duplicate: OnDuplicate = "refuse") -> AddReport:
        """Add a batch; when this returns it is stored as durably as the location allows.

        Args:
            records: the batch; it is held in memory, so give millions in several calls.
            on_duplicate: what to do if a key is there already (or twice in the batch): "refuse" the
                batch, or "replace" the item (the last one of the batch stays). An item that is
                there with the same content is left as it is and counted as unchanged.

        Raises:
            KeyExists: with the keys.
            UsageError: naming the key and what is wrong with it, its vector or metadata.
        """
        ...

    def remove(self, keys: Iterable[str]) -> list[str]:
        """Remove items; return the keys that were there, in the order given."""
        ...

    def search(
        self,
        vectors: Sequence[ArrayLike] | NDArray[np.float32],
        k: int | None = 10,
        *,
        min_score: float | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the word of the HTTP interface
        exact: bool = False,
    ) -> list[list[Hit]]:
        """Return the nearest items of each query.

        Args:
            vectors: queries [Q, E] of any length but zero.
            k: the most hits for a query; None: everything that is as similar as min_score, exactly.
            min_score: leave out what is less similar; cosine in [-1, 1].
            filter: what a hit must have (`filters`); k is counted after it.
            exact: miss nothing, and take the time it needs.

        Returns:
            for each query its hits, the best first, equal scores in the order of their keys.

        Raises:
            UsageError: naming the query and what is wrong, or an unusable k or filter.
        """
        ...

    def similar(
        self,
        key: str,
        k: int | None = 10,
        *,
        min_score: float | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        exact: bool = False,
    ) -> list[Hit]:
        """Return the nearest items of an item, without itself; otherwise as `search`.

        Raises:
            KeyUnknown: the item is not there.
        """
        options: dict[str, Any] = {"min_score": min_score, "filter": filter, "exact": exact}
        return self._others([self._item(key).vector], {key}, k, options)

    def search_mixed(
        self,
        positive: Sequence[str | ArrayLike],
        negative: Sequence[str | ArrayLike] = (),
        k: int | None = 10,
        *,
        negative_weight: float = NEGATIVE_WEIGHT,
        min_score: float | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        exact: bool = False,
    ) -> list[Hit]:
        """Return items like some examples and unlike others (`mixing`), without the examples.

        Args:
            positive: keys of items (texts) and vectors [E], at least one.
            negative: likewise.
            k: as in `search`.
            negative_weight: how much the mean of the negatives counts beside that of the positives.
            min_score: of the mixture; as in `search`.
            filter: as in `search`.
            exact: as in `search`.

        Raises:
            KeyUnknown: an example's item is not there.
            UsageError: naming the example and what is wrong, or examples that cancel out.
        """
        units = [
            unit_vectors(
                [self._item(one).vector if isinstance(one, str) else one for one in examples],
                self.dim,
                [f"{name} {number}" for number in range(len(examples))],
            )
            for name, examples in (("positive", positive), ("negative", negative))
        ]
        query = mixed_query(units[0], units[1], negative_weight)
        keys = {one for one in (*positive, *negative) if isinstance(one, str)}
        options: dict[str, Any] = {"min_score": min_score, "filter": filter, "exact": exact}
        return self._others([query], keys, k, options)

    def suggest_labels(
        self,
        vectors: Sequence[ArrayLike] | NDArray[np.float32],
        k: int = VOTERS,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        exact: bool = False,
    ) -> list[Suggestion]:
        """Return the labels of each query's k nearest items, by weighted vote (`voting`).

        Raises:
            UsageError: as `search`.
        """
        return [suggestion_of(hits) for hits in self.search(vectors, k, filter=filter, exact=exact)]

    def _item(self, key: str) -> Record:
        item = self.get(key)
        if item is None:
            raise KeyUnknown(key)
        return item

    def _others(
        self, query: Sequence[ArrayLike], keys: set[str], k: int | None, options: dict[str, Any]
    ) -> list[Hit]:
        """Return the neighbors of one query [1, E], except some items."""
        if k is None or k < 1:  # unlimited, or to be refused
            return [hit for hit in self.search(query, k, **options)[0] if hit.key not in keys]
        hits = self.search(query, k + len(keys), **options)[0]
        return [hit for hit in hits if hit.key not in keys][:k]

    def get(self, key: str) -> Record | None:
        """Return an item with its vector, or None."""
        ...

    def existing(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that are there, in the order given."""
        ...

    def keys(self, *, after: str | None = None, limit: int = 1000) -> list[str]:
        """Return the next keys in ascending order, after one that need not be there."""
        ...

    def items(self, *, after: str | None = None, limit: int = 1000) -> list[Record]:
        """Return the next items in the order of their keys, with their vectors."""
        ...

    def pages(self, size: int) -> Iterator[list[Record]]:
        """Yield all items in the order of their keys, in pages; others may write meanwhile."""
        after: str | None = None
        while records := self.items(after=after, limit=size):
            yield records
            after = records[-1].key

    def sample(self, count: int) -> list[Record]:
        """Return a random sample of the items; fewer where there are fewer."""
        ...

    def __len__(self) -> int: ...

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bool(self.existing([key]))

    def stats(self) -> dict[str, Any]:
        """Return what the collection is and holds, ready for JSON."""
        ...

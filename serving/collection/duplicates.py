"""Near-duplicates of a whole collection: the same image again, resized, cropped or recompressed.

Each item is searched for with its own vector, so the time grows with the number of items and not
with their pairs. Items as similar as the threshold are linked, and linked ones form a group, also
through others. Equal vectors are linked without a search, and an item of a group that is large
already is searched for no further than its nearest, so that the time does not grow with the square
of a group either.
The item to keep is the one with the largest image, among equals the first key.
"Similar" is far below "duplicate": duplicates have a threshold of their own.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from base.errors import UsageError
from base.progress import OnProgress
from serving.collection.contract.interface import AnyCollection
from serving.collection.contract.records import Record

BLOCK_ITEMS = 1024
NEIGHBORS = 16  # of the first search; more only where all of them are duplicates
MOST_NEIGHBORS = 1024  # of one item; larger groups hold together through their other members
LARGE = 256  # members from which on a group does so through the nearest of each


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """An item that duplicates another.

    Attributes:
        key: of the item.
        uri: where its image is.
        score: cosine similarity to the one that is kept; it may be below the threshold where other
            members of the group link the two.
    """

    key: str
    uri: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """Items that show the same image.

    Attributes:
        key: of the one to keep.
        uri: where its image is.
        duplicates: the others, the most similar first.
    """

    key: str
    uri: str
    duplicates: tuple[Duplicate, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def find_duplicates(
    collection: AnyCollection, threshold: float, on_progress: OnProgress | None = None
) -> list[Group]:
    """Return the groups of a collection's near-duplicates, the largest first.

    Args:
        collection: of any kind; it is read while others may write.
        threshold: cosine similarity from which two items are the same image, above 0, up to 1.
        on_progress: called with how many items of how many have been searched for.

    Raises:
        UsageError: the threshold is unusable.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"threshold is {threshold}; a cosine above 0 and up to 1 is needed")
    groups, firsts = _Groups(), dict[bytes, str]()
    done = 0
    for records in collection.pages(BLOCK_ITEMS):
        distinct = []
        for record in records:
            first = firsts.setdefault(np.asarray(record.vector).tobytes(), record.key)
            if first == record.key:
                distinct.append(record)
            else:
                groups.link(record.key, first)
        _link_near(collection, distinct, threshold, groups)
        done += len(records)
        if on_progress:
            on_progress(done, len(collection))
    made = [group for keys in groups.members() if (group := _group(collection, keys))]
    return sorted(made, key=lambda group: (-len(group.duplicates), group.key))


def _link_near(
    collection: AnyCollection, records: list[Record], threshold: float, groups: "_Groups"
) -> None:
    """Link each item with those as similar as the threshold."""
    pending, k = records, NEIGHBORS
    while pending:
        vectors = np.stack([np.asarray(record.vector, np.float32) for record in pending])
        results = collection.search(vectors, k, min_score=threshold)
        for record, hits in zip(pending, results, strict=True):
            for hit in hits:
                if hit.key != record.key:
                    groups.link(record.key, hit.key)
        pending = [
            record
            for record, hits in zip(pending, results, strict=True)
            if len(hits) == k < MOST_NEIGHBORS and groups.size(record.key) < LARGE
        ]
        k *= 8


class _Groups:
    """Keys that are linked, also through others (disjoint sets, the smaller one joins)."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}
        self._sizes: dict[str, int] = {}

    def link(self, one: str, other: str) -> None:
        small, large = sorted((self._root(one), self._root(other)), key=self._sizes.__getitem__)
        if small != large:
            self._parents[small] = large
            self._sizes[large] += self._sizes.pop(small)

    def size(self, key: str) -> int:
        return self._sizes[self._root(key)]

    def members(self) -> list[list[str]]:
        """Return the keys of each group."""
        by_root: dict[str, list[str]] = {}
        for key in self._parents:
            by_root.setdefault(self._root(key), []).append(key)
        return list(by_root.values())

    def _root(self, key: str) -> str:
        if key not in self._parents:
            self._parents[key], self._sizes[key] = key, 1
        while self._parents[key] != key:
            # halves the way for the next one
            self._parents[key] = key = self._parents[self._parents[key]]
        return key


def _group(collection: AnyCollection, keys: list[str]) -> Group | None:
    records = [record for key in keys if (record := collection.get(key))]
    if len(records) < 2:  # the others were removed meanwhile
        return None
    best = min(records, key=lambda record: (-_pixels(record), record.key))
    kept = np.asarray(best.vector, np.float64)
    duplicates = [
        Duplicate(key=one.key, uri=one.uri, score=round(float(kept @ np.asarray(one.vector)), 7))
        for one in records
        if one is not best
    ]
    duplicates.sort(key=lambda one: (-one.score, one.key))
    return Group(key=best.key, uri=best.uri, duplicates=tuple(duplicates))


def _pixels(record: Record) -> int:
    return (record.width or 0) * (record.height or 0)

"""Near-duplicates of a whole collection: the same image again, resized, cropped or recompressed.

Each item is searched for with its own vector, so the time grows with the number of items and not
with their pairs. Items as similar as the threshold are linked, and linked ones form a group, also
through others. The item to keep is the one with the largest image, among equals the first key.
"Similar" is far below "duplicate": duplicates have a threshold of their own.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from base.errors import UsageError
from base.progress import OnProgress
from serving.collection.contract.interface import AnyCollection
from serving.collection.contract.records import Hit, Record

BLOCK_ITEMS = 1024
NEIGHBORS = 16  # of the first search; more only where all of them are duplicates
MOST_NEIGHBORS = 1024  # of one item; larger groups hold together through their other members


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
    parents: dict[str, str] = {}
    done = 0
    for records in collection.pages(BLOCK_ITEMS):
        for record, hits in zip(records, _near(collection, records, threshold), strict=True):
            for hit in hits:
                if hit.key != record.key:
                    _link(parents, record.key, hit.key)
        done += len(records)
        if on_progress:
            on_progress(done, len(collection))
    members: dict[str, list[str]] = {}
    for key in parents:
        members.setdefault(_root(parents, key), []).append(key)
    groups = [group for keys in members.values() if (group := _group(collection, keys))]
    return sorted(groups, key=lambda group: (-len(group.duplicates), group.key))


def _near(collection: AnyCollection, records: list[Record], threshold: float) -> list[list[Hit]]:
    """Return for each item the hits as similar as the threshold, itself among them."""
    near: list[list[Hit]] = [[] for _ in records]
    pending, k = list(range(len(records))), NEIGHBORS
    while pending:
        vectors = np.stack([np.asarray(records[i].vector, np.float32) for i in pending])
        results = collection.search(vectors, k, min_score=threshold)
        for i, hits in zip(pending, results, strict=True):
            near[i] = hits
        pending = [i for i in pending if len(near[i]) == k] if k < MOST_NEIGHBORS else []
        k *= 8
    return near


def _link(parents: dict[str, str], one: str, other: str) -> None:
    parents.setdefault(one, one)
    parents.setdefault(other, other)
    parents[_root(parents, one)] = _root(parents, other)


def _root(parents: dict[str, str], key: str) -> str:
    while parents[key] != key:
        parents[key] = key = parents[parents[key]]  # halves the way for the next one
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

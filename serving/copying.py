"""Copying a collection from one location to another: a folder, Milvus, either way."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from base.errors import LookalikeError, UsageError
from base.progress import OnProgress
from serving.collection import (
    AnyCollection,
    CollectionMissing,
    create_collection,
    open_collection,
)
from serving.collection.contract.errors import some
from serving.collection.contract.locations import Location, milvus_location
from serving.collection.contract.promise import DEFAULT_RECALL
from serving.collection.thumbnails import copy_kept, thumbnails_beside

ITEMS = 1024  # read and written at a time


@dataclass(kw_only=True)
class CopyReport:
    """What a copy did.

    Attributes:
        copied: items that were not there, or were there with other content.
        unchanged: items that an earlier copy had copied already.
        items: in the copy now, as many as in the original.
        elapsed: seconds by the clock.
    """

    copied: int = 0
    unchanged: int = 0
    items: int = 0
    elapsed: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for JSON."""
        return asdict(self)


def open_target(original: AnyCollection, location: Location, recall: float | None) -> AnyCollection:
    """Return the collection to copy to: the one there, or a new one of the same encoder.

    Args:
        original: what will be copied.
        location: a folder or the URL of a collection in Milvus.
        recall: what a new one is to promise; None takes over what the original promises. From
            folder to folder its limits, index and dtype are taken over too.
    """
    try:
        return open_collection(location, load_index=False)
    except CollectionMissing:
        limits = {} if milvus_location(location) else _limits(original)
        return create_collection(
            location,
            original.encoder_digest,
            original.dim,
            encoder_path=original.encoder_path,
            recall=recall or original.stats().get("recall") or DEFAULT_RECALL,
            **limits,
        )


def _limits(original: AnyCollection) -> dict[str, Any]:
    """Return what a collection in a folder promises beside its recall, and its dtype."""
    stats = original.stats()
    promise: dict[str, Any] = stats.get("promise", {})
    limits = {name: value for name, value in promise.items() if name != "recall"}
    return {**limits, "dtype": stats.get("dtype", "float32")}


def copy(original: AnyCollection, target: AnyCollection, *, on_progress: OnProgress) -> CopyReport:
    """Copy every item of a collection into another, vectors and all.

    From folder to folder, kept thumbnails too.

    Interrupted, the same copy adds what is missing: items that are there with the same content are
    left as they are.

    Raises:
        ArtifactError: the target is of another encoder.
        UsageError: the target holds items that the original does not have.
        LookalikeError: the target has more or fewer items at the end, because one of the two was
            changed meanwhile.
    """
    start = time.perf_counter()
    target.check_encoder(original.encoder_digest)
    _refuse_other_items(original, target)
    report = CopyReport()
    total = len(original)
    on_progress(0, total)
    after = None
    while items := original.items(after=after, limit=ITEMS):
        after = items[-1].key
        added = target.add(items, "replace")
        report.copied += added.added + added.replaced
        report.unchanged += added.unchanged
        on_progress(report.copied + report.unchanged, total)
    report.items, total = len(target), len(original)
    if report.items != total:
        raise LookalikeError(
            f"{target.location} holds {report.items} items and {original.location} {total}: one of "
            "them was changed during the copy; copy again"
        )
    if thumbnails_beside(original.location) and thumbnails_beside(target.location):
        copy_kept(Path(original.location), Path(target.location))
    report.elapsed = time.perf_counter() - start
    return report


def _refuse_other_items(original: AnyCollection, target: AnyCollection) -> None:
    """Check that all items of the target are of an earlier, interrupted copy."""
    after = None
    while keys := target.keys(after=after, limit=ITEMS):
        after = keys[-1]
        shared = set(original.existing(keys))
        others = [key for key in keys if key not in shared]
        if others:
            raise UsageError(
                f"{target.location} holds items that {original.location} does not have "
                f"({some(others)}): copy to a new location, or remove them first"
            )

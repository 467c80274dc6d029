"""Verify that a collection is whole and that its index holds what its ledger holds.

In this order: SQLite's own check of the file; every item with a vector of length one that has the
checksum it was written with; every field of its metadata findable and no other; the snapshot's
files by their SHA-256; then the index as a search would use it (the snapshot and what came since),
each item in it exactly once, with the same bytes as in the ledger, and nothing else.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from base.errors import ArtifactError
from base.progress import OnProgress
from serving.collection.index.flat_index import FlatIndex
from serving.collection.index.index import Index
from serving.collection.ledger.ledger import FILE_NAME, Ledger
from serving.collection.ledger.view import View
from serving.collection.opening import check_folder
from serving.collection.upkeep.index_sync import Follower
from serving.collection.upkeep.snapshot import FOLDER, MANIFEST, read

MOST_MESSAGES = 20
PROGRESS_ITEMS = 4096


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of `verify`.

    Attributes:
        items: in the ledger.
        faults: how many.
        messages: the first of them, each a line; "told" in JSON.
        snapshot: "none", "whole" or "damaged".
        remedy: what to do about the faults; None if there are none.
    """

    items: int
    faults: int
    messages: tuple[str, ...]
    snapshot: str
    remedy: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        fields = asdict(self)
        return fields | {"told": list(fields.pop("messages"))}


def verify(path: str | Path, on_progress: OnProgress | None = None) -> Verification:
    """Check all of a collection in a folder; others may search and write meanwhile.

    Args:
        path: its folder.
        on_progress: called with how many items of how many have been looked at.

    Raises:
        CollectionMissing: there is nothing at the path.
        ArtifactError: it is not a collection, or too damaged to be read at all.
    """
    folder = check_folder(path)
    with closing(Ledger(folder / FILE_NAME)) as ledger:
        with ledger.inspecting() as view:
            items = view.count()
            faults = [*view.database_faults(), *view.stray_faults()]
            for done, item_faults in enumerate(view.item_faults(), 1):
                faults += item_faults
                if on_progress and (done % PROGRESS_ITEMS == 0 or done == items):
                    on_progress(done, items)
            snapshot, damage = _snapshot(folder, view)
        remedy = "restore it from a backup, or remove the items named and add them again"
        if not faults:
            remedy = f"make the index anew: lookalike collection tune {folder}"
            faults += damage
            faults += _index_faults(ledger)
    return Verification(
        items=items,
        faults=len(faults),
        messages=tuple(faults[:MOST_MESSAGES]),
        snapshot=snapshot,
        remedy=remedy if faults else None,
    )


def _snapshot(folder: Path, view: View) -> tuple[str, list[str]]:
    if not (folder / FOLDER / MANIFEST).exists():
        return "none", []
    try:
        read(folder / FOLDER, view)
    except (OSError, ValueError, KeyError, TypeError, ArtifactError) as error:
        return "damaged", [f"the index that is kept on the disk cannot be used: {error}"]
    return "whole", []


def _index_faults(ledger: Ledger) -> Iterator[str]:
    with Follower(ledger).current() as (view, index):
        flat = index.flat
        ids = flat.living_ids
        if not np.array_equal(ids, view.ids()):
            yield f"the index holds {len(ids)} items, the ledger {view.count()}: not the same ones"
        elif other := _different(view, flat):
            yield f"the index holds other vectors of {other} items than the ledger"
        yield from _proposer_faults(index)


def _different(view: View, flat: FlatIndex) -> int:
    """Return how many items have another vector in the index than in the ledger."""
    return sum(
        int((flat.vectors[flat.rows_of(ids)] != vectors).any(axis=1).sum())
        for ids, vectors in view.vectors_since(0)
    )


def _proposer_faults(index: Index) -> Iterator[str]:
    if (proposer := index.proposer) is None:
        return
    ids = index.flat.living_ids
    if len(np.unique(proposer.ids)) != len(proposer.ids):
        yield f"the index {proposer.kind} holds items twice"
    if missing := np.setdiff1d(ids[ids <= proposer.last], proposer.ids, assume_unique=True).size:
        yield f"the index {proposer.kind} does not hold {missing} items that it should"

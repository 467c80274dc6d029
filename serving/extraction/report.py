"""What a run of an extraction did, and the error of one that refused too many images."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from base.errors import LookalikeError

if TYPE_CHECKING:
    from pathlib import Path

    from images.items import RefusedImage
    from serving.embedding.per_item import Seconds

FIRST_REFUSED = 20


@dataclass
class Changes:
    """How a source differs from what a feature folder holds, and what an update made of it.

    Attributes:
        added: images that the folder did not have.
        changed: images to look at again: their file, label or uri changed, or they were refused.
        same: those of them whose content turned out to be the same.
        kept: images that were not looked at.
        deleted: images that are no longer there.
    """

    added: int = 0
    changed: int = 0
    same: int = 0
    kept: int = 0
    deleted: int = 0


@dataclass
class CollectionChanges:
    """What a run did to the items of a collection."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    removed: int = 0


@dataclass(frozen=True, kw_only=True)
class ExtractReport:
    """What a run did.

    Attributes:
        out: the feature folder.
        items: items of the source.
        rows: images with an embedding, of this run and earlier ones.
        refused: images without one.
        resumed: items that an earlier run had finished, or that an update did not look at.
        elapsed: seconds by the clock.
        images_per_second: items of this run over `elapsed`.
        seconds: where the time went.
        changes: what an update did; None where there was none.
        collected: what went into a collection; None where there was none.
        first_refused: the first of the refused.
        passed_over: files of the source that are not read, by their suffixes.
        notes: what else is to be known of the source, a line each.
        skipped_folders: sub-folders of the source that cannot be listed.
    """

    out: Path
    items: int
    rows: int
    refused: int
    resumed: int
    elapsed: float
    images_per_second: float
    seconds: Seconds
    changes: Changes | None = None
    collected: CollectionChanges | None = None
    first_refused: list[RefusedImage] = field(repr=False)
    passed_over: dict[str, int] = field(default_factory=dict)
    skipped_folders: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for JSON."""
        return {**asdict(self), "out": str(self.out)}


class TooManyRefused(LookalikeError):  # noqa: N818 - a state of the images, not a fault
    """More images were refused than the user allows.

    Attributes:
        count: how many.
        first: the first of this run.
    """

    def __init__(self, count: int, allowed: int, first: list[RefusedImage]) -> None:
        self.count = count
        self.first = first
        super().__init__(
            f"stopped: {count} images were refused, --max-errors allows {allowed}. What is "
            "finished is kept; look at the refused ones, then continue with a larger number"
        )

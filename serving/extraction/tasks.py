"""The tasks of an extraction: each is one shard, with the items to embed and how to write it."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from serving.embedding.results import Outcome
from serving.extraction.report import Changes
from serving.extraction.tracked_item import TrackedItem
from serving.features.manifest import Manifest, ShardEntry
from serving.features.shards import write_shard


@dataclass(frozen=True, kw_only=True)
class WrittenShard:
    """A shard whose tables are on the disk, and the manifest that is to name it.

    Attributes:
        manifest: with the shard.
        shard: the shard.
        replaced: the shard that it replaces, whose files can go once the manifest is written.
    """

    manifest: Manifest
    shard: ShardEntry
    replaced: ShardEntry | None = None


class ShardTask(Protocol):
    """The work on one shard."""

    @property
    def items(self) -> Sequence[TrackedItem]:
        """The items to be embedded; may be empty."""

    def write(self, manifest: Manifest, outcomes: Sequence[Outcome]) -> WrittenShard:
        """Write the shard's tables, given an outcome for each item; the manifest is not written."""


class Plan(Protocol):
    """What a run has to do.

    Attributes:
        manifest: of the folder while the run works.
        total: items of the source.
        done: items that need not be embedded.
        resumed: those of them that are not touched at all.
        refused: images that stay refused without being looked at.
        reads_replaced: whether shards are read until the end, also those that are replaced.
    """

    manifest: Manifest
    total: int
    done: int
    resumed: int
    refused: int
    reads_replaced: bool

    @property
    def changes(self) -> Changes | None:
        """How the source has changed, where it is an update."""

    def tasks(self) -> Generator[ShardTask]:
        """Yield the work in the order of the source."""


@dataclass(frozen=True, kw_only=True)
class NewShard:
    """A shard that is written for the first time.

    Attributes:
        folder: the feature folder.
        number: of the shard.
        items: all items of the shard.
    """

    folder: Path
    number: int
    items: Sequence[TrackedItem]

    def write(self, manifest: Manifest, outcomes: Sequence[Outcome]) -> WrittenShard:
        """Write the shard where its number puts it."""
        entries = [item.entry(out) for item, out in zip(self.items, outcomes, strict=True)]
        shard = write_shard(self.folder, manifest, self.number, entries)
        return WrittenShard(manifest=manifest.with_shard(shard), shard=shard)

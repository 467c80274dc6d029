"""The tasks of an update: a shard rewritten, or new items at the end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from images.items import Item, metadata_text
from serving.embedding.results import Deleted, EmbeddedImage, Entry, Outcome
from serving.extraction.existing_items import ExistingItems, State
from serving.extraction.report import Changes
from serving.extraction.tasks import WrittenShard
from serving.extraction.tracked_item import TrackedItem
from serving.features.manifest import Manifest, ShardEntry
from serving.features.reader import Features
from serving.features.shards import numbers_of, write_shard


@dataclass(frozen=True, kw_only=True)
class RewriteShard:
    """A shard of which items have changed or are gone.

    Attributes:
        folder: the feature folder.
        shard: the shard as it is.
        first_number: of the shard's items in `existing`.
        existing: all items of the folder, and what is to be done with each.
        items: those to be read again, also deleted ones that are back.
        relabeled: by key, those of which only the label has changed.
        changes: `same` counts here the items whose content is unchanged.
    """

    folder: Path
    shard: ShardEntry
    first_number: int
    existing: ExistingItems
    items: Sequence[TrackedItem]
    relabeled: Mapping[str, Item]
    changes: Changes

    def write(self, manifest: Manifest, outcomes: Sequence[Outcome]) -> WrittenShard:
        """Write the shard under a new name, unless it would be the same."""
        features = Features(self.folder, manifest)
        read = {item.key: (item, out) for item, out in zip(self.items, outcomes, strict=True)}
        if self._is_unchanged(features, read):
            return WrittenShard(manifest=manifest, shard=self.shard)
        deleted = [row for row in features.deleted(self.shard) if row.key not in read]
        back = [row.key for row in features.deleted(self.shard) if row.key in read]
        entries: list[Entry] = []
        for old in features.entries(self.shard):
            key = old.outcome.key
            if key in read:
                entries.append(self._renewed(old, *read[key]))
            elif self.existing.state_of(key) == State.GONE:
                deleted.append(_deleted(old.outcome))
            else:
                entries.append(_relabeled(old, self.relabeled.get(key)))
        entries += [read[key][0].entry(read[key][1]) for key in back]
        return _rewritten(self.folder, manifest, self.shard, entries, deleted)

    def _is_unchanged(
        self, features: Features, read: Mapping[str, tuple[TrackedItem, Outcome]]
    ) -> bool:
        """Whether all there was to do was to try unreadable images again, in vain."""
        states = self.existing.states[self.first_number : self.first_number + self.shard.items]
        if any(state in (State.GONE, State.RELABEL, State.COMPARE) for state in states):
            return False
        refused = {entry.outcome.key: entry for entry in features.refused(self.shard)}
        return all(refused.get(key) == item.entry(out) for key, (item, out) in read.items())

    def _renewed(self, old: Entry, tracked: TrackedItem, outcome: Outcome) -> Entry:
        if not tracked.unchanged:
            return tracked.entry(outcome)
        self.changes.same += 1
        kept = replace(old.outcome, uri=tracked.item.uri)
        if isinstance(kept, EmbeddedImage):
            item = tracked.item
            kept = replace(kept, label=item.label, metadata=metadata_text(item.metadata))
        return replace(old, outcome=kept, stamp=tracked.stamp)


@dataclass(frozen=True, kw_only=True)
class AppendItems:
    """New items: they fill up the last shard if it has room for them all, else make a new one.

    Attributes:
        folder: the feature folder.
        items: at most as many as a shard has.
    """

    folder: Path
    items: Sequence[TrackedItem]

    def write(self, manifest: Manifest, outcomes: Sequence[Outcome]) -> WrittenShard:
        """Rewrite the last shard, or write one more."""
        entries = [item.entry(out) for item, out in zip(self.items, outcomes, strict=True)]
        last = manifest.shards[-1] if manifest.shards else None
        if last is not None and last.items + len(entries) <= manifest.shard_items:
            features = Features(self.folder, manifest)
            filled = features.entries(last) + entries
            return _rewritten(self.folder, manifest, last, filled, features.deleted(last))
        number = max((numbers_of(shard.file)[0] + 1 for shard in manifest.shards), default=0)
        shard = write_shard(self.folder, manifest, number, entries)
        shard = replace(shard, first_item=sum(other.items for other in manifest.shards))
        return WrittenShard(
            manifest=replace(manifest, shards=(*manifest.shards, shard)), shard=shard
        )


def _rewritten(
    folder: Path,
    manifest: Manifest,
    shard: ShardEntry,
    entries: Sequence[Entry],
    deleted: Sequence[Deleted],
) -> WrittenShard:
    """Write the next generation of a shard."""
    number, generation = numbers_of(shard.file)
    renewed = write_shard(
        folder, manifest, number, entries, generation=generation + 1, deleted=deleted
    )
    return WrittenShard(
        manifest=manifest.with_replacement(shard.file, renewed), shard=renewed, replaced=shard
    )


def _deleted(outcome: Outcome) -> Deleted:
    sha256 = outcome.sha256 if isinstance(outcome, EmbeddedImage) else None
    return Deleted(outcome.key, outcome.uri, sha256)


def _relabeled(old: Entry, item: Item | None) -> Entry:
    if item is None or not isinstance(old.outcome, EmbeddedImage):
        return old
    metadata = metadata_text(item.metadata)
    return replace(old, outcome=replace(old.outcome, label=item.label, metadata=metadata))

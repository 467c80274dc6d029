"""The plan of a first or resumed extraction: the shards that the folder does not have yet."""

from collections.abc import Generator
from itertools import islice
from pathlib import Path

from base.errors import ArtifactError, LookalikeError
from images.items import Item, Source, metadata_text
from serving.extraction.report import Changes
from serving.extraction.tasks import NewShard, ShardTask
from serving.extraction.tracked_item import ItemTracker
from serving.features.manifest import Manifest, ShardEntry
from serving.features.reader import Features
from serving.features.shards import items_digest


class ResumePlan:
    """Makes the missing shards; the attributes are those of `tasks.Plan`."""

    changes: Changes | None = None
    reads_replaced = False

    def __init__(
        self, *, folder: Path, manifest: Manifest, source: Source, tracker: ItemTracker
    ) -> None:
        self.manifest = manifest
        self.total = manifest.source.items
        self.done = self.resumed = sum(shard.items for shard in manifest.shards)
        self.refused = manifest.errors
        self._folder = folder
        self._source = source
        self._tracker = tracker

    def tasks(self) -> Generator[ShardTask]:
        """Yield the shards to be made; the items of the others are only compared.

        Raises:
            LookalikeError: the source has fewer items than its length.
            ArtifactError: it lists other items than a finished shard holds, or other labels.
        """
        finished = {shard.first_item: shard for shard in self.manifest.shards}
        remaining = iter(self._source)
        size = self.manifest.shard_items
        for first in range(0, self.total, size):
            count = min(size, self.total - first)
            items = list(islice(remaining, count))
            if len(items) < count:
                raise LookalikeError(f"{self._source.name} ended after {first + len(items)} items")
            if first not in finished:
                tracked = [self._tracker.track(item) for item in items]
                yield NewShard(folder=self._folder, number=first // size, items=tracked)
            elif items_digest((i.key, i.uri) for i in items) != finished[first].items_sha256:
                raise ArtifactError(
                    f"{self._folder} was begun on other images: items {first} to "
                    f"{first + len(items) - 1} of {self._source.name} are not those it holds; "
                    "bring it up to date with --update, or extract into another folder"
                )
            else:
                self._check_labels(items, finished[first])

    def _check_labels(self, items: list[Item], shard: ShardEntry) -> None:
        """Refuse labels and metadata that are not those of a finished shard."""
        features = Features(self._folder, self.manifest)
        table = features.columns(shard, "key", "label", "metadata")
        existing = {row.pop("key"): row for row in table.to_pylist()}
        for item in items:
            was = existing.get(item.key)
            if was is None:  # refused
                continue
            if (was["label"], was.get("metadata")) != (item.label, metadata_text(item.metadata)):
                raise ArtifactError(
                    f"{self._folder} was begun with other labels: {item.key} is {was['label']} "
                    f"there, now {item.label}; give them all the new ones with --update, or "
                    "resume with the options it was begun with"
                )

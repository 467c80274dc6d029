"""Bringing a feature folder up to date with its source: only what has changed is done.

Every item is compared with what the folder has under its key. First without reading it: if uri and
stamp (length and time of its file) are the same, so is the image. Where they are not, it is read,
and if its content (SHA-256) is the same, its embedding stays. So a copied folder or an archive that
was repacked is read but not embedded again. Nor is an image that was only renamed or moved: it is
new, but its content is that of one that is gone.

Shards in which something has changed are rewritten, under new names, one by one; new images fill
up the last shard and then shards of their own. The folder is consistent after each of them: an
update that was killed is continued by the same command, which has less to do.
"""

from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

from base.errors import UsageError
from images.items import Item, Source
from images.sources.passed_over import passed_over
from serving.embedding.embed import in_batches
from serving.extraction.existing_items import Kind, State, read_existing_items
from serving.extraction.moved_items import MovedItems
from serving.extraction.report import Changes
from serving.extraction.tasks import ShardTask
from serving.extraction.tracked_item import ItemTracker
from serving.extraction.update_tasks import AppendItems, RewriteShard
from serving.features.manifest import FORMAT_VERSION, Manifest
from serving.features.reader import Features

STAMP_THREADS = 8  # a network's file system answers many at once
STAMP_ITEMS = 1024

_TO_DO = (State.RELABEL, State.COMPARE, State.EMBED)


class UpdatePlan:
    """Does again what has changed; the attributes are those of `tasks.Plan`.

    `changes.same` grows while the tasks are done.
    """

    def __init__(
        self, *, features: Features, source: Source, fresh: Manifest, tracker: ItemTracker
    ) -> None:
        """Compare the source with the folder; nothing is written yet.

        Args:
            features: the folder.
            source: its images as they are now.
            fresh: the manifest that a new folder would get.
            tracker: tracks the items that are read.

        Raises:
            UsageError: not one key of the folder is in the source.
        """
        self._features = features
        self._source = source
        self._limit = fresh.source.limit
        self._tracker = tracker
        self._existing = read_existing_items(features)
        self.changes = Changes()
        self.total = self._compare()
        self._items_to_do, self.refused = self._count()
        self._moved = MovedItems(features, self._existing)
        self.reads_replaced = bool(self._moved)
        relabeled = sum(state == State.RELABEL for state in self._existing.states)
        self.resumed = self.changes.kept
        self.done = self.resumed + relabeled
        self.manifest = self._begun(fresh)

    def _compare(self) -> int:
        """Give every item that the folder has its state; returns the number of the source's."""
        existing, total, shared = self._existing, 0, 0
        for item, stamp in self._stamped():
            total += 1
            number = existing.numbers.get(item.key)
            if number is None:
                self.changes.added += 1
            else:
                shared += 1
                existing.compare(number, item, stamp)
        if existing.numbers and not shared:
            raise UsageError(
                f"{self._features.path} holds features of {self._features.manifest.source.name}; "
                f"none of their keys is in {self._source.name}. Give the same source, or extract "
                "into another folder"
            )
        return total + self._keep_unseen()

    def _keep_unseen(self) -> int:
        """Keep the items of folders that cannot be listed now; returns how many they are."""
        folders = tuple(f"{folder}/" for folder in passed_over(self._source).folders)
        kept = 0
        if folders and self._limit is None:
            for key, number in self._existing.numbers.items():
                gone = self._existing.states[number] == State.GONE
                if (
                    gone
                    and self._existing.kinds[number] != Kind.DELETED
                    and key.startswith(folders)
                ):
                    self._existing.states[number] = State.KEEP
                    kept += 1
        return kept

    def _stamped(self) -> Iterator[tuple[Item, str | None]]:
        with ThreadPoolExecutor(STAMP_THREADS, "stamp") as pool:
            chunks = in_batches(islice(self._source, self._limit), STAMP_ITEMS * STAMP_THREADS)
            for chunk in chunks:
                lists = list(in_batches(chunk, STAMP_ITEMS))
                for items, stamps in zip(lists, pool.map(self._stamps, lists), strict=True):
                    yield from zip(items, stamps, strict=True)

    def _stamps(self, items: list[Item]) -> list[str | None]:
        return [self._tracker.stamper(item.uri) for item in items]

    def _count(self) -> "tuple[Counter[int], int]":
        """Return the items to do of each shard to rewrite (0: some are only gone), and the refused.

        The refused are those that stay so without being looked at.
        """
        existing, to_do, refused = self._existing, Counter[int](), 0
        for number, (state, kind) in enumerate(zip(existing.states, existing.kinds, strict=True)):
            if state in _TO_DO:
                to_do[existing.shard_of(number)] += 1
                self.changes.changed += kind != Kind.DELETED
                self.changes.added += kind == Kind.DELETED
            elif state == State.KEEP:
                self.changes.kept += 1
                refused += kind == Kind.REFUSED
            elif kind != Kind.DELETED:
                to_do[existing.shard_of(number)] += 0
                self.changes.deleted += 1
        return to_do, refused

    def _begun(self, fresh: Manifest) -> Manifest:
        """Return the folder's manifest once the update has begun: as it is if nothing is new."""
        manifest = self._features.manifest
        same_limit = manifest.source.limit == fresh.source.limit
        if same_limit and not (self.changes.added or self._items_to_do):
            return manifest
        return replace(
            manifest,
            version=FORMAT_VERSION,
            source=replace(fresh.source, items=self.total),
            created_with=fresh.created_with,
            updates=manifest.updates + (not manifest.updating),
            updating=True,
        )

    def tasks(self) -> Generator[ShardTask]:
        """Yield the work, as it comes in the order of the source."""
        size = self._features.manifest.shard_items
        for index in [index for index, count in sorted(self._items_to_do.items()) if not count]:
            yield self._rewriting(index, [])
        waiting: dict[int, list[Item]] = {}
        new: list[Item] = []
        for item in islice(self._source, self._limit):
            number = self._existing.numbers.get(item.key)
            if number is None:
                new.append(item)
                if len(new) == size:
                    yield self._appending(new)
                    new = []
            elif self._existing.states[number] in _TO_DO:
                index = self._existing.shard_of(number)
                waiting.setdefault(index, []).append(item)
                if len(waiting[index]) == self._items_to_do[index]:
                    yield self._rewriting(index, waiting.pop(index))
        if new:
            yield self._appending(new)

    def _rewriting(self, index: int, items: list[Item]) -> ShardTask:
        shard = self._features.manifest.shards[index]
        table = self._features.columns(shard, "key", "sha256")
        contents = dict(zip(table["key"].to_pylist(), table["sha256"].to_pylist(), strict=True))
        relabeled = {
            item.key: item for item in items if self._existing.state_of(item.key) == State.RELABEL
        }
        tracked = [
            self._tracker.track(item, expected=contents.get(item.key), moved=self._moved)
            for item in items
            if item.key not in relabeled
        ]
        return RewriteShard(
            folder=self._features.path,
            shard=shard,
            first_number=self._existing.starts[index],
            existing=self._existing,
            items=tracked,
            relabeled=relabeled,
            changes=self.changes,
        )

    def _appending(self, items: list[Item]) -> ShardTask:
        tracked = [self._tracker.track(item, moved=self._moved) for item in items]
        return AppendItems(folder=self._features.path, items=tracked)

"""Bringing a feature folder up to date with its source: only what has changed is done.

Every item is compared with what the folder knows of its key. First without reading it: if uri and
stamp (length and time of its file) are the same, so is the image. Where they are not, it is read,
and if its content (SHA-256) is the same, its embedding stays. So a copied folder or an archive that
was packed anew is read but not embedded again.

Shards in which something has changed are written anew, under new names, one by one; new images fill
up the last shard and then shards of their own. The folder is consistent after each of them: an
update that was killed is continued by the same command, which finds less to do.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from base.errors import UsageError
from images.items import Item, Source
from serving.embedding.embed import in_batches
from serving.embedding.results import Deleted, EmbeddedImage, Entry, Outcome
from serving.extraction.known_items import Kind, State, known_items
from serving.extraction.run import Task
from serving.extraction.tracked_item import Stamper, Thumbnailer, Tracked
from serving.features.manifest import Manifest, Shard
from serving.features.reader import Features
from serving.features.shards import numbers_of, write_shard

STAMP_THREADS = 8  # a network's file system answers many at once
STAMP_ITEMS = 1024

_WORK = (State.NOTE, State.COMPARE, State.EMBED)


@dataclass
class Changes:
    """What an update found and did.

    Attributes:
        added: images that the folder did not know.
        changed: images to look at again: their file, label or place changed, or they were refused.
        same: those of them whose content turned out to be the same.
        kept: images that were not looked at.
        deleted: images that are no longer there.
    """

    added: int = 0
    changed: int = 0
    same: int = 0
    kept: int = 0
    deleted: int = 0


class Update:
    """An update that is planned; `tasks` are its work.

    Attributes:
        items: of the source.
        changes: how much of what; `same` grows as the work goes on.
        needed: whether there is anything to do.
        unread: items that need not be read.
        refused: images that stay refused without being looked at.
    """

    def __init__(
        self,
        features: Features,
        source: Source,
        *,
        limit: int | None,
        thumbnail: Thumbnailer | None = None,
        at_once: bool = False,
    ) -> None:
        self._features = features
        self._source = source
        self._limit = limit
        self._thumbnail = thumbnail
        self._at_once = at_once
        self._stamper = Stamper()
        self._known = known_items(features)
        self.items = 0
        self.changes = Changes()
        self.refused = 0
        self._compare()
        new = self.changes.added
        self._work = self._count()
        self.unread = self.changes.kept + sum(state == State.NOTE for state in self._known.states)
        self.needed = bool(new or self._work)

    def _compare(self) -> None:
        known, met = self._known, 0
        for item, stamp in self._stamped():
            self.items += 1
            number = known.numbers.get(item.key)
            if number is None:
                self.changes.added += 1
            else:
                met += 1
                known.states[number] = known.state_of(number, item, stamp)
        if known.numbers and not met:
            raise UsageError(
                f"{self._features.path} holds features of {self._features.manifest.source.name}; "
                f"none of their keys is in {self._source.name}. Give the same source, or extract "
                "into another folder"
            )

    def _stamped(self) -> Iterator[tuple[Item, str | None]]:
        with ThreadPoolExecutor(STAMP_THREADS, "stamp") as pool:
            chunks = in_batches(islice(self._source, self._limit), STAMP_ITEMS * STAMP_THREADS)
            for chunk in chunks:
                lists = list(in_batches(chunk, STAMP_ITEMS))
                for items, stamps in zip(lists, pool.map(self._stamps, lists), strict=True):
                    yield from zip(items, stamps, strict=True)

    def _stamps(self, items: list[Item]) -> list[str | None]:
        return [self._stamper(item.uri) for item in items]

    def _count(self) -> "Counter[int]":
        """How many items of each shard are work; a shard of which some are only gone has 0."""
        known, work, changes = self._known, Counter[int](), self.changes
        for number, (state, kind) in enumerate(zip(known.states, known.kinds, strict=True)):
            if state in _WORK:
                work[known.shard_of(number)] += 1
                changes.changed += kind != Kind.DELETED
                changes.added += kind == Kind.DELETED
            elif state == State.KEEP:
                changes.kept += 1
                self.refused += kind == Kind.REFUSED
            elif kind != Kind.DELETED:
                work[known.shard_of(number)] += 0
                changes.deleted += 1
        return work

    def tasks(self) -> Generator[Task]:
        """Yield the work, as it comes in the order of the source."""
        shards = self._features.manifest.shards
        size = self._features.manifest.shard_items
        for index in [index for index, count in sorted(self._work.items()) if not count]:
            yield self._rewriting(shards[index], [])
        waiting: dict[int, list[Item]] = {}
        fresh: list[Item] = []
        for item in islice(self._source, self._limit):
            number = self._known.numbers.get(item.key)
            if number is None:
                fresh.append(item)
                if len(fresh) == size:
                    yield self._appending(fresh)
                    fresh = []
            elif self._known.states[number] in _WORK:
                index = self._known.shard_of(number)
                waiting.setdefault(index, []).append(item)
                if len(waiting[index]) == self._work[index]:
                    yield self._rewriting(shards[index], waiting.pop(index))
        if fresh:
            yield self._appending(fresh)

    def _rewriting(self, shard: Shard, items: list[Item]) -> Task:
        table = self._features.columns(shard, "key", "sha256")
        contents = dict(zip(table["key"].to_pylist(), table["sha256"].to_pylist(), strict=True))
        noted = {item.key: item for item in items if self._state(item.key) == State.NOTE}
        tracked = [
            self._tracked(item, contents.get(item.key)) for item in items if item.key not in noted
        ]
        return Task(tracked, partial(self._rewrite, shard, tracked, noted))

    def _appending(self, items: Iterable[Item]) -> Task:
        tracked = [self._tracked(item, None) for item in items]
        return Task(tracked, partial(self._append, tracked))

    def _tracked(self, item: Item, expected: str | None) -> Tracked:
        return Tracked(
            item,
            self._stamper,
            expected=expected,
            thumbnail=self._thumbnail,
            at_once=self._at_once,
        )

    def _state(self, key: str) -> int:
        return self._known.states[self._known.numbers[key]]

    def _rewrite(
        self,
        shard: Shard,
        tracked: list[Tracked],
        noted: dict[str, Item],
        manifest: Manifest,
        outcomes: list[Outcome],
    ) -> tuple[Manifest, Shard, Shard | None]:
        """Write a shard anew with what has become of its items."""
        fresh = {entry.key: (entry, out) for entry, out in zip(tracked, outcomes, strict=True)}
        features = Features(self._features.path, manifest)
        if self._is_as_it_was(features, shard, fresh):
            return manifest, shard, None
        deleted = [row for row in features.deleted(shard) if row.key not in fresh]
        back = [row.key for row in features.deleted(shard) if row.key in fresh]
        entries: list[Entry] = []
        for old in features.entries(shard):
            key = old.outcome.key
            if key in fresh:
                entries.append(self._renewed(old, *fresh[key]))
            elif self._state(key) == State.GONE:
                deleted.append(_gone(old.outcome))
            else:
                entries.append(_noted(old, noted.get(key)))
        entries += [fresh[key][0].entry(fresh[key][1]) for key in back]
        return self._exchange(manifest, shard, entries, deleted)

    def _is_as_it_was(
        self, features: Features, shard: Shard, fresh: dict[str, tuple[Tracked, Outcome]]
    ) -> bool:
        """Whether all there was to do was to try unreadable images again, in vain."""
        number = self._features.manifest.shards.index(shard)
        first = self._known.starts[number]
        states = self._known.states[first : first + shard.items]
        if any(state in (State.GONE, State.NOTE, State.COMPARE) for state in states):
            return False
        refused = {entry.outcome.key: entry for entry in features.refused(shard)}
        return all(refused.get(key) == tried.entry(out) for key, (tried, out) in fresh.items())

    def _renewed(self, old: Entry, tracked: Tracked, outcome: Outcome) -> Entry:
        if not tracked.unchanged:
            return tracked.entry(outcome)
        self.changes.same += 1
        kept = replace(old.outcome, uri=tracked.item.uri)
        if isinstance(kept, EmbeddedImage):
            kept = replace(kept, label=tracked.item.label)
        return replace(old, outcome=kept, stamp=tracked.stamp)

    def _append(
        self, tracked: list[Tracked], manifest: Manifest, outcomes: list[Outcome]
    ) -> tuple[Manifest, Shard, Shard | None]:
        """Fill up the last shard with new items, or make one of them."""
        entries = [entry.entry(out) for entry, out in zip(tracked, outcomes, strict=True)]
        last = manifest.shards[-1] if manifest.shards else None
        if last is not None and last.items + len(entries) <= manifest.shard_items:
            features = Features(self._features.path, manifest)
            whole = features.entries(last) + entries
            return self._exchange(manifest, last, whole, features.deleted(last))
        number = max((numbers_of(shard.file)[0] + 1 for shard in manifest.shards), default=0)
        shard = write_shard(self._features.path, manifest, number, entries)
        shard = replace(shard, first_item=sum(other.items for other in manifest.shards))
        return replace(manifest, shards=(*manifest.shards, shard)), shard, None

    def _exchange(
        self, manifest: Manifest, shard: Shard, entries: list[Entry], deleted: list[Deleted]
    ) -> tuple[Manifest, Shard, Shard]:
        number, generation = numbers_of(shard.file)
        path = self._features.path
        renewed = write_shard(
            path, manifest, number, entries, generation=generation + 1, deleted=deleted
        )
        return manifest.exchanged(shard.file, renewed), renewed, shard


def _gone(outcome: Outcome) -> Deleted:
    sha256 = outcome.sha256 if isinstance(outcome, EmbeddedImage) else None
    return Deleted(outcome.key, outcome.uri, sha256)


def _noted(old: Entry, item: Item | None) -> Entry:
    if item is None or not isinstance(old.outcome, EmbeddedImage):
        return old
    return replace(old, outcome=replace(old.outcome, label=item.label))

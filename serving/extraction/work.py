"""The work of an extraction once its folder is open: the tasks of a run, and what follows them."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from base.errors import ArtifactError, LookalikeError
from serving.extraction.run import FIRST_REFUSED, Engine, Progress, Run, Task
from serving.extraction.tracked_item import Stamper, Thumbnailer, Tracked
from serving.extraction.update import Changes, Update
from serving.features.arrays import arrays_are_whole, write_arrays
from serving.features.manifest import FORMAT_VERSION, Manifest, Shard
from serving.features.reader import Features
from serving.features.shards import items_digest, write_shard

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from export.encoder_file.encoder_file import Encoder
    from images.items import Source
    from serving.embedding.embed import Seconds
    from serving.embedding.results import Outcome, RefusedImage
    from serving.extraction.collection_sink import Collected, Into


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
        changes: what an update found; None where there was none.
        collected: what went into a collection; None where none was given.
        first_refused: the first of the refused.
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
    collected: Collected | None = None
    first_refused: list[RefusedImage] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for JSON."""
        return {**asdict(self), "out": str(self.out)}


@dataclass(frozen=True)
class Work:
    """What is embedded, how and where to.

    Attributes:
        wanted: what a new folder's manifest would be.
        elsewhere: the engine reads on other machines, and tells no stamps.
        npy: also write one array.
        into: also fill a collection.
        thumbnail: makes one, where the folder has them.
    """

    encoder: Encoder
    source: Source
    folder: Path
    wanted: Manifest
    engine: Engine
    elsewhere: bool
    batch_size: int
    npy: bool
    into: Into | None
    thumbnail: Thumbnailer | None

    def run(
        self,
        manifest: Manifest,
        *,
        update: bool,
        max_errors: int | None,
        progress: Progress | None,
    ) -> ExtractReport:
        """Finish a folder and say what was done."""
        start = time.perf_counter()
        plan = self._plan(manifest) if update else None
        if plan is not None and plan.needed:
            manifest = replace(
                manifest,
                version=FORMAT_VERSION,
                source=replace(self.wanted.source, items=plan.items),
                created_with=self.wanted.created_with,
                updates=manifest.updates + (not manifest.updating),
                updating=True,
            )
            manifest.write(self.folder)
        done = resumed = sum(shard.items for shard in manifest.shards)
        total = manifest.source.items
        refused = manifest.errors
        tasks = self._unfinished(manifest)
        if plan is not None:
            done, resumed = plan.unread, plan.changes.kept
            total, refused = plan.items, plan.refused
            tasks = plan.tasks()
        run = Run(
            self.encoder,
            self.folder,
            manifest,
            engine=self.engine,
            refused=refused,
            max_errors=max_errors,
            listener=None if self.into is None else self.into.take,
            progress=progress,
        )
        with closing(tasks):
            run.carry_out(tasks, self.batch_size, done=done, total=total)
        manifest = self._finished(run.manifest)
        return self._report(start, manifest, run, resumed, plan.changes if plan else None)

    def _finished(self, manifest: Manifest) -> Manifest:
        """Return what is made of the shards once they are all there."""
        done = replace(manifest, updating=False)
        wanted = self.npy or manifest.arrays is not None
        if wanted and (manifest.updating or not arrays_are_whole(self.folder, manifest)):
            done = replace(done, arrays=write_arrays(self.folder, done))
        if done != manifest:
            done.write(self.folder)
        if self.into is not None:
            self.into.finish(done)
        return done

    def _plan(self, manifest: Manifest) -> Update | None:
        """Return what an update has to do; None where nothing is finished that could be compared."""
        if not manifest.shards:
            return None
        features = Features(self.folder, manifest)
        limit = manifest.source.limit
        return Update(
            features,
            self.source,
            limit=limit,
            thumbnail=self.thumbnail,
            at_once=self.elsewhere,
        )

    def _report(
        self, start: float, manifest: Manifest, run: Run, resumed: int, changes: Changes | None
    ) -> ExtractReport:
        elapsed = time.perf_counter() - start
        total = manifest.source.items
        return ExtractReport(
            out=self.folder,
            items=total,
            rows=manifest.rows,
            refused=manifest.errors,
            resumed=resumed,
            elapsed=elapsed,
            images_per_second=(total - resumed) / elapsed,
            seconds=run.seconds,
            changes=changes,
            collected=self.into.collected if self.into else None,
            first_refused=list(islice(Features(self.folder, manifest).errors(), FIRST_REFUSED)),
        )

    def _unfinished(self, manifest: Manifest) -> Generator[Task]:
        """Yield the shards to be made; the items of the others are only compared."""
        finished = {shard.first_item: shard for shard in manifest.shards}
        remaining = iter(self.source)
        stamper = Stamper()
        total, size = manifest.source.items, manifest.shard_items
        for first in range(0, total, size):
            items = list(islice(remaining, min(size, total - first)))
            if len(items) < min(size, total - first):
                raise LookalikeError(f"{self.source.name} ended after {first + len(items)} items")
            if first not in finished:
                tracked = [
                    Tracked(item, stamper, thumbnail=self.thumbnail, at_once=self.elsewhere)
                    for item in items
                ]
                yield Task(tracked, partial(self._write, first // size, tracked))
            elif items_digest((i.key, i.uri) for i in items) != finished[first].items_sha256:
                raise ArtifactError(
                    f"{self.folder} was begun on other images: items {first} to "
                    f"{first + len(items) - 1} of {self.source.name} are not those it holds; "
                    "bring it up to date with --update, or extract into another folder"
                )

    def _write(
        self, number: int, tracked: list[Tracked], manifest: Manifest, outcomes: list[Outcome]
    ) -> tuple[Manifest, Shard, None]:
        entries = [entry.entry(out) for entry, out in zip(tracked, outcomes, strict=True)]
        shard = write_shard(self.folder, manifest, number, entries)
        return manifest.with_shard(shard), shard, None

"""One run of an extraction over an open feature folder: reader -> worker -> writer.

    plan ──▶ tasks (a shard each) ──▶ batches of items ──▶ engine ──▶ outcomes ──▶ writer thread:
             read here, as needed                                                  shard, manifest,
                                                                                   collection

Tasks are begun in the order of the plan. Finished ones are written one after the other by a thread
of their own; at most one waits while another is written, so memory does not grow with the source.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

from images.items import RefusedImage
from images.sources.passed_over import passed_over
from serving.embedding.embed import in_batches
from serving.embedding.per_item import Seconds
from serving.extraction.report import FIRST_REFUSED, ExtractReport, TooManyRefused
from serving.extraction.resume_plan import ResumePlan
from serving.extraction.tracked_item import ItemTracker, Thumbnailer
from serving.extraction.update_plan import UpdatePlan
from serving.features.arrays import arrays_are_whole, write_arrays
from serving.features.reader import Features

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from base.progress import OnProgress
    from export.encoder_file.encoder_file import Encoder
    from images.items import Item, Source
    from serving.embedding.results import Outcome
    from serving.extraction.collection_sink import CollectionSink
    from serving.extraction.engine import ExtractionEngine
    from serving.extraction.tasks import Plan, ShardTask
    from serving.features.manifest import Manifest, ShardEntry


@dataclass(kw_only=True)
class Extraction:
    """Brings a feature folder to its end. For one call of `run`.

    Attributes:
        encoder: embeds.
        source: the images.
        folder: the feature folder, locked and prepared.
        manifest: the folder's, as it is on the disk.
        engine: embeds with the encoder, here or elsewhere.
        batch_size: images the encoder gets at once.
        npy: also write all embeddings as one array.
        sink: adds each shard to a collection too.
        thumbnailer: makes thumbnails, where the folder has them.
        max_errors: stop when more images than these are refused.
        on_progress: called with the items done and all items.
    """

    encoder: Encoder
    source: Source
    folder: Path
    manifest: Manifest
    engine: ExtractionEngine
    batch_size: int
    npy: bool
    sink: CollectionSink | None
    thumbnailer: Thumbnailer | None
    max_errors: int | None
    on_progress: OnProgress
    _seconds: Seconds = field(default_factory=Seconds, init=False)
    _begun: deque[ShardTask] = field(default_factory=deque, init=False)
    _outcomes: list[Outcome] = field(default_factory=list, init=False)
    _writing: Future[None] | None = field(default=None, init=False)
    _refused: int = field(default=0, init=False)
    _first_refused: list[RefusedImage] = field(default_factory=list, init=False)
    _replaced: list[ShardEntry] = field(default_factory=list, init=False)
    _plan_reads_replaced: bool = field(default=False, init=False)

    def run(self, fresh: Manifest, *, update: bool) -> ExtractReport:
        """Embed what is missing or, for an update, what has changed; finish the folder.

        Args:
            fresh: the manifest that a new folder would get.
            update: compare the source with the folder instead of expecting the same.
        """
        start = time.perf_counter()
        plan = self._plan(fresh, update=update)
        if plan.manifest is not self.manifest:
            self.manifest = plan.manifest
            self.manifest.write(self.folder)
        self._embed(plan)
        self._finish()
        return self._report(plan, time.perf_counter() - start)

    def _plan(self, fresh: Manifest, *, update: bool) -> Plan:
        tracker = ItemTracker(remote=self.engine.remote, thumbnailer=self.thumbnailer)
        if update and self.manifest.shards:  # else there is nothing to compare with
            features = Features(self.folder, self.manifest)
            return UpdatePlan(features=features, source=self.source, fresh=fresh, tracker=tracker)
        return ResumePlan(
            folder=self.folder, manifest=self.manifest, source=self.source, tracker=tracker
        )

    def _embed(self, plan: Plan) -> None:
        """Do all tasks. Leaving, for whatever reason, waits for the shard that is being written."""
        done, self._refused = plan.done, plan.refused
        self._plan_reads_replaced = plan.reads_replaced
        self.on_progress(done, plan.total)
        tasks, writer = plan.tasks(), ThreadPoolExecutor(1, "writer")
        batches = self._read(tasks)
        embedded = self.engine.embed(self.encoder, batches, seconds=self._seconds)
        with closing(tasks), writer, closing(embedded):
            for outcomes in embedded:
                self._write_finished(writer)  # tasks without items
                self._outcomes += outcomes
                done += len(outcomes)
                self._count_refused(outcomes)
                self._write_finished(writer)
                self.on_progress(done, plan.total)
            self._write_finished(writer)
            self._await_writer()

    def _read(self, tasks: Iterator[ShardTask]) -> Iterator[list[Item]]:
        """Yield the items of the tasks; the engine takes them as it needs them."""
        for task in tasks:
            self._begun.append(task)
            yield from in_batches((tracked.item for tracked in task.items), self.batch_size)

    def _count_refused(self, outcomes: list[Outcome]) -> None:
        """Stop where too many are refused; one whose content is known does not count."""
        items = self._begun[0].items[len(self._outcomes) - len(outcomes) : len(self._outcomes)]
        for tracked, outcome in zip(items, outcomes, strict=True):
            if isinstance(outcome, RefusedImage) and not tracked.reused:
                self._refused += 1
                self._first_refused += [outcome][: FIRST_REFUSED - len(self._first_refused)]
        if self.max_errors is not None and self._refused > self.max_errors:
            raise TooManyRefused(self._refused, self.max_errors, self._first_refused)

    def _write_finished(self, writer: ThreadPoolExecutor) -> None:
        """Hand the tasks that have all their outcomes to the writer."""
        while self._begun and len(self._outcomes) == len(self._begun[0].items):
            self._await_writer()
            outcomes, self._outcomes = self._outcomes, []
            self._writing = writer.submit(self._write, self._begun.popleft(), outcomes)

    def _await_writer(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _write(self, task: ShardTask, outcomes: list[Outcome]) -> None:
        """Write a shard, then the manifest that names it; remove what it replaces. In the writer.

        Killed in between, the folder is consistent: what the manifest does not name is not there.
        """
        start = time.perf_counter()
        written = task.write(self.manifest, outcomes)
        written.manifest.write(self.folder)
        self.manifest = written.manifest
        if written.replaced is not None:
            self._replaced.append(written.replaced)
        if not self._plan_reads_replaced:
            self._remove_replaced()
        if self.sink is not None:
            self.sink.add_shard(self.manifest, written.shard)
        self._seconds.write += time.perf_counter() - start

    def _remove_replaced(self) -> None:
        for shard in self._replaced:
            for table in shard.tables:
                (self.folder / table.file).unlink(missing_ok=True)
        self._replaced.clear()

    def _finish(self) -> None:
        """Write what is made of all shards, and note in the manifest that the work is done."""
        finished = replace(self.manifest, updating=False)
        npy = self.npy or finished.arrays is not None
        if npy and (self.manifest.updating or not arrays_are_whole(self.folder, self.manifest)):
            finished = replace(finished, arrays=write_arrays(self.folder, finished))
        if finished != self.manifest:
            finished.write(self.folder)
        self.manifest = finished
        self._remove_replaced()
        if self.sink is not None:
            self.sink.finish(self.manifest)

    def _report(self, plan: Plan, elapsed: float) -> ExtractReport:
        errors = Features(self.folder, self.manifest).errors()
        passed = passed_over(self.source)
        return ExtractReport(
            out=self.folder,
            items=self.manifest.source.items,
            rows=self.manifest.rows,
            refused=self.manifest.errors,
            resumed=plan.resumed,
            elapsed=elapsed,
            images_per_second=(self.manifest.source.items - plan.resumed) / elapsed,
            seconds=self._seconds,
            changes=plan.changes,
            collected=self.sink.changes if self.sink else None,
            first_refused=list(islice(errors, FIRST_REFUSED)),
            passed_over=dict(passed.files.most_common()),
            skipped_folders=passed.folders,
            notes=passed.notes,
        )

"""One run of an extraction: tasks go through the engine, and what comes out is written.

A task is the work on one shard: items to embed, and what to do with the outcomes. The tasks are
begun in their order; finished ones are written by a thread of its own, one behind the other, and
at most one waits while another is written.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from base.errors import LookalikeError
from export.encoder_file.encoder_file import Encoder
from images.items import Item
from serving.embedding.embed import Seconds, in_batches
from serving.embedding.results import Outcome, RefusedImage
from serving.extraction.tracked_item import Tracked
from serving.features.manifest import Manifest, Shard

Engine = Callable[..., Generator[list[Outcome]]]
"""`embed`, or what does the same elsewhere: called with encoder, batches and `seconds`."""

Progress = Callable[[int, int], None]
"""Is called with the items done and all items, each time some are done."""

Listener = Callable[[Manifest, Shard], None]
"""Is called in the writing thread with each shard that the manifest on the disk names."""

FIRST_REFUSED = 20


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


@dataclass(frozen=True)
class Task:
    """The work on one shard.

    Attributes:
        items: to be embedded; may be none.
        write: takes the manifest, and an outcome for each of the items; writes the shard and
            returns the manifest that names it, the shard, and the one whose place it takes.
    """

    items: Sequence[Tracked]
    write: Callable[[Manifest, list[Outcome]], tuple[Manifest, Shard, Shard | None]]


class Run:
    """Carries tasks out.

    Attributes:
        manifest: of the folder, as it is on the disk.
        seconds: where the time went.
        refused: images refused, those of earlier runs included.
    """

    def __init__(
        self,
        encoder: Encoder,
        folder: Path,
        manifest: Manifest,
        *,
        engine: Engine,
        refused: int = 0,
        max_errors: int | None = None,
        listener: Listener | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.manifest = manifest
        self.seconds = Seconds()
        self.refused = refused
        self._encoder = encoder
        self._folder = folder
        self._engine = engine
        self._max_errors = max_errors
        self._listener = listener
        self._progress = progress or (lambda _done, _total: None)
        self._begun: deque[Task] = deque()
        self._outcomes: list[Outcome] = []
        self._first: list[RefusedImage] = []
        self._writer = ThreadPoolExecutor(1, "writer")
        self._written: Future[None] | None = None

    def carry_out(self, tasks: Iterator[Task], batch_size: int, *, done: int, total: int) -> None:
        """Do all tasks. Leaving, for whatever reason, waits for the shard that is being written.

        Args:
            tasks: taken as they are needed.
            batch_size: images the encoder gets at once.
            done: items that need no work any more.
            total: all items.
        """
        self._progress(done, total)
        made = self._engine(self._encoder, self._batches(tasks, batch_size), seconds=self.seconds)
        with self._writer, closing(made):
            for batch in made:
                self._finish_ready()  # tasks without items
                self._outcomes += batch
                done += len(batch)
                self._count(batch)
                self._finish_ready()
                self._progress(done, total)
            self._finish_ready()
            self._await_writer()

    def _batches(self, tasks: Iterator[Task], size: int) -> Iterator[list[Item]]:
        for task in tasks:
            self._begun.append(task)
            yield from in_batches([tracked.item for tracked in task.items], size)

    def _count(self, batch: list[Outcome]) -> None:
        """Stop where too many are refused; an unchanged image is none of them."""
        start = len(self._outcomes) - len(batch)
        for number, outcome in enumerate(batch, start):
            if isinstance(outcome, RefusedImage) and not self._begun[0].items[number].unchanged:
                self.refused += 1
                self._first += [outcome][: FIRST_REFUSED - len(self._first)]
        if self._max_errors is not None and self.refused > self._max_errors:
            raise TooManyRefused(self.refused, self._max_errors, self._first)

    def _finish_ready(self) -> None:
        while self._begun and len(self._outcomes) == len(self._begun[0].items):
            self._await_writer()
            outcomes, self._outcomes = self._outcomes, []
            self._written = self._writer.submit(self._write, self._begun.popleft(), outcomes)

    def _await_writer(self) -> None:
        if self._written is not None:
            self._written.result()

    def _write(self, task: Task, outcomes: list[Outcome]) -> None:
        start = time.perf_counter()
        manifest, shard, replaced = task.write(self.manifest, outcomes)
        manifest.write(self._folder)
        self.manifest = manifest
        for table in replaced.tables if replaced else ():
            (self._folder / table.file).unlink(missing_ok=True)
        if self._listener is not None:
            self._listener(manifest, shard)
        self.seconds.write += time.perf_counter() - start

"""What one service runs on: the encoder behind its batcher, decoding threads, the collection.

Threads, so that nothing blocks the event loop: as many as CPUs, which decode and, where the encoder
is on the CPU too, embed; and a few for the collection. All are bounded, and so is what waits for
them: the batcher admits a request's images before the first is decoded, and a request has no more
of them in the queue than there are threads (and one), so that a large one does not hold up small
ones.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from base.cpus import available_cpus
from export.encoder_file.encoder_file import Encoder, describe, open_encoder
from serving.collection import AnyCollection, Collection, Hit, open_collection
from serving.collection.thumbnails import thumbnails_beside
from serving.http.engine.batcher import Batcher
from serving.http.engine.bento import stored_encoder
from serving.http.engine.embedding import Embedder
from serving.http.engine.thumbnails import Thumbnails
from serving.http.engine.upkeep import Upkeep
from serving.http.engine.warm_up import warm_up
from serving.http.engine.worker import Worker
from serving.http.policy.settings import Settings
from serving.http.request.errors import no_collection
from serving.http.request.fetching import Fetcher
from serving.http.request.in_flight import BytesInFlight
from serving.http.telemetry import access_log, timing
from serving.http.telemetry.memory import give_back, limit_arenas
from serving.http.telemetry.metric_store import OwnFigures
from serving.http.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")
A = TypeVar("A")
COLLECTION_THREADS = 4
GIVING_BACK_SECONDS = 30.0  # between two times that freed memory is given back


class Engine:
    """Opened in three steps: made, `open` (may take seconds, any thread), `start` (on the loop)."""

    def __init__(self, read_settings: Callable[[], Settings], worker: Worker | None = None) -> None:
        self._read_settings = read_settings
        self._worker = worker
        self.metrics = Metrics(worker.figures() if worker else OwnFigures())
        self.warm = False
        self._encoder: Encoder | None = None
        self._single: Encoder | None = None  # the same with one thread, for several batches at once
        self._embedder: Embedder | None = None
        self._collection: AnyCollection | None = None
        self._thumbnails: Thumbnails | None = None
        self.fetcher: Fetcher | None = None
        self._upkeep: Upkeep | None = None
        self._cpus = worker.cpus if worker else available_cpus()
        self._cores = ThreadPoolExecutor(self._cpus, thread_name_prefix="core")
        self._readers = ThreadPoolExecutor(COLLECTION_THREADS, thread_name_prefix="collection")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._tasks: list[asyncio.Task[None]] = []

    @cached_property
    def settings(self) -> Settings:
        """The settings, read when they are first needed."""
        return self._read_settings()

    @cached_property
    def bytes_in_flight(self) -> BytesInFlight:
        """What all requests' bodies hold together."""
        total = BytesInFlight(self.settings.max_bytes_in_flight)
        total.on_change = self.metrics.body_bytes.put
        return total

    def check(self) -> None:
        """Look at what the settings name, without keeping anything open.

        Raises:
            UsageError: a setting or a path is wrong.
            ArtifactError: a file is damaged, or the collection belongs to another encoder.
        """
        settings, digest = self.settings, None
        if settings.encoder is not None:  # one in a bento cannot be wrong, nor be seen from here
            digest = describe(settings.encoder)["sha256"]
        if settings.collection is not None:
            open_collection(settings.collection, encoder_digest=digest, load_index=False).close()

    def open(self) -> None:
        """Open the encoder and the collection; opening twice is fine.

        Raises:
            UsageError: no encoder is named, or a path is wrong.
            ArtifactError: a file is damaged, or the collection belongs to another encoder.
        """
        if self._encoder is not None:
            return
        limit_arenas()
        settings = self.settings
        path = settings.encoder or stored_encoder()
        encoder = open_encoder(path, threads=settings.threads)
        if encoder.provider == "cpu" and encoder.threads > 1:
            self._single = open_encoder(path, threads=1)
        if settings.collection is not None:
            self._collection = open_collection(
                settings.collection,
                encoder_digest=encoder.digest,
                maintain_index=self._worker is None,
            )
            if self._worker is not None and isinstance(self._collection, Collection):
                self._upkeep = Upkeep(
                    self._collection,
                    encoder.digest,
                    maintains=self._worker.slot == 0,
                    on_newer=self._take,
                    grace=settings.request_seconds,
                )
            self._thumbnails = Thumbnails(
                settings.thumbnails or thumbnails_beside(settings.collection),
                encoder.preprocess,
                max_pixels=settings.max_pixels,
            )
        self._encoder = encoder

    async def start(self) -> None:
        """Begins to serve; warms up in the background and sets `warm` when done."""
        settings = self.settings
        if settings.access_log:
            access_log.switch_on()
        if settings.url_prefixes:
            self.fetcher = Fetcher(settings)
        self._embedder = Embedder(
            self.encoder,
            self._single,
            cores=self._cores,
            cpus=self._cpus,
            settings=settings,
            metrics=self.metrics,
        )
        if self._upkeep is not None:
            self._upkeep.start()
        self.batcher.start()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._warm_up(), name="warm-up"),
            loop.create_task(self._keep_small(), name="memory"),
        ]

    async def stop(self) -> None:
        """Finishes what runs and lets go of everything."""
        self.warm = False
        for task in self._tasks:
            task.cancel()
            await asyncio.wait([task])
        if self._embedder is not None:
            await self._embedder.batcher.stop()
        if self.fetcher is not None:
            self.fetcher.close()
        for pool in (self._cores, self._readers, self._writer):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)
        if self._upkeep is not None:
            self._upkeep.close()
        if self._collection is not None:
            self._collection.close()

    def _take(self, collection: Collection) -> None:
        """Search the same collection with a newer index from now on."""
        self._collection = collection

    async def _warm_up(self) -> None:
        largest = min(self.settings.max_batch, self.settings.max_queue)
        try:
            self.batcher.max_batch = await warm_up(self.encoder, self._single, largest)
        except Exception:
            logger.exception("warming up failed: the service stays unready")
            return
        self.warm = True

    async def _keep_small(self) -> None:
        while True:
            self.metrics.note_memory()
            await asyncio.sleep(GIVING_BACK_SECONDS)
            await asyncio.to_thread(give_back)

    @property
    def alive(self) -> bool:
        """Whether requests are being worked on."""
        return self._embedder is not None and self._embedder.batcher.alive

    @property
    def opened(self) -> bool:
        """Whether the encoder is known."""
        return self._encoder is not None

    @property
    def encoder(self) -> Encoder:
        """The open encoder."""
        if self._encoder is None:
            raise RuntimeError("the engine is not open")
        return self._encoder

    @property
    def embedder(self) -> Embedder:
        """What embeds."""
        if self._embedder is None:
            raise RuntimeError("the engine has not started")
        return self._embedder

    @property
    def batcher(self) -> Batcher:
        """The running batcher."""
        return self.embedder.batcher

    @property
    def has_collection(self) -> bool:
        """Whether there is anything to search."""
        return self._collection is not None

    @property
    def collection(self) -> AnyCollection:
        """The collection; raises HttpError where there is none."""
        if self._collection is None:
            raise no_collection()
        return self._collection

    @property
    def thumbnails(self) -> Thumbnails:
        """Small images of the collection's items; raises HttpError where there is none."""
        if self._thumbnails is None:
            raise no_collection()
        return self._thumbnails

    async def count_items(self) -> int | None:
        """Return the collection's size, None where there is none."""
        return None if self._collection is None else await self.in_reader(len, self._collection)

    async def search(
        self,
        vector: NDArray[np.float32],
        k: int,
        *,
        min_score: float | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the word of the HTTP interface
        exact: bool = False,
    ) -> list[Hit]:
        """Return the nearest items of one vector."""
        options: dict[str, Any] = {"min_score": min_score, "filter": filter, "exact": exact}
        hits = await self.searching(partial(self.collection.search, vector[None], k, **options))
        return hits[0]

    async def searching(self, work: Callable[[], T]) -> T:
        """Run a search in one of the collection's threads and notes its time."""
        begun = time.perf_counter()
        found = await self.in_reader(work)
        timing.note("search", time.perf_counter() - begun)
        return found

    async def in_core(self, work: Callable[..., T], *args: Any) -> T:
        """Run work with images in one of the threads that decode and embed."""
        return await asyncio.get_running_loop().run_in_executor(self._cores, work, *args)

    async def in_cores(self, work: Callable[[A], T], images: Sequence[A]) -> list[T]:
        """Return the same for several images, no more of them in the queue than there are threads."""
        turns = asyncio.Semaphore(self._cpus)

        async def one(image: A) -> T:
            async with turns:
                return await self.in_core(work, image)

        return await asyncio.gather(*map(one, images))

    async def in_reader(self, work: Callable[..., T], *args: Any) -> T:
        """Run work with the collection in one of its threads."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work, *args)

    async def in_writer(self, work: Callable[..., T], *args: Any) -> T:
        """Run work that changes the collection, one after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, work, *args)

"""How a service begins and ends.

Threads, so that nothing blocks the event loop: as many as CPUs, which decode and, where the encoder
is on the CPU too, embed (`cores`); and a few for the collection (`collection_access`). All are
bounded, and so is what waits for them: the batcher admits a request's images before the first is
decoded, and a request has no more of them in the queue than there are threads (and one), so that a
large one does not hold up small ones.
"""

import asyncio
from collections.abc import Callable
from functools import cached_property

from base.cpus import available_cpus
from base.descriptors import raise_descriptor_limit
from export.encoder_file.encoder_file import describe
from serving.collection import open_collection
from serving.http.engine.runtime import Runtime, open_runtime
from serving.http.engine.worker import Worker
from serving.http.policy.settings import Settings
from serving.http.telemetry import access_log
from serving.http.telemetry.memory import give_back, limit_arenas
from serving.http.telemetry.metrics import Metrics

GIVING_BACK_SECONDS = 30.0  # between two times that freed memory is given back


class Lifecycle:
    """Opens in three steps: made, `open` (may take seconds, any thread), `start` (on the loop).

    Args:
        read_settings: called once, when they are first needed.
        worker: which of several this process is; None: it is the only one.
    """

    def __init__(self, read_settings: Callable[[], Settings], worker: Worker | None = None) -> None:
        self._read_settings = read_settings
        self._worker = worker
        self._runtime: Runtime | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @cached_property
    def settings(self) -> Settings:
        """The settings, read when they are first needed."""
        return self._read_settings()

    @property
    def runtime(self) -> Runtime:
        """What the routes work with, once it is open."""
        if self._runtime is None:
            raise RuntimeError("the service is not open")
        return self._runtime

    @property
    def alive(self) -> bool:
        """Whether requests are being worked on."""
        return self._runtime is not None and self._runtime.embedder.alive

    @property
    def warm(self) -> bool:
        """Whether the service is ready."""
        return self._runtime is not None and self._runtime.ready

    def check(self) -> str | None:
        """Look at what the settings name, without keeping anything open.

        Returns:
            SHA-256 of the encoder file; None where the encoder is a bento's.

        Raises:
            UsageError: a setting or a path is wrong.
            ArtifactError: a file is damaged, or the collection belongs to another encoder.
        """
        settings = self.settings
        digest: str | None = None
        if settings.encoder is not None:  # one in a bento cannot be wrong, nor be seen from here
            digest = describe(settings.encoder)["sha256"]
        if settings.collection is not None:
            open_collection(settings.collection, encoder_digest=digest, load_index=False).close()
        return digest

    def open(self) -> None:
        """Open the encoder and the collection; opening twice is fine.

        Raises:
            UsageError: no encoder is named, or a path is wrong.
            ArtifactError: a file is damaged, or the collection belongs to another encoder.
        """
        if self._runtime is None:
            raise_descriptor_limit()
            limit_arenas()
            cpus = self._worker.cpus if self._worker else available_cpus()
            self._runtime = open_runtime(self.settings, self._worker, cpus)

    async def start(self) -> None:
        """Begin to serve, and warm up in the background: `warm` is set when that is done."""
        runtime = self.runtime
        if self.settings.access_log:
            access_log.switch_on()
        if runtime.access is not None:
            runtime.access.start()
        runtime.embedder.start()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(runtime.embedder.warm_up(), name="warm-up"),
            loop.create_task(_keep_small(runtime.metrics), name="memory"),
        ]

    async def stop(self) -> None:
        """Finish what runs and release everything."""
        for task in self._tasks:
            task.cancel()
            await asyncio.wait([task])
        if self._runtime is None:
            return
        await self._runtime.embedder.stop()
        if self._runtime.fetcher is not None:
            self._runtime.fetcher.close()
        await self._runtime.cores.stop()
        if self._runtime.access is not None:
            await self._runtime.access.stop()


async def _keep_small(metrics: Metrics) -> None:
    """Note the memory in use from time to time, and give back what was freed."""
    while True:
        metrics.note_memory()
        await asyncio.sleep(GIVING_BACK_SECONDS)
        await asyncio.to_thread(give_back)

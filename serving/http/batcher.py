"""Groups the images of concurrent requests into batches for one encoder.

BentoML's own batching waits up to a latency it guesses, runs cancelled requests and fails a whole
batch for one image. This one:

- never waits: whatever has come while the batches were running is the next batch;
- runs several batches at once, each on a core of its own, and deals the images out evenly: cores
  that share one batch wait for each other. Where fewer images wait than there are cores, and none
  is being embedded, all cores do share it;
- makes batches no larger than pays: `useful_batch` finds out where more at once is no faster;
- takes one image of each request in turn, so that a large request does not hold up small ones;
- admits a bounded number of images and refuses the rest at once, before any work;
- drops images whose request has gone;
- repeats a failed batch one by one, so that only the image at fault fails.

The encoder is called in threads of its own. All else happens on the event loop, without locks.
"""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # [S, S, 3]
Vector = NDArray[np.float32]  # [E]
Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # [N, S, S, 3] -> [N, E]

NEARLY = 1.04
SMOOTHING = 0.2  # weight of the newest batch in the measured rate
LONGEST_RETRY = 60  # seconds


class Overloaded(Exception):  # noqa: N818 - an answer to the caller, not a failure
    """No place for that many images now.

    Attributes:
        retry_after: whole seconds after which the queue is likely to have emptied.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


@dataclass(eq=False, slots=True)
class Waiting:
    """One image that waits for its turn."""

    image: Image
    future: asyncio.Future[Vector]
    lane: "Lane"
    since: float


@dataclass(eq=False, slots=True)
class Lane:
    """One request's images.

    Attributes:
        queued: the longest that one of them waited for its batch, seconds.
        encoding: the longest batch that one of them was in, seconds.
    """

    batcher: "Batcher"
    waiting: deque[Waiting] = field(default_factory=deque)
    queued: float = 0.0
    encoding: float = 0.0

    async def encode(self, image: Image) -> Vector:
        """Embeds uint8 [S, S, 3] to float32 [E]; raises what the encoder raises for it."""
        future: asyncio.Future[Vector] = asyncio.get_running_loop().create_future()
        self.waiting.append(Waiting(image, future, self, time.perf_counter()))
        self.batcher.enter(self)
        return await future


class Batcher:
    """The queue in front of one encoder. Make and use it on one event loop.

    Args:
        encode: uint8 [N, S, S, 3] to float32 [N, E]; called from several threads at a time.
        max_batch: the most images of one call.
        max_admitted: the most images admitted at once.
        streams: the most calls at a time.
        alone: the same, faster for a call that is the only one; None: there is no such thing.
    """

    def __init__(
        self,
        encode: Encode,
        *,
        max_batch: int,
        max_admitted: int,
        streams: int = 1,
        alone: Encode | None = None,
    ) -> None:
        self.max_batch = max_batch
        self.max_admitted = max_admitted
        self.admitted = 0
        self.on_admitted: Callable[[int], None] = lambda _images: None
        self.on_batch: Callable[[int, float], None] = lambda _images, _seconds: None
        self._encode = encode
        self._alone = alone
        self._streams = streams
        self._lanes: deque[Lane] = deque()
        self._filled = asyncio.Event()
        self._threads = ThreadPoolExecutor(streams, thread_name_prefix="encode")
        self._free = asyncio.Semaphore(streams)
        self._running = 0
        self._seconds_per_image = 0.0
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def alive(self) -> bool:
        """Whether queued images will be embedded."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begins to work; images may have been queued before."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="batcher")

    async def stop(self) -> None:
        """Finishes the running batches and stops; images still waiting are cancelled."""
        self._stopping = True
        self._filled.set()
        if self._task is not None:
            await self._task
        for lane in self._lanes:
            for one in lane.waiting:
                one.future.cancel()
        await asyncio.to_thread(self._threads.shutdown)

    @contextlib.contextmanager
    def admit(self, images: int) -> Iterator[Lane]:
        """Reserves places for one request, from before its images are decoded until it is done.

        Raises:
            Overloaded: there are not that many places now.
        """
        if self.admitted + images > self.max_admitted:
            raise Overloaded(self._retry_after())
        self.admitted += images
        self.on_admitted(self.admitted)
        try:
            yield Lane(self)
        finally:
            self.admitted -= images
            self.on_admitted(self.admitted)

    def enter(self, lane: Lane) -> None:
        """Puts a lane in the round, if it is not in it."""
        if len(lane.waiting) == 1:
            self._lanes.append(lane)
        self._filled.set()

    def _retry_after(self) -> int:
        return min(LONGEST_RETRY, max(1, math.ceil(self.admitted * self._seconds_per_image)))

    def _take(self, most: int) -> list[Waiting]:
        """The next batch: one image of each lane in turn, skipping those given up."""
        batch: list[Waiting] = []
        while self._lanes and len(batch) < most:
            lane = self._lanes.popleft()
            one = lane.waiting.popleft()
            if lane.waiting:
                self._lanes.append(lane)
            if not one.future.done():
                batch.append(one)
        return batch

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as batches:
            while True:
                await self._filled.wait()
                await self._free.acquire()
                if self._stopping:
                    return
                waiting = sum(len(lane.waiting) for lane in self._lanes)
                encode, share = self._encode, -(-waiting // (self._streams - self._running))
                if self._alone is not None and not self._running and waiting < self._streams:
                    encode, share = self._alone, waiting
                if batch := self._take(min(share, self.max_batch)):
                    self._running += 1
                    batches.create_task(self._run_batch(batch, encode))
                else:
                    self._filled.clear()
                    self._free.release()

    async def _run_batch(self, batch: list[Waiting], encode: Encode) -> None:
        try:
            await self._encode_batch(batch, encode)
        finally:
            self._running -= 1
            self._free.release()

    async def _encode_batch(self, batch: list[Waiting], encode: Encode) -> None:
        images = [one.image for one in batch]
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        try:
            vectors = await loop.run_in_executor(self._threads, _encoded, encode, images)
        except Exception as error:  # noqa: BLE001 - whatever it was, it belongs to these requests
            if len(batch) == 1:
                _settle(batch[0].future, error)
                return
            for one in batch:
                await self._encode_batch([one], encode)
            return
        seconds = time.perf_counter() - started
        self._note(len(batch), seconds)
        for one, vector in zip(batch, vectors, strict=True):
            one.lane.queued = max(one.lane.queued, started - one.since)
            one.lane.encoding = max(one.lane.encoding, seconds)
            _settle(one.future, vector)

    def _note(self, images: int, seconds: float) -> None:
        newest = seconds / images / self._running
        known = self._seconds_per_image or newest
        self._seconds_per_image = (1 - SMOOTHING) * known + SMOOTHING * newest
        self.on_batch(images, seconds)


def _encoded(encode: Encode, images: list[Image]) -> NDArray[np.float32]:
    vectors = encode(np.stack(images))
    if len(vectors) != len(images):
        raise ValueError(f"the encoder made {len(vectors)} embeddings of {len(images)} images")
    return vectors


def useful_batch(seconds: Mapping[int, float]) -> int:
    """The smallest batch that is as fast for an image as the best one, or nearly.

    Args:
        seconds: of one batch, by its images.
    """
    least = min(took / images for images, took in seconds.items())
    return min(n for n, took in seconds.items() if took / n <= NEARLY * least)


def _settle(future: asyncio.Future[Vector], outcome: Vector | Exception) -> None:
    if future.done():  # its request has gone meanwhile
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)

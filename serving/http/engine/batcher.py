"""Group the images of concurrent requests into batches for one encoder.

BentoML's own batching waits up to a latency it guesses, runs cancelled requests and fails a whole
batch for one image. This one:

- never waits: whatever has arrived when a thread is free is the next batch;
- runs several batches at once, each on a core of its own, and deals the images out evenly: cores
  that share one batch wait for each other. Where there is no other work, and fewer images wait than
  there are cores, all cores do share them;
- takes its turn in a pool of threads that may do other work too, such as decoding: no more threads
  than cores run, and while a batch waits for its turn it grows;
- makes batches no larger than pays: `useful_batch` finds the size beyond which no image is faster;
- takes one image of each request in turn, so that a large request does not hold up small ones;
- admits a bounded number of images and refuses the rest at once, before any work;
- drops images whose request has gone;
- repeats a failed batch one by one, so that only the image at fault fails.

Waiting images are taken in the pool's threads, under a lock. All else happens on the event loop.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # [S, S, C]
Vector = NDArray[np.float32]  # [E]
Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # [N, S, S, C] -> [N, E]

NEARLY = 1.04
HANDLING = 0.004  # seconds a batch costs beside the encoder's: threads hand over, caches refill
SMOOTHING = 0.2  # weight of the newest batch in the measured rate
LONGEST_RETRY = 60  # seconds


class Overloaded(Exception):  # noqa: N818 - an answer to the caller, not a failure
    """There is no room for that many images now.

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
        """Embeds uint8 [S, S, C] to float32 [E]; raises what the encoder raises for it."""
        future: asyncio.Future[Vector] = asyncio.get_running_loop().create_future()
        self.batcher.enter(Waiting(image, future, self, time.perf_counter()))
        return await future


@dataclass(frozen=True, slots=True)
class Done:
    """One embedded batch; begun and ended by `time.perf_counter`."""

    batch: list[Waiting]
    outcomes: "list[Vector | Exception]"
    begun: float
    ended: float


class Batcher:
    """The queue in front of one encoder. Make and use it on one event loop.

    Args:
        encode: uint8 [N, S, S, C] to float32 [N, E]; called from several threads at a time.
        max_batch: the most images of one call.
        max_admitted: the most images admitted at once.
        streams: the most calls at a time.
        alone: the same, faster for a call that is the only one; None: `encode` takes those too.
        pool: its threads make the calls; it stays open. None: threads of its own.
        deals: in how many rounds what waits is dealt out to the streams; more than one where short
            batches are as fast: newcomers have less to wait for.
    """

    def __init__(
        self,
        encode: Encode,
        *,
        max_batch: int,
        max_admitted: int,
        streams: int = 1,
        alone: Encode | None = None,
        pool: Executor | None = None,
        deals: int = 1,
    ) -> None:
        self.max_batch = max_batch
        self.max_admitted = max_admitted
        self.admitted = 0
        self.on_admitted: Callable[[int], None] = lambda _images: None
        self.on_batch: Callable[[int, float], None] = lambda _images, _seconds: None
        self._encode = encode
        self._alone = alone
        self._streams = streams
        self._deals = deals
        self._pool = pool or ThreadPoolExecutor(streams, thread_name_prefix="encode")
        self._closes_pool = pool is None
        self._lock = threading.Lock()  # of the lanes and of the next two
        self._lanes: deque[Lane] = deque()
        self._offered = False  # a turn waits in the pool
        self._running = 0
        self._turns: set[asyncio.Future[Done]] = set()
        self._seconds_per_image = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None  # while it works

    @property
    def alive(self) -> bool:
        """Whether queued images will be embedded."""
        return self._loop is not None

    def start(self) -> None:
        """Begin to work; images may have been queued before."""
        self._loop = asyncio.get_running_loop()
        self._offer()

    async def stop(self) -> None:
        """Finish the running batches and stop; images still waiting are cancelled."""
        self._loop = None
        with self._lock:
            for lane in self._lanes:
                for one in lane.waiting:
                    one.future.cancel()
        if self._turns:
            await asyncio.wait(self._turns)
        if self._closes_pool:
            await asyncio.to_thread(self._pool.shutdown)

    @contextlib.contextmanager
    def admit(self, images: int) -> Iterator[Lane]:
        """Reserve room for one request, from before its images are decoded until it is done.

        Raises:
            Overloaded: there is not that much room now.
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

    def enter(self, one: Waiting) -> None:
        """Queue an image, and its lane in the round."""
        with self._lock:
            one.lane.waiting.append(one)
            if len(one.lane.waiting) == 1:
                self._lanes.append(one.lane)
        self._offer()

    def _retry_after(self) -> int:
        return min(LONGEST_RETRY, max(1, math.ceil(self.admitted * self._seconds_per_image)))

    def _offer(self) -> None:
        """Ask the pool for a turn, where one would be used and none is pending."""
        with self._lock:
            useful = bool(self._lanes) and not self._offered and self._running < self._streams
            if self._loop is None or not useful:
                return
            self._offered = True
        self._loop.call_soon(self._ask)  # not now: more may come in this round of the loop

    def _ask(self) -> None:
        if self._loop is not None:
            turn = self._loop.run_in_executor(self._pool, self._turn, self._loop)
            self._turns.add(turn)
            turn.add_done_callback(self._end)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> Done:
        """Take a batch and embed it, in one of the pool's threads."""
        with self._lock:
            self._offered = False
            waiting = sum(len(lane.waiting) for lane in self._lanes)
            hands = self._deals * (self._streams - self._running)
            encode, share = self._encode, -(-waiting // hands)
            if self._alone is not None and self.admitted == waiting < self._streams:
                encode, share = self._alone, waiting
            batch = self._take(min(share, self.max_batch))
            self._running += 1
            left = bool(self._lanes) and self._running < self._streams
        if left:
            loop.call_soon_threadsafe(self._offer)  # for another core
        begun = time.perf_counter()
        try:
            outcomes = _outcomes(encode, [one.image for one in batch])
        finally:
            with self._lock:
                self._running -= 1
        return Done(batch, outcomes, begun, time.perf_counter())

    def _take(self, most: int) -> list[Waiting]:
        """Return the next batch: one image of each lane in turn, without those given up."""
        batch: list[Waiting] = []
        while self._lanes and len(batch) < most:
            lane = self._lanes.popleft()
            one = lane.waiting.popleft()
            if lane.waiting:
                self._lanes.append(lane)
            if not one.future.done():
                batch.append(one)
        return batch

    def _end(self, turn: "asyncio.Future[Done]") -> None:
        """Offer the next turn and settle a batch; a fault of our own ends it all: see `alive`."""
        self._turns.discard(turn)
        self._offer()
        try:
            self._settle(turn.result())
        except BaseException:
            self._loop = None
            raise

    def _settle(self, done: Done) -> None:
        if not done.batch:  # all that waited had been given up
            return
        seconds = done.ended - done.begun
        newest = seconds / len(done.batch) / (self._running + 1)
        average = self._seconds_per_image or newest
        self._seconds_per_image = (1 - SMOOTHING) * average + SMOOTHING * newest
        self.on_batch(len(done.batch), seconds)
        for one, outcome in zip(done.batch, done.outcomes, strict=True):
            one.lane.queued = max(one.lane.queued, done.begun - one.since)
            one.lane.encoding = max(one.lane.encoding, seconds)
            if one.future.done():  # its request has gone meanwhile
                continue
            if isinstance(outcome, Exception):
                one.future.set_exception(outcome)
            else:
                one.future.set_result(outcome)


def _outcomes(encode: Encode, images: list[Image]) -> "list[Vector | Exception]":
    """Return the outcome of each image; those of a batch that failed are tried one by one."""
    if not images:
        return []
    try:
        return list(_encoded(encode, images))
    except Exception as error:  # noqa: BLE001 - any error belongs to these requests
        if len(images) == 1:
            return [error]
        return [outcome for image in images for outcome in _outcomes(encode, [image])]


def _encoded(encode: Encode, images: list[Image]) -> NDArray[np.float32]:
    vectors = encode(np.stack(images))
    if len(vectors) != len(images):
        raise ValueError(f"the encoder made {len(vectors)} embeddings of {len(images)} images")
    return vectors


def useful_batch(seconds: Mapping[int, float]) -> int:
    """Return the smallest batch that is as fast for an image as the best one, or nearly.

    Args:
        seconds: of one batch, by its images.
    """
    each = {images: (took + HANDLING) / images for images, took in seconds.items()}
    return min(images for images, took in each.items() if took <= NEARLY * min(each.values()))

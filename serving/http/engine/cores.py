"""Threads for work with images: one for each CPU; and a bound on the memory of what they decode.

An image's file says little about its size: 4 KB may unfold to a gigabyte. Images of a few million
pixels are decoded at once; larger ones wait until there is room for them beside the others that are
being decoded, in the order in which they came, and no thread waits with them.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from base.errors import ImageRefused, RefusalReason
from images.pixels.decoding_memory import NeedsMemory, at_most
from serving.http.engine.batcher import Overloaded

A = TypeVar("A")
T = TypeVar("T")
SMALL = 32 * 2**20  # bytes: 4 million pixels
MAX_WAITING = 32  # large images
WAITING_SECONDS = 5


class Cores:
    """Decodes and, where the encoder is on the CPU too, embeds.

    Attributes:
        count: how many threads there are.
        pool: the threads.

    Args:
        count: of threads.
        decode_bytes: what large images may take together while they are decoded.
    """

    def __init__(self, count: int, decode_bytes: int) -> None:
        self.count = count
        self.pool = ThreadPoolExecutor(count, thread_name_prefix="core")
        self._room = _Room(decode_bytes)

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Run work in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *args)

    async def decode(self, work: Callable[..., T], *args: Any) -> T:
        """Run work that decodes images, when there is room for them.

        Raises:
            ImageRefused: there is never as much room as one of them needs.
            Overloaded: many others wait for room already.
        """

        def limited(size: int) -> T:
            with at_most(size):
                return work(*args)

        size = SMALL
        try:
            return await self.run(limited, size)
        except NeedsMemory as needed:
            size = needed.size
        while True:  # once, unless the work decodes several images
            await self._room.enter(size)
            try:
                return await asyncio.wrap_future(self._leaving(size, limited))
            except NeedsMemory as needed:
                size = needed.size

    def _leaving(self, size: int, limited: Callable[[int], T]) -> Future[T]:
        """Begin work that has room; the room is free when it ends, even if nobody waits for it."""
        loop = asyncio.get_running_loop()
        work = self.pool.submit(limited, size)
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._room.leave, size))
        return work

    async def each(self, work: Callable[[A], Awaitable[T]], images: Sequence[A]) -> list[T]:
        """Do the same with several images, with no more at once than there are threads."""
        turns = asyncio.Semaphore(self.count)

        async def one(image: A) -> T:
            async with turns:
                return await work(image)

        return await asyncio.gather(*map(one, images))

    async def stop(self) -> None:
        """Finish what runs and end the threads; what waits for one is cancelled."""
        await asyncio.to_thread(self.pool.shutdown, cancel_futures=True)


class _Room:
    """A semaphore of bytes, first come, first served; used on one event loop only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, size: int) -> None:
        """Wait for room and take it.

        Raises:
            ImageRefused: there is never so much.
            Overloaded: many others wait already.
        """
        if size > self._limit:
            message = f"decoding it takes {size:,} bytes, {self._limit:,} are allowed"
            remedy = "scale it down, or allow more (LOOKALIKE_MAX_DECODE_BYTES)"
            raise ImageRefused(RefusalReason.TOO_MANY_PIXELS, f"{message}; {remedy}")
        if not self._waiting and self._held + size <= self._limit:
            self._held += size
            return
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded(WAITING_SECONDS)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had just got the room
                self.leave(size)
            else:
                self._admit()  # those behind it may fit
            raise

    def leave(self, size: int) -> None:
        """Give room back."""
        self._held -= size
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.done() and self._held + size > self._limit:
                return
            self._waiting.popleft()
            if not turn.done():
                self._held += size
                turn.set_result(None)

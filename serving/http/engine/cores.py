"""Threads for work with images: one for each CPU."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

A = TypeVar("A")
T = TypeVar("T")


class Cores:
    """Decodes and, where the encoder is on the CPU too, embeds.

    Attributes:
        count: how many threads there are.
        pool: the threads.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.pool = ThreadPoolExecutor(count, thread_name_prefix="core")

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Run work in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *args)

    async def map(self, work: Callable[[A], T], images: Sequence[A]) -> list[T]:
        """Run the same work on several images, queueing no more of them than there are threads."""
        turns = asyncio.Semaphore(self.count)

        async def one(image: A) -> T:
            async with turns:
                return await self.run(work, image)

        return await asyncio.gather(*map(one, images))

    async def stop(self) -> None:
        """Finish what runs and end the threads; what waits for one is cancelled."""
        await asyncio.to_thread(self.pool.shutdown, cancel_futures=True)

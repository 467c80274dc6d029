"""Threads for work with images."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from base.errors import ImageRefused
from images.pixels.decoding_memory import check_memory
from serving.http.engine.batcher import Overloaded
from serving.http.engine.cores import MAX_WAITING, SMALL, Cores


def test_results_come_in_the_order_of_the_images() -> None:
    async def main() -> list[int]:
        cores = Cores(2, SMALL)
        try:
            return await cores.each(partial(cores.decode, lambda image: image * 10), range(20))
        finally:
            await cores.stop()

    assert asyncio.run(main()) == [image * 10 for image in range(20)]


def test_a_request_queues_no_more_images_than_there_are_threads() -> None:
    """While the images of a large request wait, a small one is served between them."""
    order: list[str] = []
    gate = threading.Event()

    def work(name: str) -> None:
        assert gate.wait(10)
        order.append(name)

    async def main() -> None:
        cores = Cores(1, SMALL)
        large = asyncio.create_task(
            cores.each(partial(cores.decode, work), [f"large {n}" for n in range(5)])
        )
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # its first image runs
        small = asyncio.create_task(cores.run(work, "small"))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(large, small)
        await cores.stop()

    asyncio.run(main())
    assert order.index("small") == 1


def test_what_fails_is_raised() -> None:
    def fail(_image: int) -> None:
        raise ValueError("seven")

    async def main() -> None:
        cores = Cores(2, SMALL)
        try:
            await cores.each(partial(cores.decode, fail), [7])
        finally:
            await cores.stop()

    with pytest.raises(ValueError, match="seven"):
        asyncio.run(main())


class Decoder:
    """Says how much memory it needs, and notes how much was in use at most."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.held = self.most = 0
        self.begun, self.gate = threading.Event(), threading.Event()

    def decode(self, size: int) -> int:
        check_memory(size)
        with self.lock:
            self.held += size
            self.most = max(self.most, self.held)
        self.begun.set()
        assert self.gate.wait(10)
        time.sleep(0.001)
        with self.lock:
            self.held -= size
        return size


def with_room(sizes: int, run: Callable[[Cores, Decoder], Awaitable[None]]) -> Decoder:
    decoder = Decoder()

    async def main() -> None:
        cores = Cores(4, sizes * SMALL)
        try:
            await run(cores, decoder)
        finally:
            decoder.gate.set()
            await cores.stop()

    asyncio.run(main())
    return decoder


def test_large_images_wait_for_room() -> None:
    async def run(cores: Cores, decoder: Decoder) -> None:
        decoder.gate.set()
        sizes = [2 * SMALL, 3 * SMALL, SMALL + 1, 4 * SMALL] * 5
        assert await asyncio.gather(*(cores.decode(decoder.decode, n) for n in sizes)) == sizes

    assert 0 < with_room(4, run).most <= 4 * SMALL


def test_small_images_do_not_wait_for_large_ones() -> None:
    async def run(cores: Cores, decoder: Decoder) -> None:
        large = [asyncio.create_task(cores.decode(decoder.decode, 2 * SMALL)) for _ in range(6)]
        assert await cores.decode(lambda: 7) == 7
        assert not any(one.done() for one in large)
        decoder.gate.set()
        await asyncio.gather(*large)

    with_room(2, run)


def test_what_never_fits_is_refused_and_what_waits_is_bounded() -> None:
    async def run(cores: Cores, decoder: Decoder) -> None:
        with pytest.raises(ImageRefused, match="LOOKALIKE_MAX_DECODE_BYTES"):
            await cores.decode(decoder.decode, 2 * SMALL + 1)
        spare = 9
        tasks = [
            asyncio.create_task(cores.decode(decoder.decode, 2 * SMALL))
            for _ in range(1 + MAX_WAITING + spare)
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        await asyncio.sleep(0.1)  # more of them come to the room
        decoder.gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [one for one in outcomes if isinstance(one, Overloaded)]
        assert 0 < len(refused) <= spare
        assert outcomes.count(2 * SMALL) + len(refused) == len(tasks)

    with_room(2, run)


def test_room_is_given_back_by_what_was_given_up() -> None:
    async def run(cores: Cores, decoder: Decoder) -> None:
        tasks = [asyncio.create_task(cores.decode(decoder.decode, 2 * SMALL)) for _ in range(5)]
        assert await asyncio.to_thread(decoder.begun.wait, 10)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        waiting = asyncio.create_task(cores.decode(decoder.decode, 2 * SMALL))
        await asyncio.sleep(0.01)
        assert decoder.held == 2 * SMALL  # the first one still runs
        decoder.gate.set()
        assert await waiting == 2 * SMALL

    assert with_room(2, run).most == 2 * SMALL

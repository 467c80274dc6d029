"""Threads for work with images."""

import asyncio
import threading

import pytest

from serving.http.engine.cores import Cores


def test_results_come_in_the_order_of_the_images() -> None:
    async def main() -> list[int]:
        cores = Cores(2)
        try:
            return await cores.map(lambda image: image * 10, range(20))
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
        cores = Cores(1)
        large = asyncio.create_task(cores.map(work, [f"large {n}" for n in range(5)]))
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
        cores = Cores(2)
        try:
            await cores.map(fail, [7])
        finally:
            await cores.stop()

    with pytest.raises(ValueError, match="seven"):
        asyncio.run(main())

"""The micro-batcher's promises, with an encoder whose pace the test sets."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.http.engine.batcher import Batcher, Overloaded


def image(value: int) -> NDArray[np.uint8]:
    return np.full((2, 2, 3), value, np.uint8)


class Gated:
    """An encoder that embeds an image as its first value, and runs only while the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[int]] = []
        self.at_once = self.most_at_once = 0

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        values = images[:, 0, 0, 0]
        self.batches.append([int(value) for value in values])
        self.entered.release()
        assert self.gate.wait(10)
        self.at_once -= 1
        if 13 in values:
            raise ValueError("thirteen")
        return values[:, None].astype(np.float32)


def run(
    scenario: Callable[[Batcher, Gated], Awaitable[None]],
    *,
    max_batch: int = 4,
    slots: int = 100,
    streams: int = 1,
) -> Gated:
    encoder = Gated()

    async def main() -> None:
        batcher = Batcher(encoder, max_batch=max_batch, max_admitted=slots, streams=streams)
        batcher.start()
        try:
            await asyncio.wait_for(scenario(batcher, encoder), 20)
        finally:
            encoder.gate.set()
            await batcher.stop()
        assert batcher.admitted == 0

    asyncio.run(main())
    assert encoder.most_at_once <= streams
    return encoder


async def request(batcher: Batcher, *values: int) -> list[Any]:
    """One request of several images; an exception stands where an image failed."""
    with batcher.admit(len(values)) as lane:
        outcomes = await asyncio.gather(
            *(lane.encode(image(value)) for value in values), return_exceptions=True
        )
    return [
        outcome if isinstance(outcome, BaseException) else int(outcome[0]) for outcome in outcomes
    ]


async def hold(encoder: Gated, batcher: Batcher) -> asyncio.Task[list[Any]]:
    """Occupies the encoder with the image 0 until the gate opens."""
    encoder.gate.clear()
    first = asyncio.create_task(request(batcher, 0))
    await asyncio.to_thread(encoder.entered.acquire)
    return first


async def settle() -> None:
    """Lets every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_an_idle_batcher_encodes_a_single_image_at_once() -> None:
    async def scenario(batcher: Batcher, encoder: Gated) -> None:
        assert await request(batcher, 7) == [7]

    assert run(scenario).batches == [[7]]


def test_what_came_during_a_batch_is_the_next_one() -> None:
    async def scenario(batcher: Batcher, encoder: Gated) -> None:
        first = await hold(encoder, batcher)
        others = [asyncio.create_task(request(batcher, value)) for value in (1, 2, 3)]
        await settle()
        encoder.gate.set()
        assert await asyncio.gather(first, *others) == [[0], [1], [2], [3]]

    assert run(scenario).batches == [[0], [1, 2, 3]]


def test_a_batch_never_exceeds_its_limit() -> None:
    async def scenario(batcher: Batcher, encoder: Gated) -> None:
        first = await hold(encoder, batcher)
        large = asyncio.create_task(request(batcher, *range(1, 11)))
        await settle()
        encoder.gate.set()
        await first
        assert await large == list(range(1, 11))

    assert [len(batch) for batch in run(scenario, max_batch=4).batches] == [1, 4, 4, 2]


def test_a_small_request_does_not_wait_for_a_large_one() -> None:
    async def scenario(batcher: Batcher, encoder: Gated) -> None:
        first = await hold(encoder, batcher)
        large = asyncio.create_task(request(batcher, *range(20, 40)))
        await settle()
        small = asyncio.create_task(request(batcher, 1, 2))
        await settle()
        encoder.gate.set()
        await asyncio.gather(first, large, small)

    assert run(scenario, max_batch=4).batches[1] == [20, 1, 21, 2]


def test_a_cancelled_request_is_not_encoded() -> None:
    async def scenario(batcher: Batcher, encoder: Gated) -> None:
        first = await hold(encoder, batcher)
        gone = asyncio.create_task(request(batcher, 5, 6))
        stays = asyncio.create_task(request(batcher, 8))
        await settle()
        gone.cancel()
        await settle()
        assert batcher.admitted == 2, "a cancelled request gives its places back"
        encoder.gate.set()
        assert await stays == [8]
        await first

    assert run(scenario).batches == [[0], [8]]


def test_a_request_cancelled_while_it_is_encoded_harms_nobody() -> None:
    async def scenario(batcher: Batcher, encoder: Gated) -> None:
        first = await hold(encoder, batcher)
        first.cancel()
        await settle()
        encoder.gate.set()
        assert await request(batcher, 9) == [9]

    run(scenario)


def test_more_than_the_limit_is_refused_at_once_and_admitted_again_later() -> None:
    async def scenario(batcher: Batcher, encoder: Gated) -> None:
        first = await hold(encoder, batcher)
        second = asyncio.create_task(request(batcher, 1, 2))
        await settle()
        with pytest.raises(Overloaded) as refused:
            await request(batcher, 3)
        assert 1 <= refused.value.retry_after <= 60
        encoder.gate.set()
        await asyncio.gather(first, second)
        assert await request(batcher, 3) == [3]

    run(scenario, slots=3)


def test_a_image_that_fails_fails_alone() -> None:
    async def scenario(batcher: Batcher, encoder: Gated) -> None:
        first = await hold(encoder, batcher)
        mixed = asyncio.create_task(request(batcher, 11, 13, 14))
        await settle()
        encoder.gate.set()
        await first
        good, bad, also_good = await mixed
        assert (good, also_good) == (11, 14)
        assert isinstance(bad, ValueError)

    assert run(scenario).batches == [[0], [11, 13, 14], [11], [13], [14]]


def test_an_encoder_that_loses_rows_is_an_error_and_not_a_hang() -> None:
    async def main() -> None:
        batcher = Batcher(lambda _: np.empty((0, 1), np.float32), max_batch=2, max_admitted=2)
        batcher.start()
        with batcher.admit(1) as lane, pytest.raises(ValueError, match="0 embeddings of 1"):
            await lane.encode(image(1))
        assert batcher.alive
        await batcher.stop()
        assert not batcher.alive

    asyncio.run(main())


def test_a_fault_of_its_own_is_seen_from_outside() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        context: asyncio.Future[dict[str, Any]] = loop.create_future()
        loop.set_exception_handler(lambda _loop, fault: context.set_result(fault))

        def fail(_images: int, _seconds: float) -> None:
            raise RuntimeError("no room for metrics")

        batcher = Batcher(Gated(), max_batch=2, max_admitted=2)
        batcher.on_batch = fail
        batcher.start()
        waiting = asyncio.create_task(request(batcher, 1))
        assert "no room for metrics" in str((await context)["exception"])
        assert not batcher.alive
        waiting.cancel()
        await batcher.stop()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_stopping_cancels_what_still_waits() -> None:
    async def main() -> None:
        batcher = Batcher(
            lambda images: np.zeros((len(images), 1), np.float32), max_batch=2, max_admitted=2
        )
        waiting = asyncio.create_task(request(batcher, 1))  # never started
        await settle()
        await batcher.stop()
        (outcome,) = await waiting
        assert isinstance(outcome, asyncio.CancelledError)

    asyncio.run(main())


@settings(max_examples=30, deadline=None)
@given(
    requests=st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=9), max_size=12),
    max_batch=st.integers(1, 8),
)
def test_every_image_gets_its_own_answer(requests: list[list[int]], max_batch: int) -> None:
    def encode(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return images[:, 0, 0, :1].astype(np.float32)

    async def main() -> None:
        batcher = Batcher(encode, max_batch=max_batch, max_admitted=1000)
        sizes: list[int] = []
        batcher.on_batch = lambda images, _seconds: sizes.append(images)
        batcher.start()
        answers = await asyncio.gather(*(request(batcher, *values) for values in requests))
        await batcher.stop()
        assert answers == requests
        assert sum(sizes) == sum(map(len, requests))
        assert max(sizes, default=0) <= max_batch

    asyncio.run(main())


def test_one_image_alone_has_all_cores_and_many_are_dealt_out() -> None:
    alone = Gated()

    async def scenario(batcher: Batcher, encoder: Gated) -> None:
        batcher._alone = alone
        assert await request(batcher, 5) == [5]
        assert (alone.batches, encoder.batches) == ([[5]], [])
        encoder.gate.clear()
        with batcher.admit(6) as lane:
            vectors = [asyncio.ensure_future(lane.encode(image(i))) for i in range(20, 26)]
            for _ in range(2):
                assert await asyncio.to_thread(encoder.entered.acquire, timeout=10)
            encoder.gate.set()
            await asyncio.gather(*vectors)
        assert (alone.batches, sorted(map(len, encoder.batches))) == ([[5]], [3, 3])

    run(scenario, streams=2)


def test_two_streams_run_two_batches_at_once_and_the_rest_waits() -> None:
    async def scenario(batcher: Batcher, encoder: Gated) -> None:
        encoder.gate.clear()
        with batcher.admit(20) as lane:
            vectors = [asyncio.ensure_future(lane.encode(image(i))) for i in range(20, 40)]
            for _ in range(2):
                assert await asyncio.to_thread(encoder.entered.acquire, timeout=10)
            assert not await asyncio.to_thread(encoder.entered.acquire, timeout=0.1)
            encoder.gate.set()
            assert [int(vector[0]) for vector in await asyncio.gather(*vectors)] == [*range(20, 40)]

    assert run(scenario, streams=2).most_at_once == 2

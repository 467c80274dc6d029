"""What a batch says about the time of an image, while others are embedded beside it."""

import asyncio

import numpy as np

from serving.http.engine.batcher import Batcher, Done, Lane, Waiting


async def seconds_until_retry(batcher: Batcher, *, running: int) -> int:
    """Settle one batch of two images that took eight seconds; return what is then advised."""
    loop = asyncio.get_running_loop()
    lane = Lane(batcher)
    batch = [Waiting(np.zeros((2, 2, 3), np.uint8), loop.create_future(), lane, 0.0) for _ in "ab"]
    rows = [np.ones(1, np.float32)] * 2
    batcher._running = running
    batcher._settle(Done(batch=batch, outcomes=[*rows], begun=0.0, ended=8.0))
    batcher.admitted = 3
    return batcher._retry_after()


def test_batches_beside_each_other_share_the_time_of_an_image() -> None:
    def new() -> Batcher:
        return Batcher(
            lambda images: images[:, 0, 0, :1].astype(np.float32),
            max_batch=2,
            max_admitted=9,
            streams=4,
        )

    assert asyncio.run(seconds_until_retry(new(), running=0)) == 12  # 3 images of 8 / 2 seconds
    assert asyncio.run(seconds_until_retry(new(), running=1)) == 6
    assert asyncio.run(seconds_until_retry(new(), running=3)) == 3

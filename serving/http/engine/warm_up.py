"""What is done once before a service is ready: batches of every size are run and timed."""

import asyncio
import gc
import logging
import math
import time
from collections.abc import Sequence

import numpy as np

from export.encoder_file.encoder_file import Encoder
from images.items import Pixels
from serving.http.engine.batcher import useful_batch

logger = logging.getLogger(__name__)

ROUNDS, SECONDS = 2, 10.0


async def warm_up(encoder: Encoder, single: Encoder | None, largest: int) -> int:
    """Let the encoder make its buffers and kernels, and return the size of batch that pays.

    Args:
        encoder: takes a batch that is the only one.
        single: the same for several batches at once, each on a core; None: `encoder` takes those.
        largest: the most images of a batch.
    """
    spec = encoder.preprocess
    blank = np.zeros((1, spec.size, spec.size, spec.channels), np.uint8)
    sizes = [*(2**n for n in range(largest.bit_length()) if 2**n < largest), largest]
    if single is not None:  # for fewer images than cores
        await _timed(encoder, blank, sizes[:2])
    useful = useful_batch(await _timed(single or encoder, blank, sizes))
    logger.info("batches of up to %d images", useful)
    gc.collect()
    gc.freeze()  # modules and encoder stay: collecting over them again would hold requests up
    return useful


async def _timed(encoder: Encoder, blank: Pixels, sizes: Sequence[int]) -> dict[int, float]:
    """Return the least seconds of batches of some sizes."""
    seconds: dict[int, float] = {}
    begun = time.perf_counter()
    for images in (size for size in sizes for _ in range(ROUNDS)):
        if seconds and time.perf_counter() - begun > SECONDS:
            break  # a slow encoder: larger batches would only make everyone wait
        batch = np.repeat(blank, images, axis=0)
        started = time.perf_counter()
        await asyncio.to_thread(encoder.encode, batch)
        seconds[images] = min(seconds.get(images, math.inf), time.perf_counter() - started)
    return seconds

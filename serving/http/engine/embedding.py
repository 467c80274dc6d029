"""From images as clients send them to embeddings: decoded in threads, embedded in batches."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from base.errors import ImageRefused, RefusalReason
from export.encoder_file.encoder_file import Encoder
from images.items import Pixels
from images.pixels.preprocess import load_image
from serving.http.engine.batcher import Batcher, Lane, Overloaded
from serving.http.engine.cores import Cores
from serving.http.engine.warm_up import warm_up
from serving.http.policy.settings import Settings
from serving.http.request.errors import HttpError, of_image, overloaded
from serving.http.request.uploads import Upload
from serving.http.telemetry import timing
from serving.http.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

STREAMS = 2  # batches at once on a GPU: while one is copied, the other is computed
# On CPUs. ResNet-18 at 70 % of two cores' capacity: 95 % of answers in 60 ms, and in 110 ms with 1.
DEALS = 2


@dataclass(frozen=True, slots=True)
class EmbeddedUpload:
    """One embedded image.

    Attributes:
        vector: float32 [E].
        width: of the original image, upright.
        height: of the original image, upright.
    """

    vector: NDArray[np.float32]
    width: int
    height: int


class Embedder:
    """What embeds for one service, on one event loop, from `start` on.

    Attributes:
        batcher: the queue in front of the encoder.
        warm: whether `warm_up` is done.

    Args:
        encoder: takes a batch that is the only one.
        single: the same for several batches at once, each on a core; None: `encoder` takes those.
        cores: threads that decode and, where the encoder is on the CPU too, embed.
        settings: of the service.
        metrics: count what is done.
    """

    def __init__(
        self,
        encoder: Encoder,
        single: Encoder | None,
        *,
        cores: Cores,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._encoder = encoder
        self._single = single
        self._spec = encoder.preprocess
        self._cores = cores
        self._settings = settings
        self._metrics = metrics
        on_cpu = encoder.provider == "cpu"
        self.batcher = Batcher(
            (single or encoder).encode,
            max_batch=settings.max_batch,
            max_admitted=settings.max_queue,
            streams=encoder.threads if on_cpu else STREAMS,
            alone=None if single is None else encoder.encode,
            pool=cores.pool if on_cpu else None,
            deals=DEALS if on_cpu else 1,
        )
        self.batcher.on_batch = metrics.note_batch
        self.batcher.on_admitted = metrics.admitted.set
        self.warm = False

    @property
    def alive(self) -> bool:
        """Whether images are being embedded."""
        return self.batcher.alive

    def start(self) -> None:
        """Begin to embed."""
        self.batcher.start()

    async def warm_up(self) -> None:
        """Run batches of every size, so that the first requests are as fast as later ones."""
        largest = min(self._settings.max_batch, self._settings.max_queue)
        try:
            self.batcher.max_batch = await warm_up(self._encoder, self._single, largest)
        except Exception:
            logger.exception("warming up failed: the service stays unready")
            return
        self.warm = True

    async def stop(self) -> None:
        """Finish the running batches and stop; images still waiting are cancelled."""
        self.warm = False
        await self.batcher.stop()

    def check_room(self) -> None:
        """Raise Overloaded where not even one image would be admitted now.

        Called before a body is read and parsed: under overload that would cost more than refusing.
        """
        with self.batcher.admit(1):
            pass

    async def embed(self, uploads: Sequence[Upload]) -> list[EmbeddedUpload | HttpError]:
        """Embed images; a refused one yields its refusal, the others are not touched.

        Raises:
            Overloaded: there is no room for them now; nothing was done.
        """
        turns = asyncio.Semaphore(self._cores.count + 1)  # one waits, so that no decoder does
        with self.batcher.admit(len(uploads)) as lane:
            work = [self._embed_one(lane, turns, one) for one in uploads]
            # One needs no task of its own, which would cost it two rounds of the loop.
            outcomes = await asyncio.gather(*work) if len(work) > 1 else [await work[0]]
        self._note(lane)
        self._metrics.note_images(outcomes)
        return outcomes

    async def embed_pixels(self, images: Pixels) -> list[EmbeddedUpload]:
        """Embed uint8 [N, S, S, C] that is preprocessed already; raises Overloaded as `embed`."""
        side = self._spec.size
        with self.batcher.admit(len(images)) as lane:
            vectors = await asyncio.gather(*(lane.encode(image) for image in images))
        self._note(lane)
        outcomes = [EmbeddedUpload(vector, side, side) for vector in vectors]
        self._metrics.note_images(outcomes)
        return outcomes

    def _note(self, lane: Lane) -> None:
        self._metrics.queue_seconds.observe(lane.queued)
        timing.note("queue", lane.queued)
        timing.note("inference", lane.encoding)

    async def _embed_one(
        self, lane: Lane, turns: asyncio.Semaphore, upload: Upload
    ) -> EmbeddedUpload | HttpError:
        if isinstance(upload.content, HttpError):
            return upload.content
        try:
            async with turns:
                decoded = await self._cores.decode(self._decode, upload.content)
        except ImageRefused as refused:
            return of_image(refused, upload.param)
        except Overloaded as error:
            return overloaded(error.retry_after)
        pixels, (width, height), seconds = decoded
        self._metrics.decode_seconds.observe(seconds)
        timing.note("decode", seconds)
        vector = await lane.encode(pixels)
        return EmbeddedUpload(vector, width, height)

    def _decode(self, content: bytes) -> tuple[Pixels, tuple[int, int], float]:
        """Return the square, the original's (width, height), and the seconds it took."""
        begun = time.perf_counter()
        settings = self._settings
        if len(content) > settings.max_image_bytes:
            message = (
                f"the image has {len(content)} bytes: at most {settings.max_image_bytes} are taken"
            )
            raise ImageRefused(RefusalReason.TOO_MANY_BYTES, message)
        pixels, size = load_image(content, self._spec, max_pixels=settings.max_pixels)
        return pixels, size, time.perf_counter() - begun

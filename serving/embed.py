"""From items to embeddings: read and decode in threads, encode in the caller's.

    items ──▶ batches ──▶ decode threads ──▶ encoder ──▶ outcomes, in the order of the items
                          (read, decode,     (one batch
                           resize, crop)      at a time)

While the encoder works on one batch the threads prepare the next ones, at most ``LOOKAHEAD``:
memory does not grow with the source. An image that is refused leaves its batch and the others keep
their places, so a bad image never takes another one's embedding. Pillow and ONNX Runtime let go of
Python's lock while they work.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from export.encoder_file import Encoder
from images.cpus import available_cpus
from images.errors import ImageRefused, LookalikeError, RefusalReason
from images.files import sha256_bytes
from images.items import Content, Item, Pixels
from images.preprocess import PreprocessSpec, load_image
from serving.outcomes import Embedded, Outcome, Refused

BATCH_SIZE = 32
LOOKAHEAD = 2  # batches that are read and decoded ahead of the encoder
PARTS = 2  # pieces of a batch for each thread, so that the threads end at about the same time
NO_DIRECTION = "no-direction"

Load = Callable[[Content, PreprocessSpec], tuple[Pixels, tuple[int, int]]]
"""What decodes: ``images.preprocess.load_image``, or the same somewhere else."""


@dataclass(kw_only=True)
class Seconds:
    """Where the time went. Threads' times add up, so read and decode may exceed the clock's.

    Attributes:
        read: in threads, getting the bytes.
        decode: in threads, from bytes to the square the encoder sees.
        wait: the encoder had nothing to do: images came too slowly.
        encode: in the encoder.
        write: the writer's own, beside the others.
    """

    read: float = 0.0
    decode: float = 0.0
    wait: float = 0.0
    encode: float = 0.0
    write: float = 0.0


@dataclass(frozen=True, slots=True)
class _Ready:
    """A decoded image, waiting for the encoder."""

    pixels: Pixels
    size: tuple[int, int]
    sha256: str


@dataclass(frozen=True, slots=True)
class _Part:
    """What one thread made of a few items, and how long it took."""

    results: list[_Ready | Refused]
    read: float
    decode: float


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of ``size``, the last one shorter."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def embed(
    encoder: Encoder,
    batches: Iterable[list[Item]],
    *,
    threads: int | None = None,
    seconds: Seconds | None = None,
    load: Load = load_image,
) -> Generator[list[Outcome]]:
    """Embed batches of items.

    Args:
        encoder: an open encoder.
        batches: any number of lists; they are taken from the iterator as they are needed.
        threads: decode threads; None takes the CPUs this process may use.
        seconds: is added to as the work goes on.
        load: decodes one picture; is called in the threads.

    Yields:
        for each batch what became of its items, in the same order.
    """
    seconds = seconds or Seconds()
    workers = threads or available_cpus()
    remaining = iter(batches)
    ahead: deque[tuple[list[Item], list[Future[_Part]]]] = deque()
    with ThreadPoolExecutor(workers, "decode") as pool:
        try:
            while True:
                for batch in islice(remaining, LOOKAHEAD + 1 - len(ahead)):
                    parts = in_batches(batch, -(-len(batch) // (PARTS * workers)))
                    futures = [pool.submit(_load, part, encoder.preprocess, load) for part in parts]
                    ahead.append((batch, futures))
                if not ahead:
                    return
                yield _encode(encoder, *ahead.popleft(), seconds)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _load(items: list[Item], spec: PreprocessSpec, load: Load) -> _Part:
    results: list[_Ready | Refused] = []
    read = decode = 0.0
    for item in items:
        start = time.perf_counter()
        content = _read(item)
        middle = time.perf_counter()
        if not isinstance(content, Refused):
            results.append(_decode(item, content, spec, load))
        else:
            results.append(content)
        read += middle - start
        decode += time.perf_counter() - middle
    return _Part(results, read, decode)


def _read(item: Item) -> Content | Refused:
    try:
        return item.read()
    except ImageRefused as error:
        return _refused(item, "read", error.reason, error.message)
    except Exception as error:  # noqa: BLE001 - one strange file must not end a run over millions
        return _refused(item, "read", RefusalReason.UNREADABLE, repr(error))


def _decode(item: Item, content: Content, spec: PreprocessSpec, load: Load) -> _Ready | Refused:
    try:
        pixels, size = load(content, spec)
    except ImageRefused as error:
        return _refused(item, "decode", error.reason, error.message)
    except LookalikeError:  # not the picture's fault: what decodes is gone
        raise
    except Exception as error:  # noqa: BLE001 - as above
        return _refused(item, "decode", RefusalReason.CORRUPT, repr(error))
    data = content if isinstance(content, bytes) else np.ascontiguousarray(content).tobytes()
    return _Ready(pixels, size, sha256_bytes(data))


def _encode(
    encoder: Encoder, batch: list[Item], futures: list[Future[_Part]], seconds: Seconds
) -> list[Outcome]:
    start = time.perf_counter()
    parts = [future.result() for future in futures]
    seconds.wait += time.perf_counter() - start
    seconds.read += sum(part.read for part in parts)
    seconds.decode += sum(part.decode for part in parts)
    results = [result for part in parts for result in part.results]
    ready = [result.pixels for result in results if isinstance(result, _Ready)]
    start = time.perf_counter()
    embeddings = iter(encoder.encode(np.stack(ready)) if ready else ())
    seconds.encode += time.perf_counter() - start
    return [
        result if isinstance(result, Refused) else _embedded(item, result, next(embeddings))
        for item, result in zip(batch, results, strict=True)
    ]


def _embedded(item: Item, ready: _Ready, embedding: NDArray[np.float32]) -> Outcome:
    if not (np.isfinite(embedding).all() and embedding.any()):
        message = "the encoder gives this picture no direction (all its features are zero or NaN)"
        return _refused(item, "encode", NO_DIRECTION, message)
    width, height = ready.size
    return Embedded(item.key, item.uri, item.label, width, height, ready.sha256, embedding)


def _refused(item: Item, stage: str, reason: str, message: str) -> Refused:
    return Refused(item.key, item.uri, stage, str(reason), message)

"""From items to embeddings, with every core at work; outcomes come in the order of the items.

Two arrangements. Which one is right follows from the session, and so from who opened it:

- per core, for a session of one thread on the CPU (`lookalike extract` opens one): each core takes
  a few images, decodes and encodes them by itself. No core waits for another, there is nothing to
  be split between decoding and encoding, and a few images stay in the core's cache::

      items ──▶ pieces of 8 ──▶ read ──▶ a core: decode, resize, crop, encode ──▶ outcomes

  While the cores compute, the next pieces are read: a few more than there are cores, and up to
  `MOST_PIECES` a core where reading is seen to be slow.

- shared encoder, for a session of several threads or on a GPU: threads decode the next batches
  while the encoder works on one (on a GPU: while one is computed, another is copied)::

      items ──▶ batches ──▶ decode threads ──▶ encoder ──▶ outcomes

Either way a bounded number of images is under way: memory does not grow with the source. Pillow
and ONNX Runtime release Python's lock while they work; a session computes each image by itself, so
that neither the arrangement nor the size of a piece changes an embedding.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from threading import Semaphore
from typing import Protocol

from base.cpus import available_cpus
from export.encoder_file.encoder_file import Encoder
from images.items import Item, RefusedImage
from images.pixels.preprocess import load_image
from serving.embedding.per_item import (
    NO_DIRECTION,
    Load,
    Ready,
    Seconds,
    Stopwatch,
    decode,
    encode,
    read,
)
from serving.embedding.results import Outcome

__all__ = ["BATCH_SIZE", "NO_DIRECTION", "Load", "Seconds", "embed", "in_batches"]

BATCH_SIZE = 32
LOOKAHEAD = 2  # shared encoder: batches that are read and decoded ahead of the encoder
PIECES_PER_THREAD = 2  # shared encoder: of a batch, so that threads end at about the same time
STREAMS = 2  # shared encoder, on a GPU: batches that are copied or computed at the same time
PIECE = 8  # per core: images a core encodes at once; 32 take 10 to 30 % longer each on Zen 3
FIRST_PIECES = 3  # per core: one computed, one read, one taken
MOST_PIECES = 8  # per core, where reading is slow
SLOW_READ = 0.1  # of the time a piece takes to compute


@dataclass(frozen=True, slots=True)
class _Done:
    """The outcomes of a piece, how long it took, and whether a core had waited for it."""

    outcomes: list[Outcome]
    seconds: Seconds
    awaited: bool = False


class _Arrangement(Protocol):
    """How the work is divided between threads; see this module's docstring."""

    def accepts(self, under_way: int) -> bool:
        """Whether another batch is to be begun, with so many pieces under way."""

    def begin(self, batch: list[Item]) -> list[Future[_Done]]:
        """Begin a batch; return its pieces in order."""

    def adapt(self, done: _Done) -> None:
        """Adapt to what a finished piece took."""

    def close(self) -> None:
        """Wait for what is under way; drop what is not begun."""


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of `size`, the last one shorter."""
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
        encoder: an open encoder; on the CPU one of a single thread is the fastest.
        batches: any number of lists; they are taken from the iterator as they are needed.
        threads: cores that encode, or threads that decode; None takes the CPUs this process may
            use.
        seconds: grows meanwhile.
        load: decodes one image; is called in the threads.

    Yields:
        for each batch the outcomes of its items, in the same order.
    """
    total = seconds or Seconds()
    workers = threads or available_cpus()
    per_core = encoder.provider == "cpu" and encoder.threads == 1
    kind = _PerCore if per_core else _SharedEncoder
    arrangement: _Arrangement = kind(encoder, workers, load)
    remaining = iter(batches)
    ahead: deque[list[Future[_Done]]] = deque()
    watch, clock = Stopwatch(), Stopwatch()
    with closing(arrangement):
        while True:
            watch.lap()
            while len(ahead) < 2 or arrangement.accepts(sum(map(len, ahead))):
                if (batch := next(remaining, None)) is None:
                    break
                ahead.append(arrangement.begin(batch))
            total.listing += watch.lap()
            if not ahead:
                return
            outcomes: list[Outcome] = []
            for future in ahead.popleft():
                done = future.result()
                arrangement.adapt(done)
                _add(total, done.seconds)
                outcomes += done.outcomes
            if per_core:  # what the cores had; they waited for what they did not use
                had = workers * clock.lap()
                total.cores += had
                total.wait += had
            watch.lap()
            yield outcomes
            total.held += watch.lap()


def _add(total: Seconds, seconds: Seconds) -> None:
    total.read += seconds.read
    total.decode += seconds.decode
    total.encode += seconds.encode
    total.wait += seconds.wait


class _PerCore:
    """Each core decodes and encodes pieces of its own."""

    def __init__(self, encoder: Encoder, workers: int, load: Load) -> None:
        self._encoder = encoder
        self._load = load
        self._cores = Semaphore(workers)
        self._limit, self._most = FIRST_PIECES * workers, MOST_PIECES * workers
        self._pool = ThreadPoolExecutor(self._most, "core")  # a thread is made when it is needed

    def accepts(self, under_way: int) -> bool:
        return under_way < self._limit

    def begin(self, batch: list[Item]) -> list[Future[_Done]]:
        return [self._pool.submit(self._do, piece) for piece in in_batches(batch, PIECE)]

    def _do(self, items: list[Item]) -> _Done:
        watch = Stopwatch()
        contents = [read(item) for item in items]
        reading = watch.lap()
        awaited = self._cores.acquire(blocking=False)
        if not awaited:
            self._cores.acquire()
        try:
            watch.lap()
            spec = self._encoder.preprocess
            pairs = zip(items, contents, strict=True)
            results = [decode(item, content, spec, self._load) for item, content in pairs]
            decoding = watch.lap()
            outcomes = encode(self._encoder, items, results)
            encoding = watch.lap()
            seconds = Seconds(
                read=reading, decode=decoding, encode=encoding, wait=-decoding - encoding
            )
        finally:
            self._cores.release()
        return _Done(outcomes, seconds, awaited)

    def adapt(self, done: _Done) -> None:
        slow = done.seconds.read > SLOW_READ * (done.seconds.decode + done.seconds.encode)
        if slow and done.awaited and self._limit < self._most:
            self._limit += 1

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class _SharedEncoder:
    """Threads decode for one encoder, which has the other cores or a GPU."""

    def __init__(self, encoder: Encoder, workers: int, load: Load) -> None:
        self._encoder = encoder
        self._workers = workers
        self._load = load
        streams = STREAMS if encoder.provider == "cuda" else 1
        self._ahead = LOOKAHEAD + streams
        self._decoders = ThreadPoolExecutor(workers, "decode")
        self._encoders = ThreadPoolExecutor(streams, "encode")

    def accepts(self, under_way: int) -> bool:
        return under_way < self._ahead

    def begin(self, batch: list[Item]) -> list[Future[_Done]]:
        pieces = in_batches(batch, -(-len(batch) // (PIECES_PER_THREAD * self._workers)))
        prepared = [self._decoders.submit(self._prepare, piece) for piece in pieces]
        return [self._encoders.submit(self._finish, batch, prepared)]

    def _prepare(self, items: list[Item]) -> tuple[list[Ready | RefusedImage], Seconds]:
        results, seconds, watch = [], Seconds(), Stopwatch()
        for item in items:
            content = read(item)
            seconds.read += watch.lap()
            results.append(decode(item, content, self._encoder.preprocess, self._load))
            seconds.decode += watch.lap()
        return results, seconds

    def _finish(
        self, batch: list[Item], prepared: list[Future[tuple[list[Ready | RefusedImage], Seconds]]]
    ) -> _Done:
        watch = Stopwatch()
        total, results = Seconds(), list[Ready | RefusedImage]()
        for piece in prepared:
            ready, seconds = piece.result()
            results += ready
            _add(total, seconds)
        total.wait = watch.lap()
        outcomes = encode(self._encoder, batch, results)
        total.encode = watch.lap()
        return _Done(outcomes, total)

    def adapt(self, done: _Done) -> None:
        pass

    def close(self) -> None:
        # What waits for decoded images first: it would wait for ever for those that never begin.
        self._encoders.shutdown(wait=False, cancel_futures=True)
        self._decoders.shutdown(wait=True, cancel_futures=True)
        self._encoders.shutdown(wait=True)

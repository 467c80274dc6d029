"""Read, decode and encode a few items. A refused one drops out, the others stay."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from base.errors import ImageRefused, LookalikeError, RefusalReason
from base.files import sha256_bytes
from export.encoder_file.encoder_file import Encoder
from images.items import Content, Item, Pixels, RefusedImage, metadata_text
from images.pixels.preprocess import PreprocessSpec
from serving.embedding.results import EmbeddedImage, Outcome

NO_DIRECTION = "no-direction"

Load = Callable[[Content, PreprocessSpec], tuple[Pixels, tuple[int, int]]]
"""Decodes one image: `images.pixels.preprocess.load_image`, or the same in another process."""


@dataclass(kw_only=True)
class Seconds:
    """Where the time went. Threads' times add up, so their sum may exceed the clock's.

    Attributes:
        read: getting the bytes.
        decode: from bytes to the square the encoder sees.
        encode: in the encoder.
        wait: a core (or the encoder, where it has all cores or a GPU) had nothing to do.
        cores: what the cores had, where each one decodes and encodes: decode + encode + wait.
        listing: the source took to list the next items. Beside the others, as are those below.
        held: the caller had the outcomes, a shard's writer for example.
        write: the writer's own time.
    """

    read: float = 0.0
    decode: float = 0.0
    wait: float = 0.0
    encode: float = 0.0
    write: float = 0.0
    cores: float = 0.0
    listing: float = 0.0
    held: float = 0.0


@dataclass(frozen=True, slots=True)
class Ready:
    """A decoded image, waiting for the encoder."""

    pixels: Pixels
    size: tuple[int, int]
    sha256: str


class Stopwatch:
    """Measures the seconds since it was made or last read."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        return passed


def read(item: Item) -> Content | RefusedImage:
    """Return the item's content."""
    try:
        return item.read()
    except ImageRefused as error:
        return refused(item, "read", error.reason, error.message)
    except Exception as error:  # noqa: BLE001 - one odd file must not end a run over millions
        return refused(item, "read", RefusalReason.UNREADABLE, repr(error))


def decode(
    item: Item, content: Content | RefusedImage, spec: PreprocessSpec, load: Load
) -> Ready | RefusedImage:
    """Return the pixels that the encoder sees of a content; what was refused stays so."""
    if isinstance(content, RefusedImage):
        return content
    try:
        pixels, size = load(content, spec)
    except ImageRefused as error:
        return refused(item, "decode", error.reason, error.message)
    except LookalikeError:  # not the image's fault: what decodes is gone
        raise
    except Exception as error:  # noqa: BLE001 - as above
        return refused(item, "decode", RefusalReason.CORRUPT, repr(error))
    data = content if isinstance(content, bytes) else np.ascontiguousarray(content).tobytes()
    return Ready(pixels, size, sha256_bytes(data))


def encode(
    encoder: Encoder, items: list[Item], results: list[Ready | RefusedImage]
) -> list[Outcome]:
    """Return the outcomes of `items`, from what `decode` made of them, in the same order."""
    ready = [result.pixels for result in results if isinstance(result, Ready)]
    embeddings = iter(encoder.encode(np.stack(ready)) if ready else ())
    return [
        result if isinstance(result, RefusedImage) else _embedded(item, result, next(embeddings))
        for item, result in zip(items, results, strict=True)
    ]


def _embedded(item: Item, ready: Ready, embedding: NDArray[np.float32]) -> Outcome:
    if not (np.isfinite(embedding).all() and embedding.any()):
        message = "the encoder gives this picture no direction (all its features are zero or NaN)"
        return refused(item, "encode", NO_DIRECTION, message)
    width, height = ready.size
    return EmbeddedImage(
        item.key,
        item.uri,
        item.label,
        width,
        height,
        ready.sha256,
        embedding,
        metadata_text(item.metadata),
    )


def refused(item: Item, stage: str, reason: str, message: str) -> RefusedImage:
    """Return an item's refusal."""
    return RefusedImage(item.key, item.uri, stage, str(reason), message)

"""The outcome for one image: its embedding, or why it was refused."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from images.items import RefusedImage


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """An image and its embedding.

    Attributes:
        key: of the item in its source.
        uri: where the image is.
        label: the class, if the source knows it.
        width: of the image as it is meant to be seen (after EXIF rotation), in pixels.
        height: the same.
        sha256: of the content: a file's bytes, or an array's values in row order.
        embedding: float32 [E], of length one.
        metadata: what else the source knows of it, the text of a JSON object, or None.
    """

    key: str
    uri: str
    label: str | None
    width: int
    height: int
    sha256: str
    embedding: NDArray[np.float32]
    metadata: str | None = None


Outcome = EmbeddedImage | RefusedImage


@dataclass(frozen=True, slots=True)
class Deleted:
    """An image that a feature folder had and that is no longer in its source.

    Attributes:
        key: of the item.
        uri: where it was.
        sha256: of its content, if it had an embedding.
    """

    key: str
    uri: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """What a feature folder keeps of one item.

    Attributes:
        outcome: what became of it.
        stamp: of its file when it was read (`images.sources.uris.stamp_of`), None if it has none.
        thumbnail: a WebP image, if the folder has them.
    """

    outcome: Outcome
    stamp: str | None = None
    thumbnail: bytes | None = None

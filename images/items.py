"""Items and sources: images with a key, a uri, a label and a way to read them."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from base.text import printable

Content = bytes | NDArray[Any]
"""An encoded image, or an array [H,W], [H,W,1], [H,W,3] or [H,W,4]."""

Pixels = NDArray[np.uint8]
"""RGB [H,W,3]."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source, not read yet.

    Whatever a source was named with, key, uri and label are valid Unicode (`base.text.printable`).

    Attributes:
        key: unique and stable in its source: a relative posix path, or `train/00012` for arrays.
        uri: where `read_uri` finds it again: an absolute path, or `idx:///path#12`, `npz:///path#12`.
        label: the class name, or None.
        read: returns the content; raises ImageRefused if it cannot be read.
        metadata: what else the source says of it, as its `split`; None for nothing.
    """

    key: str
    uri: str
    label: str | None
    read: Callable[[], Content]
    metadata: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        label = self.label
        if self.key.isascii() and self.uri.isascii() and (label is None or label.isascii()):
            return  # nearly all
        object.__setattr__(self, "key", printable(self.key))
        object.__setattr__(self, "uri", printable(self.uri))
        object.__setattr__(self, "label", None if label is None else printable(label))


def metadata_text(metadata: Mapping[str, Any] | None) -> str | None:
    """Return an item's metadata as the text of a JSON object, the same for equal ones."""
    if not metadata:
        return None
    return json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True)


@dataclass(frozen=True, slots=True)
class RefusedImage:
    """The record of an image that could not be used.

    Attributes:
        key: of the item in its source.
        uri: where the image is.
        stage: "read", "decode" or "encode": what failed; "load" where nobody tells reading from
            decoding.
        reason: a word that does not change (`base.errors.RefusalReason`, or one of a room's own).
        message: the same for a reader.
    """

    key: str
    uri: str
    stage: str
    reason: str
    message: str


class Source(Protocol):
    """Images in a fixed order, each with a key."""

    @property
    def name(self) -> str:
        """What the user called it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The sorted label names; () if unlabeled."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Item]: ...

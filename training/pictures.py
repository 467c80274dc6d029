"""Decoded pictures with their labels, and those that were refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NO_LABEL = -1


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One picture that could not be used."""

    key: str
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The usable pictures of a source, decoded.

    `digest` is a SHA-256 over key, label and pixels of each picture in order: two sources with one
    digest give the same training.
    """

    name: str
    images: NDArray[np.uint8]  # [N,S,S,3]
    labels: NDArray[np.int64]  # [N], an index into classes or NO_LABEL
    classes: tuple[str, ...]
    refused: tuple[Refusal, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.images)

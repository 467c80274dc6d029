"""Sources that hold their images in arrays: what IDX and npz files have in common."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from images.errors import SourceError
from images.items import Content, Item


class Contents(Protocol):
    """N images by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Content: ...


class EncodedRows:
    """Image files laid end to end: row i is `data[offsets[i]:offsets[i + 1]]`."""

    def __init__(self, data: NDArray[np.uint8], offsets: NDArray[np.integer[Any]]) -> None:
        self._data = data
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        return self._data[self._offsets[index] : self._offsets[index + 1]].tobytes()


@dataclass(frozen=True)
class ArraySource:
    """Images by number in one file.

    Attributes:
        name: what the user called it.
        path: the file.
        scheme: of the uris, `idx` or `npz`.
        prefix: of the keys, as in `train/00012`.
        contents: the images.
        labels: [N] indices into `names`, or None if unlabelled.
        names: the class names in the order of their indices.
    """

    name: str
    path: Path
    scheme: str
    prefix: str
    contents: Contents
    labels: NDArray[np.integer[Any]] | None
    names: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The sorted label names; () if unlabelled."""
        return tuple(sorted(set(self.names)))

    def __len__(self) -> int:
        return len(self.contents)

    def __iter__(self) -> Iterator[Item]:
        base = f"{self.scheme}://{quote(self.path.as_posix())}"
        digits = max(5, len(str(len(self) - 1)))
        for index in range(len(self)):
            label = None if self.labels is None else self.names[int(self.labels[index])]
            read = partial(self.contents.__getitem__, index)
            yield Item(f"{self.prefix}/{index:0{digits}d}", f"{base}#{index}", label, read)


def name_labels(
    labels: NDArray[Any], names: tuple[str, ...], path: Path
) -> tuple[NDArray[np.integer[Any]], tuple[str, ...]]:
    """Return labels as indices and the names they index; numbers are their own names if none are given."""
    if not names:
        values, indices = np.unique(labels, return_inverse=True)
        return indices, tuple(str(value) for value in values)
    if not np.issubdtype(labels.dtype, np.integer):
        raise SourceError(f"{path}: labels are {labels.dtype}, but class names need whole numbers")
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
        raise SourceError(
            f"{path}: labels run from {labels.min()} to {labels.max()}, but there are {len(names)} class names"
        )
    return labels, names

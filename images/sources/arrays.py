"""Sources that hold their images in arrays: what IDX and npz files have in common."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote_from_bytes

import numpy as np
from numpy.typing import NDArray

from base.errors import ImageRefused, RefusalReason, SourceError
from base.text import printable
from images.items import Content, Item


class Contents(Protocol):
    """N images by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Content: ...


class EncodedRows:
    """Image files laid end to end: number i is `data[offsets[i]:offsets[i + 1]]`."""

    def __init__(self, data: NDArray[np.uint8], offsets: NDArray[np.integer[Any]]) -> None:
        self._data = data
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        return self._data[self._offsets[index] : self._offsets[index + 1]].tobytes()


@dataclass(frozen=True, slots=True)
class Labels:
    """Class names by number of image; unlabeled by default.

    Attributes:
        indices: [N] positions in `names`, -1 for none; or None if unlabeled.
        names: the class names, in the order of their numbers.
    """

    indices: NDArray[np.integer[Any]] | None = None
    names: tuple[str, ...] = ()

    def __getitem__(self, index: int) -> str | None:
        number = -1 if self.indices is None else int(self.indices[index])
        return None if number < 0 else self.names[number]


Opener = Callable[[Path, str], "ArraySource"]
"""Opens an array file: called with its path and what the user called it."""


@dataclass(frozen=True, slots=True)
class ArraySource:
    """Images by number in one file.

    Attributes:
        name: what the user called it.
        path: the file.
        scheme: of the uris, `idx` or `npz`.
        prefix: of the keys, as `train` in `train/00012`.
        contents: the images.
        labels: their class names.
        open_file: opens the file once more, in another process: a function of a module.
    """

    name: str
    path: Path
    scheme: str
    prefix: str
    contents: Contents
    labels: Labels
    open_file: Opener

    @property
    def classes(self) -> tuple[str, ...]:
        """The sorted class names, also those without an image; () if unlabeled."""
        return tuple(sorted(set(self.labels.names)))

    def __len__(self) -> int:
        return len(self.contents)

    def __iter__(self) -> Iterator[Item]:
        base = f"{self.scheme}://{quote_from_bytes(os.fsencode(self.path))}"
        digits = max(5, len(str(len(self) - 1)))
        for index in range(len(self)):
            uri = f"{base}#{index}"
            yield Item(
                key=f"{self.prefix}/{index:0{digits}d}",
                uri=uri,
                label=self.labels[index],
                read=_ImageReader(self.contents, self.open_file, self.path, index, uri),
            )


@dataclass(frozen=True, slots=True)
class _ImageReader:
    """The reader of one image. It is pickled without the array that all images are in."""

    contents: Contents
    open_file: Opener
    path: Path
    index: int
    uri: str

    def __call__(self) -> Content:
        return self.contents[self.index]

    def __reduce__(self) -> tuple[type["_FileReader"], tuple[Opener, Path, int, str]]:
        return _FileReader, (self.open_file, self.path, self.index, self.uri)


@dataclass(frozen=True, slots=True)
class _FileReader:
    """The same in another process: it opens the file, of which the last few stay open."""

    open_file: Opener
    path: Path
    index: int
    uri: str

    def __call__(self) -> Content:
        try:
            return read_image(self.open_file, self.path, self.index)
        except (OSError, SourceError, LookupError, ValueError) as error:
            message = f"cannot read {self.uri}: {error}"
            raise ImageRefused(RefusalReason.UNREADABLE, message) from error


def read_image(open_file: Opener, path: Path, index: int) -> Content:
    """Return image number `index` of an array file.

    Raises:
        OSError, SourceError: the file is gone or damaged.
        IndexError: it holds fewer images.
    """
    source = _reopen_unchanged(open_file, path, path.stat().st_mtime_ns)
    if index >= len(source):
        raise IndexError(f"it holds {len(source)} images")
    return source.contents[index]


@lru_cache(maxsize=4)
def _reopen_unchanged(open_file: Opener, path: Path, _mtime_ns: int) -> ArraySource:
    """Keep the last few files open: unpacking one takes long, and neighbors come from the same."""
    return open_file(path, str(path))


def name_labels(values: NDArray[Any], names: tuple[str, ...], path: Path) -> Labels:
    """Return the labels [N] of `path` as `names[value]`; without names a value names itself."""
    if not names:
        distinct, indices = np.unique(values, return_inverse=True)
        return Labels(indices, tuple(printable(str(value)) for value in distinct))
    if not np.issubdtype(values.dtype, np.integer):
        message = f"{path}: labels of type {values.dtype} do not number {len(names)} class names"
        raise SourceError(message)
    lowest, highest = int(values.min()), int(values.max())
    if not 0 <= lowest <= highest < len(names):
        message = (
            f"{path}: labels run from {lowest} to {highest}, there are {len(names)} class names"
        )
        raise SourceError(message)
    return Labels(values, tuple(map(printable, names)))

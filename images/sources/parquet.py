"""Parquet files with a column of image files, as Hugging Face's datasets are stored.

    image column   binary, or struct<bytes: binary, path: string>; by name one of IMAGE_COLUMNS, or
                   the only column of such a type; else text, the paths of image files, one of
                   PATH_COLUMNS. A path counts from the folder of the Parquet file, and also where
                   the bytes of a struct are null.
                   Of lists of these the first image is read.
    label column   whole numbers (also as floating-point ones), text or booleans; one of
                   LABEL_COLUMNS. Hugging Face's class names, in the schema's metadata, name the
                   numbers.
    key column     text; one of KEY_COLUMNS. Without one, and where keys are missing or the same,
                   rows are called by their number.

The user may choose other columns.

Rows are read in stretches of BATCH, the last few of which are kept: memory does not grow with the
file nor with its row groups, as long as the rows are read about in order.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from base.errors import ImageRefused, RefusalReason, SourceError
from base.text import one_line, printable
from images.items import Item
from images.sources.arrays import Labels
from images.sources.locations import (
    check_size,
    file_system,
    is_url,
    join_uri,
    size_and_stamp,
    unreadable,
)
from images.sources.parquet_columns import (
    AS_CALLED,
    ColumnNames,
    image_column,
    is_list,
    is_text,
    plain,
    read_keys,
    read_labels,
    valid_text,
)
from images.sources.passed_over import PassedOver
from images.sources.paths import read_file

MAGIC = b"PAR1"
BATCH = 32  # rows read at once, fewer of large images
BATCH_BYTES = 8 * 2**20
READ_AHEAD = 2**20  # bytes behind a URL; without a number pyarrow reads a whole row group
KEPT = 16  # stretches


def open_parquet(location: str, name: str, requested: ColumnNames = AS_CALLED) -> "ParquetSource":
    """List a Parquet file's rows; `requested` says which columns count.

    Raises:
        SourceError: pyarrow is not installed; the file is damaged, or has no column of images.
    """
    pa = _pyarrow(location)
    try:
        stamp = size_and_stamp(location)[1]
        rows = _rows(location, stamp, requested.image)
        if rows.count == 0:
            raise SourceError(f"{location} holds no rows")
        labels, of_labels = read_labels(rows, location, requested.label)
        keys, of_keys = read_keys(rows, location, requested.key)
        notes = [text for text in (of_keys, of_labels, rows.note) if text]
    except (OSError, pa.ArrowException) as error:
        raise SourceError(
            f"{location} is not a readable Parquet file: {one_line(error)}"
        ) from error
    except UnicodeDecodeError as error:
        message = f"{location} has names of columns that are not UTF-8"
        raise SourceError(f"{message}; rename them and write it anew") from error
    return ParquetSource(
        name, location, stamp, rows.count, labels, keys, tuple(notes), requested.image
    )


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """The rows of a Parquet file, each one image.

    Attributes:
        name: what the user called it.
        location: the file.
        stamp: of the file when it was listed.
        count: rows.
        labels: by row.
        keys: an Arrow array of text by row, or None: the file's name and the row's number.
        notes: why columns of keys or labels are not read.
        column: that the user chose for the images, or None.
    """

    name: str
    location: str
    stamp: str
    count: int
    labels: Labels
    keys: Any
    notes: tuple[str, ...] = ()
    column: str | None = None

    @property
    def passed_over(self) -> PassedOver:
        """What the user should know."""
        return PassedOver(notes=list(self.notes))

    @property
    def classes(self) -> tuple[str, ...]:
        """The sorted class names, also those without an image; () if unlabeled."""
        return tuple(sorted(set(self.labels.names)))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Item]:
        base = join_uri("parquet", self.location)
        of_column = "" if self.column is None else f"@{quote(self.column)}"
        stem = self.location.rpartition("/")[2].removesuffix(".parquet")
        digits = max(5, len(str(self.count - 1)))
        for row in range(self.count):
            key = f"{stem}/{row:0{digits}d}" if self.keys is None else self.keys[row].as_py()
            read = partial(read_row, self.location, self.stamp, row, self.column)
            yield Item(key, f"{base}#{row}{of_column}", self.labels[row], read)


def read_row(location: str, stamp: str, row: int, column: str | None = None) -> bytes:
    """Return the image file in a row, of the column of images or another one.

    Raises:
        ImageRefused: EMPTY if the row has none; UNREADABLE, also for a damaged part of the file.
    """
    try:
        data = _rows(location, stamp, column)[row]
    except Exception as error:  # a damaged page makes Arrow raise nearly anything
        raise unreadable(f"row {row} of {location}", one_line(error)) from error
    if isinstance(data, str):
        return _read_path(location, row, data)
    if data is None:
        raise ImageRefused(RefusalReason.EMPTY, f"row {row} holds no image's bytes")
    check_size(len(data))
    return data


def _read_path(location: str, row: int, path: str) -> bytes:
    """Return the image file that a row names instead of holding it, from its folder on."""
    if is_url(location) or is_url(path):
        message = f"row {row} of {location} has a path ({path}) but no bytes; write them into it"
        raise ImageRefused(RefusalReason.UNREADABLE, message)
    return read_file(str(Path(location).parent / path))


@lru_cache(maxsize=8)
def _rows(location: str, _stamp: str, column: str | None = None) -> "_Rows":
    return _Rows(location, column)


class _Rows:
    """The image column of an open file. Several threads may ask at once."""

    def __init__(self, location: str, column: str | None) -> None:
        import pyarrow.parquet as pq

        if is_url(location):
            system, path = file_system(location)
            self._file = pq.ParquetFile(
                system.open(path, "rb"), pre_buffer=False, buffer_size=READ_AHEAD
            )
        else:
            self._file = _mapped(location)
        self._lock = threading.Lock()
        self.schema = self._file.schema_arrow
        self.count: int = self._file.metadata.num_rows
        self._column = image_column(self.schema, location, column)
        lists = is_list(self.schema.field(self._column).type)
        self.note = f"{location}: of several images in a row the first is read" if lists else None
        facts = self._file.metadata
        groups = [facts.row_group(i).num_rows for i in range(facts.num_row_groups)]
        size = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
        self._batch = max(1, min(BATCH, BATCH_BYTES * self.count // max(size, 1)))
        self._starts = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])
        self._kept: dict[int, Any] = {}  # first row of a stretch: its values
        self._stretches: Iterator[Any] = iter(())
        self._next = -1  # first row of the stretch that comes next

    def whole(self, column: str) -> Any:
        """Return a column of all rows, not the images."""
        values = self._file.read(columns=[column]).column(0).combine_chunks()
        if is_text(plain(values.type)):
            return valid_text(values.cast(plain(values.type)))
        return values

    def __getitem__(self, row: int) -> bytes | str | None:
        if not 0 <= row < self.count:
            raise IndexError(f"it holds {self.count} rows")
        with self._lock:
            entry = self._find(row)
            if entry is None:
                self._read_to(row)
                entry = self._find(row)
            assert entry is not None
            value = entry.as_py()
        if isinstance(value, list):
            value = value[0] if value else None
        if isinstance(value, dict):
            value = value["bytes"] if value["bytes"] is not None else value.get("path") or None
        data: bytes | str | None = value
        return data

    def _find(self, row: int) -> Any:
        for first, values in self._kept.items():
            if first <= row < first + len(values):
                return values[row - first]
        return None

    def _read_to(self, row: int) -> None:
        """Read on until `row` is there, or again from the start of its row group."""
        group = int(np.searchsorted(self._starts, row, "right")) - 1
        start, end = int(self._starts[group]), int(self._starts[group + 1])
        if not start < self._next <= row:
            self._next = start
            self._stretches = self._file.iter_batches(self._batch, row_groups=[group],
                columns=[self._column], use_threads=False)  # fmt: skip
        try:
            while self._next <= row < end:
                values = next(self._stretches).column(0)
                self._kept[self._next] = values
                self._next += len(values)
                if len(self._kept) > KEPT:
                    del self._kept[next(iter(self._kept))]
        except BaseException:
            self._next = -1  # where the reader stands is not known: begin anew
            raise


def _mapped(location: str) -> Any:
    """Open a file mapped and not read ahead: of a row group memory holds only what was read."""
    import pyarrow.parquet as pq

    if printable(location) == location:
        return pq.ParquetFile(location, memory_map=True, pre_buffer=False)
    with Path(location).open("rb") as file:  # Arrow takes only paths that are UTF-8
        return pq.ParquetFile(f"/dev/fd/{file.fileno()}", memory_map=True, pre_buffer=False)


def _pyarrow(location: str) -> Any:
    try:
        import pyarrow as pa
    except ImportError as error:
        message = f"{location} is a Parquet file: reading it needs pyarrow"
        raise SourceError(f"{message}; pip install 'lookalike[serve]'") from error
    return pa


def read_parquet_uri(location: str, row: int, column: str | None = None) -> bytes:
    """Return the image file in a row. Raises as `read_row`, and OSError, SourceError."""
    return read_row(location, size_and_stamp(location)[1], row, column)

"""Parquet files with a column of image files, as Hugging Face's datasets are stored.

    image column   binary, or struct<bytes: binary, path: string>; by name one of IMAGE_COLUMNS, or
                   the only column of such a type
    label column   whole numbers or text; one of LABEL_COLUMNS. Hugging Face's class names, in the
                   schema's metadata, name the numbers.
    key column     text; one of KEY_COLUMNS. Without one, rows are called by their number.

Rows are read in stretches of BATCH, the last few of which are kept: memory does not grow with the
file nor with its row groups, as long as the rows are read about in order.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from base.errors import ImageRefused, RefusalReason, SourceError
from base.text import one_line, printable
from images.items import Item
from images.sources.arrays import Labels, name_labels
from images.sources.locations import (
    check_size,
    file_system,
    is_url,
    join_uri,
    size_and_stamp,
    unreadable,
)

MAGIC = b"PAR1"
IMAGE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_bytes",
                 "bytes", "content", "data")  # fmt: skip
LABEL_COLUMNS = ("label", "labels", "class", "cls", "class_name", "category", "fine_label")
KEY_COLUMNS = ("key", "__key__", "file_name", "filename", "path")
BATCH = 32  # rows read at once
KEPT = 16  # stretches


def open_parquet(location: str, name: str) -> "ParquetSource":
    """List a Parquet file's rows.

    Raises:
        SourceError: pyarrow is not installed; the file is damaged, or has no column of images.
    """
    pa = _pyarrow(location)
    try:
        stamp = size_and_stamp(location)[1]
        rows = _rows(location, stamp)
        if rows.count == 0:
            raise SourceError(f"{location} holds no rows")
        labels, keys = _labels(rows, location), _keys(rows, location)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(
            f"{location} is not a readable Parquet file: {one_line(error)}"
        ) from error
    except UnicodeDecodeError as error:
        message = f"{location} has names of columns that are not UTF-8"
        raise SourceError(f"{message}; rename them and write it anew") from error
    return ParquetSource(name, location, stamp, rows.count, labels, keys)


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
    """

    name: str
    location: str
    stamp: str
    count: int
    labels: Labels
    keys: Any

    @property
    def classes(self) -> tuple[str, ...]:
        """The sorted class names, also those without an image; () if unlabeled."""
        return tuple(sorted(set(self.labels.names)))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Item]:
        base = join_uri("parquet", self.location)
        stem = self.location.rpartition("/")[2].removesuffix(".parquet")
        digits = max(5, len(str(self.count - 1)))
        for row in range(self.count):
            key = f"{stem}/{row:0{digits}d}" if self.keys is None else self.keys[row].as_py()
            read = partial(read_row, self.location, self.stamp, row)
            yield Item(key, f"{base}#{row}", self.labels[row], read)


def read_row(location: str, stamp: str, row: int) -> bytes:
    """Return the image file in a row.

    Raises:
        ImageRefused: EMPTY if the row has none; UNREADABLE, also for a damaged part of the file.
    """
    try:
        data = _rows(location, stamp)[row]
    except Exception as error:  # a damaged page makes Arrow raise nearly anything
        raise unreadable(f"row {row} of {location}", one_line(error)) from error
    if data is None:
        raise ImageRefused(RefusalReason.EMPTY, f"row {row} holds no image's bytes")
    check_size(len(data))
    return data


@lru_cache(maxsize=8)
def _rows(location: str, _stamp: str) -> "_Rows":
    return _Rows(location)


class _Rows:
    """The image column of an open file. Several threads may ask at once."""

    def __init__(self, location: str) -> None:
        import pyarrow.parquet as pq

        if is_url(location):
            system, path = file_system(location)
            self._file = pq.ParquetFile(system.open(path, "rb"), pre_buffer=False)
        else:
            self._file = _mapped(location)
        self._lock = threading.Lock()
        self.schema = self._file.schema_arrow
        self.count: int = self._file.metadata.num_rows
        self._column = _image_column(self.schema, location)
        facts = self._file.metadata
        groups = [facts.row_group(i).num_rows for i in range(facts.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])
        self._kept: dict[int, Any] = {}  # first row of a stretch: its values
        self._stretches: Iterator[Any] = iter(())
        self._next = -1  # first row of the stretch that comes next

    def whole(self, column: str) -> Any:
        """Return a column of all rows, not the images."""
        return self._file.read(columns=[column]).column(0).combine_chunks()

    def __getitem__(self, row: int) -> bytes | None:
        if not 0 <= row < self.count:
            raise IndexError(f"it holds {self.count} rows")
        with self._lock:
            entry = self._find(row)
            if entry is None:
                self._read_to(row)
                entry = self._find(row)
            assert entry is not None
            value = entry.as_py()
        data: bytes | None = value["bytes"] if isinstance(value, dict) else value
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
            self._stretches = self._file.iter_batches(BATCH, row_groups=[group],
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


def _image_column(schema: Any, location: str) -> str:
    fitting = [field.name for field in schema if _holds_files(field.type)]
    column = next((name for name in IMAGE_COLUMNS if name in fitting), None)
    if column is None and len(fitting) == 1:
        column = fitting[0]
    if column is None:
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
        message = f"{location} has no column of image files among {columns[:300]}"
        raise SourceError(f"{message}; it must be binary or struct<bytes, path>, called image")
    return column


def _holds_files(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_files(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _labels(rows: _Rows, location: str) -> Labels:
    import pyarrow as pa

    for name in LABEL_COLUMNS:
        kind = rows.schema.field(name).type if name in rows.schema.names else pa.null()
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_integer(kind) or _is_text(kind):
            return _named(rows.whole(name), _class_names(rows.schema, name), location)
    return Labels()


def _named(values: Any, names: tuple[str, ...], location: str) -> Labels:
    """Return the labels; a row without one, or with Hugging Face's -1, has none."""
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    labeled = values.is_valid().to_numpy(zero_copy_only=False)
    text = _is_text(values.type)
    filled = values.fill_null("" if text else -1).to_numpy(zero_copy_only=False)
    if names:
        labeled = labeled & (filled >= 0)
    if not labeled.any():
        return Labels()
    labels = name_labels(
        np.asarray(filled[labeled], str if text else np.int64), names, Path(location)
    )
    assert labels.indices is not None
    indices = np.full(len(filled), -1, np.int64)
    indices[labeled] = labels.indices
    return Labels(indices, labels.names)


def _keys(rows: _Rows, location: str) -> Any:
    name = next((key for key in KEY_COLUMNS if key in rows.schema.names), None)
    if name is None or not _is_text(rows.schema.field(name).type):
        return None
    keys = rows.whole(name)
    if keys.null_count or len(keys.unique()) < len(keys):
        message = f"{location}: the column {name} gives the keys, but some of them are missing or"
        raise SourceError(f"{message} the same; make them unique, or rename the column")
    return keys


def _class_names(schema: Any, column: str) -> tuple[str, ...]:
    """Return the names that Hugging Face's metadata give the numbers of a column."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
    except (KeyError, ValueError, TypeError):
        return ()
    names = info.get("names") if isinstance(info, Mapping) else None
    fits = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if fits and names else ()


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _pyarrow(location: str) -> Any:
    try:
        import pyarrow as pa
    except ImportError as error:
        message = f"{location} is a Parquet file: reading it needs pyarrow"
        raise SourceError(f"{message}; pip install 'lookalike[serve]'") from error
    return pa


def read_parquet_uri(location: str, row: int) -> bytes:
    """Return the image file in a row. Raises as `read_row`, and OSError, SourceError."""
    return read_row(location, size_and_stamp(location)[1], row)

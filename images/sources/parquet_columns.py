"""Which columns of a Parquet file hold images, labels and keys, and what stands in the last two."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from base.errors import SourceError
from base.text import printable
from images.sources.arrays import Labels, name_labels

IMAGE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_bytes",
                 "bytes", "content", "data")  # fmt: skip
LABEL_COLUMNS = ("label", "labels", "class", "cls", "class_name", "category", "fine_label")
KEY_COLUMNS = ("key", "__key__", "file_name", "filename", "path")
PATH_COLUMNS = ("image", "img", "image_path", "file_path", "path", "file_name", "filename", "file")


class Columns(Protocol):
    """An open file."""

    schema: Any

    def whole(self, column: str) -> Any:
        """Return a column of all rows."""


def image_column(schema: Any, location: str) -> str:
    """Return which column holds images or their paths. Raises SourceError if none does."""
    fitting = [field.name for field in schema if _holds_files(field.type)]
    column = next((name for name in IMAGE_COLUMNS if name in fitting), None)
    if column is None and len(fitting) == 1:
        column = fitting[0]
    if column is None:  # paths of image files instead
        texts = [field.name for field in schema if is_text(field.type)]
        column = next((name for name in PATH_COLUMNS if name in texts), None)
    if column is None:
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
        message = f"{location} has no column of image files among {columns[:300]}"
        raise SourceError(
            f"{message}; it must be binary, struct<bytes, path> or paths, called image"
        )
    return column


def _holds_files(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_files(kind.field(index).type)
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_kind(kind) for is_kind in kinds)


def label_note(schema: Any, location: str) -> str | None:
    """Return why labels are not read although there is a column of them."""
    names = [name for name in LABEL_COLUMNS if name in schema.names]
    if not names or any(_names_classes(schema.field(name).type) for name in names):
        return None
    kind = schema.field(names[0]).type
    return f"{location}: labels in {names[0]} are not read: {kind} is not whole numbers or text"


def _names_classes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_null(kind) or pa.types.is_integer(kind) or is_text(kind))


def read_labels(rows: Columns, location: str) -> Labels:
    """Return the labels of all rows, from the first of LABEL_COLUMNS that is of a fitting type."""
    import pyarrow as pa

    for name in LABEL_COLUMNS:
        kind = rows.schema.field(name).type if name in rows.schema.names else pa.null()
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_integer(kind) or is_text(kind):
            return _named(rows.whole(name), _class_names(rows.schema, name), location)
    return Labels()


def _named(values: Any, names: tuple[str, ...], location: str) -> Labels:
    """Return the labels; a row without one, or with Hugging Face's -1, has none."""
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    labeled = values.is_valid().to_numpy(zero_copy_only=False)
    text = is_text(values.type)
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


def read_keys(rows: Columns, location: str) -> tuple[Any, str | None]:
    """Return the keys, None where rows go by their number, and why if there is a column of them."""
    name = next((key for key in KEY_COLUMNS if key in rows.schema.names), None)
    if name is None or not is_text(rows.schema.field(name).type):
        return None, None
    keys = rows.whole(name)
    if keys.null_count or len(keys.unique()) < len(keys):
        fault = "missing" if keys.null_count else "the same"
        return None, f"{location}: rows go by their number: some keys in its {name} are {fault}"
    return keys, None


def _class_names(schema: Any, column: str) -> tuple[str, ...]:
    """Return the names that Hugging Face's metadata give the numbers of a column."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
    except (KeyError, ValueError, TypeError):
        return ()
    names = info.get("names") if isinstance(info, Mapping) else None
    fits = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if fits and names else ()


def is_text(kind: Any) -> bool:
    """Return whether a column of this type holds text."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def valid_text(values: Any) -> Any:
    """Return text that Parquet does not promise to be UTF-8 as valid Unicode."""
    import pyarrow as pa

    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        raw = values.cast(pa.large_binary()).to_pylist()
        texts = [None if text is None else printable(os.fsdecode(text)) for text in raw]
        return pa.array(texts, pa.large_string())
    return values

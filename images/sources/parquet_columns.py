"""Which columns of a Parquet file hold images, labels and keys, and what stands in the last two."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class ColumnNames:
    """Which columns hold what, where the user says so; None: those that are called so."""

    image: str | None = None
    label: str | None = None
    key: str | None = None

    def __bool__(self) -> bool:
        return (self.image, self.label, self.key) != (None, None, None)


AS_CALLED = ColumnNames()


class Columns(Protocol):
    """An open file."""

    schema: Any

    def whole(self, column: str) -> Any:
        """Return a column of all rows."""


def plain(kind: Any) -> Any:
    """Return the type of the values of a column that may be a dictionary's."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def image_column(schema: Any, location: str, requested: str | None = None) -> str:
    """Return which column holds images or their paths. Raises SourceError if none does."""
    fitting = [field.name for field in schema if _holds_files(field.type)]
    texts = [field.name for field in schema if is_text(plain(field.type))]
    if requested is not None:
        _check_column(schema, location, requested, "--image-column", fitting + texts)
        return requested
    column = next((name for name in IMAGE_COLUMNS if name in fitting), None)
    if column is None and len(fitting) > 1:
        names = ", ".join(map(printable, fitting))
        message = f"{location} has {len(fitting)} columns of images: {names}"
        raise SourceError(f"{message}; say which one with --image-column")
    if column is None and fitting:
        column = fitting[0]
    if column is None:  # paths of image files instead
        column = next((name for name in PATH_COLUMNS if name in texts), None)
    if column is None:
        message = f"{location} has no column of image files among {_columns(schema)}"
        hint = " or name one of paths with --image-column" if texts else ""
        raise SourceError(
            f"{message}; it must be binary, struct<bytes, path> or paths, called image{hint}"
        )
    return column


def _check_column(
    schema: Any, location: str, name: str, option: str, fitting: Sequence[str]
) -> None:
    if name in fitting:
        return
    fault = "cannot be used for that" if name in schema.names else "is not there"
    raise SourceError(
        f"{location}: the column {name} of {option} {fault}; its columns: {_columns(schema)}"
    )


def _columns(schema: Any) -> str:
    return printable(", ".join(f"{field.name} ({field.type})" for field in schema)[:300])


def _holds_files(kind: Any) -> bool:
    import pyarrow as pa

    kind = plain(kind)
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_files(kind.field(index).type)
    if is_list(kind):
        return _holds_files(kind.value_type)
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_kind(kind) for is_kind in kinds)


def is_list(kind: Any) -> bool:
    """Return whether the values of a column are lists."""
    import pyarrow as pa

    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in kinds)


def label_note(schema: Any, location: str, requested: str | None = None) -> str | None:
    """Return why labels are not read although there is a column of them."""
    names = [name for name in LABEL_COLUMNS if name in schema.names]
    if requested or not names or any(_names_classes(schema.field(name).type) for name in names):
        return None
    kind = schema.field(names[0]).type
    return f"{location}: labels in {names[0]} are not read: {kind} is not numbers or text"


def _names_classes(kind: Any) -> bool:
    import pyarrow as pa

    kind = plain(kind)
    kinds = (pa.types.is_null, pa.types.is_integer, pa.types.is_boolean, pa.types.is_floating)
    return is_text(kind) or any(is_kind(kind) for is_kind in kinds)


def read_labels(
    rows: Columns, location: str, requested: str | None = None
) -> tuple[Labels, str | None]:
    """Return the labels of all rows, and why they are not read although there are some.

    They are in the requested column, or the first of LABEL_COLUMNS that is of a fitting type.
    """
    schema = rows.schema
    fitting = [field.name for field in schema if _names_classes(field.type)]
    if requested is not None:
        _check_column(schema, location, requested, "--label-column", fitting)
    names = LABEL_COLUMNS if requested is None else (requested,)
    for name in names:
        if name in fitting:
            values = _classes(rows.whole(name))
            if values is None:
                return Labels(), f"{location}: labels in {name} are not read: not whole numbers"
            return _named(values, _class_names(schema, name), location), None
    return Labels(), label_note(schema, location, requested)


def _classes(values: Any) -> Any:
    """Return labels as whole numbers or text; None where they are fractions.

    Whole numbers are floating-point ones where pandas had to write a missing one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_null(values.type):
        return values.cast(pa.string())
    if pa.types.is_boolean(values.type):
        return values.cast(pa.string())
    if not pa.types.is_floating(values.type):
        return values
    values = pc.if_else(pc.is_nan(values), None, values.cast(pa.float64()))
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid:
        return None


def _named(values: Any, names: tuple[str, ...], location: str) -> Labels:
    """Return the labels; a row without one, or with Hugging Face's -1, has none."""
    labeled = values.is_valid().to_numpy(zero_copy_only=False)
    text = is_text(values.type)
    names = () if text else names
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


def read_keys(rows: Columns, location: str, requested: str | None = None) -> tuple[Any, str | None]:
    """Return the keys, None where rows go by their number, and why if there is a column of them."""
    import pyarrow as pa

    schema = rows.schema
    fitting = [field.name for field in schema if is_text(plain(field.type))]
    if requested is not None:
        fitting += [field.name for field in schema if pa.types.is_integer(field.type)]
        _check_column(schema, location, requested, "--key-column", fitting)
    names = KEY_COLUMNS if requested is None else (requested,)
    name = next((key for key in names if key in schema.names), None)
    if name is None or name not in fitting:
        return None, None
    keys = rows.whole(name)
    if not is_text(keys.type):
        keys = keys.cast(pa.string())
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

    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_kind(kind) for is_kind in kinds)


def valid_text(values: Any) -> Any:
    """Return text that Parquet does not promise to be UTF-8 as valid Unicode."""
    import pyarrow as pa

    if pa.types.is_string_view(values.type):
        values = values.cast(pa.large_string())
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        raw = values.cast(pa.large_binary()).to_pylist()
        texts = [None if text is None else printable(os.fsdecode(text)) for text in raw]
        return pa.array(texts, pa.large_string())
    return values

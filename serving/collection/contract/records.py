"""The records that go into a collection and come out of it, checked where they enter."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from base.errors import UsageError
from serving.collection.contract.keys import UNREACHABLE
from serving.collection.contract.stored_vectors import Dtype, kept_by_half, stored

OnDuplicate = Literal["refuse", "replace"]

MAX_KEY_BYTES = 1024
MAX_LABEL_BYTES = MAX_METADATA_BYTES = 2**16  # the latter as JSON; a page has many of them
KEPT_FIELDS = frozenset(("uri", "label", "width", "height", "sha256", "metadata"))
# What images and feature folders say nothing about; users give it, and it stays.
UNKNOWN_TO_IMAGES = frozenset(("metadata",))
# A float32 vector normalized elsewhere has a length within a few 1e-7 of one. Such a vector is
# kept bit for bit, so that an item read from a collection and added again is the same item.
UNIT_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Record:
    """One item of a collection.

    Attributes:
        key: unique in the collection; 1 to 1024 bytes of UTF-8.
        vector: float32 [E]; any length but zero when added, of length one when read.
        uri: where the image is (`images.sources.sources.read_uri` opens it).
        label: the class, if one is known; at most 64 KiB of UTF-8.
        width: of the original image, in pixels.
        height: of the original image, in pixels.
        sha256: of the image's content, hex.
        metadata: a JSON object, of at most 64 KiB.
        keep: names of fields that the source does not know. An item that is there keeps its own; a
            new one gets what the record holds.
    """

    key: str
    vector: ArrayLike
    uri: str
    label: str | None = None
    width: int | None = None
    height: int | None = None
    sha256: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    keep: frozenset[str] = field(default=frozenset(), compare=False)


@dataclass(frozen=True, slots=True)
class Hit:
    """A neighbor: an item and its cosine similarity to the query, in [-1, 1]."""

    key: str
    score: float
    uri: str
    label: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AddReport:
    """The result of one call of `add`.

    Attributes:
        added: items that were new.
        replaced: items whose key was there with other content.
        unchanged: items that were there already, equal in every field.
        sequence: the ledger's number after the last of them; None where there is no ledger.
    """

    added: int
    replaced: int
    unchanged: int
    sequence: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """A checked record as the ledger stores it; `keep` is not stored."""

    key: str
    vector: bytes
    uri: str
    label: str | None
    width: int | None
    height: int | None
    sha256: str | None
    metadata: str
    keep: frozenset[str] = field(default=frozenset(), compare=False)

    def merged(self, old: "Row") -> "Row":
        """Return the row with the fields to keep taken from the item that is there."""
        if not self.keep:
            return self
        # what neither of two rows of one batch knows, the item in the collection does
        kept: dict[str, Any] = {name: getattr(old, name) for name in self.keep}
        return replace(self, **kept, keep=self.keep & old.keep)


def last_of_each(rows: Iterable[Row]) -> dict[str, Row]:
    """Return the last row of each key; what it is to keep comes from those before it."""
    last: dict[str, Row] = {}
    for row in rows:
        last[row.key] = row.merged(last[row.key]) if row.key in last else row
    return last


def checked_rows(records: Iterable[Record], dim: int, dtype: Dtype = "float32") -> list[Row]:
    """Check a batch and bring its vectors to length one, as a ledger of this dtype holds them.

    Raises:
        UsageError: naming the key and the value, for an empty or over-long key, for `.` and
            `..`, a text that is not UTF-8, a vector of another dimension, with NaN or infinity or
            of length zero, a size that is not a positive number, a label that is too long, or
            metadata that is too large or that JSON cannot hold.
    """
    batch = list(records)
    names = [f"item {_checked_key(record.key, number)!r}" for number, record in enumerate(batch)]
    vectors = unit_vectors([record.vector for record in batch], dim, names, dtype)
    return [
        _row(record, vector, name)
        for record, vector, name in zip(batch, stored(vectors, dtype), names, strict=True)
    ]


def unit_vectors(
    vectors: Sequence[ArrayLike] | ArrayLike,
    dim: int,
    names: Sequence[str],
    dtype: Dtype = "float32",
) -> NDArray[np.float32]:
    """Return vectors of length one, float32 little-endian [N, dim]; the names are for messages.

    Those that were read from a ledger of this dtype are kept bit for bit.

    Raises:
        UsageError: for another shape, NaN, infinity or a zero vector.
    """
    matrix = np.empty((len(names), dim), "<f4")
    for row, (vector, name) in enumerate(zip(vectors, names, strict=True)):  # type: ignore[arg-type]
        matrix[row] = _as_vector(vector, dim, name)
    lengths = np.sqrt(np.square(matrix, dtype=np.float64).sum(axis=1))
    bad = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if len(bad):
        raise UsageError(f"{names[bad[0]]}: {_what_is_wrong(matrix[bad[0]])}", param="vector")
    off = np.abs(lengths - 1) > UNIT_TOLERANCE
    if dtype == "float16":
        off &= ~kept_by_half(matrix, lengths)
    matrix[off] = matrix[off].astype(np.float64) / lengths[off, None]
    return matrix


def _as_vector(vector: ArrayLike, dim: int, name: str) -> NDArray[np.float32]:
    try:
        array = np.asarray(vector)
    except ValueError as error:  # lists of unequal lengths
        message = f"{name}: the vector is not a list of numbers ({error})"
        raise UsageError(message, param="vector") from error
    if array.dtype.kind not in "iuf":
        message = f"{name}: the vector is not a list of numbers, but {array.dtype}"
        raise UsageError(message, param="vector")
    with np.errstate(over="ignore"):  # what becomes infinite is refused like infinity
        array = array.astype(np.float32)
    if array.shape != (dim,):
        raise UsageError(
            f"{name}: the vector has the shape {list(array.shape)}, this collection holds [{dim}]",
            param="vector",
        )
    return array


def _what_is_wrong(vector: NDArray[np.float32]) -> str:
    if vector.any():
        location = int(np.flatnonzero(~np.isfinite(vector))[0])
        return f"the vector has {vector[location]} at position {location}; a number is needed"
    return "the vector is zero and has no direction, so nothing can be similar to it"


def _checked_key(key: object, number: int) -> str:
    if not isinstance(key, str) or not key:
        raise UsageError(
            f"item number {number}: the key is {key!r}; a text that is not empty is needed",
            param="key",
        )
    if key in UNREACHABLE:
        message = f"item number {number}: the key is {key!r}; no path would lead to it over HTTP"
        raise UsageError(message, param="key")
    size = len(_utf8(key, f"item number {number}", "key"))
    if size > MAX_KEY_BYTES:
        raise UsageError(
            f"item number {number}: the key {key[:40]!r}… has {size} bytes; at most "
            f"{MAX_KEY_BYTES} are allowed",
            param="key",
        )
    return key


def _row(record: Record, vector: bytes, name: str) -> Row:
    if not frozenset(record.keep) <= KEPT_FIELDS:
        raise UsageError(
            f"{name}: keep is {sorted(record.keep)}; known: {', '.join(sorted(KEPT_FIELDS))}",
            param="keep",
        )
    for field_name in ("uri", "label", "sha256"):
        text = getattr(record, field_name)
        if text is None and field_name != "uri":
            continue
        if not isinstance(text, str):
            raise UsageError(
                f"{name}: {field_name} is {text!r}; a text is needed", param=field_name
            )
        size = len(_utf8(text, name, field_name))
        if field_name == "label" and size > MAX_LABEL_BYTES:
            message = f"{name}: the label has {size} bytes; at most {MAX_LABEL_BYTES} are allowed"
            raise UsageError(message, param="label")
    return Row(
        key=record.key,
        vector=vector,
        uri=record.uri,
        label=record.label,
        width=_size(record.width, name, "width"),
        height=_size(record.height, name, "height"),
        sha256=record.sha256,
        metadata=metadata_text(record.metadata, name),
        keep=frozenset(record.keep),
    )


def _utf8(text: str, name: str, field_name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        message = f"{name}: {field_name} {text!r} is not valid text: {error}"
        raise UsageError(message, param=field_name) from error


def _size(value: object, name: str, field_name: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        message = f"{name}: {field_name} is {value!r}; a number of pixels is needed"
        raise UsageError(message, param=field_name)
    return int(value)


def metadata_text(metadata: Mapping[str, Any], name: str) -> str:
    """Return the canonical text of a metadata object, so that equal objects are equal texts.

    Raises:
        UsageError: JSON cannot hold it, or it is too large; `name` says whose it is.
    """
    if not isinstance(metadata, Mapping):
        raise UsageError(
            f"{name}: metadata is {metadata!r}; an object (a dict) is needed", param="metadata"
        )
    try:
        text = json.dumps(
            dict(metadata),
            ensure_ascii=False,
            allow_nan=False,
            sort_keys=True,
            separators=(",", ":"),
        )
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        message = f"{name}: JSON cannot hold its metadata: {error}"
        raise UsageError(message, param="metadata") from error
    if size > MAX_METADATA_BYTES:
        message = f"{name}: its metadata has {size} bytes as JSON; {MAX_METADATA_BYTES} are allowed"
        raise UsageError(message, param="metadata")
    # json.dumps turns a key 1 into "1" and a tuple into a list: what comes back must be the same.
    if json.loads(text) != metadata:
        message = f"{name}: metadata would not come back the same from JSON: {metadata!r}"
        raise UsageError(message, param="metadata")
    return text

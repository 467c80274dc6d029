"""The tables of a feature folder, as `features.shards` specifies them: columns, and back again."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from images.items import RefusedImage
from serving.embedding.results import Deleted, EmbeddedImage, Entry
from serving.features.manifest import Manifest

METADATA_KEY = b"lookalike.encoder_sha256"
ERROR_FIELDS = ("key", "uri", "stage", "reason", "message")
ROW_FIELDS = ("key", "uri", "label", "width", "height", "sha256")


def shard_schema(manifest: Manifest, *, stamped: bool = True, described: bool = False) -> pa.Schema:
    """Return the columns of a shard; version 1 has no stamps, `described` ones metadata."""
    kind = pa.float16() if manifest.dtype == "float16" else pa.float32()
    embedding = pa.list_(pa.field("element", kind, nullable=False), manifest.embedding_dim)
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        *_stamp(stamped),
        *([pa.field("metadata", pa.string())] if described else []),
        pa.field("embedding", embedding, nullable=False),
    ]
    return pa.schema(fields, metadata=_metadata(manifest))


def errors_schema(manifest: Manifest, *, stamped: bool = True) -> pa.Schema:
    """Return the columns of an errors table."""
    fields = [pa.field(name, pa.string(), nullable=False) for name in ERROR_FIELDS]
    return pa.schema([*fields, *_stamp(stamped)], metadata=_metadata(manifest))


def deleted_schema(manifest: Manifest) -> pa.Schema:
    """Return the columns of a table of deleted images."""
    fields = [pa.field(name, pa.string(), nullable=False) for name in ("key", "uri")]
    return pa.schema([*fields, pa.field("sha256", pa.string())], metadata=_metadata(manifest))


def thumbnails_schema(manifest: Manifest) -> pa.Schema:
    """Return the columns of a table of thumbnails."""
    fields = [pa.field(name, pa.string(), nullable=False) for name in ("key", "sha256")]
    return pa.schema([*fields, pa.field("thumbnail", pa.binary())], metadata=_metadata(manifest))


def _stamp(stamped: bool) -> list[pa.Field]:
    return [pa.field("stamp", pa.string())] if stamped else []


def _metadata(manifest: Manifest) -> dict[bytes, bytes]:
    return {METADATA_KEY: manifest.encoder_sha256.encode()}


def shard_table(manifest: Manifest, entries: Sequence[Entry]) -> pa.Table:
    """Return the embedded ones of some entries."""
    rows = [(e.outcome, e.stamp) for e in entries if isinstance(e.outcome, EmbeddedImage)]
    stamped = manifest.version > 1
    described = stamped and any(row.metadata is not None for row, _ in rows)
    schema = shard_schema(manifest, stamped=stamped, described=described)
    kind = schema.field("embedding").type
    values = np.concatenate([np.empty(0, np.float32), *(row.embedding for row, _ in rows)])
    columns = {
        name: pa.array([getattr(row, name) for row, _ in rows], schema.field(name).type)
        for name in ROW_FIELDS
    }
    if stamped:
        columns["stamp"] = pa.array([stamp for _, stamp in rows], pa.string())
    if described:
        columns["metadata"] = pa.array([row.metadata for row, _ in rows], pa.string())
    flat = pa.array(values.astype(manifest.dtype), kind.value_type)
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, type=kind)
    return pa.table(columns, schema=schema)


def errors_table(manifest: Manifest, entries: Sequence[Entry]) -> pa.Table:
    """Return the refused ones of some entries."""
    rows = [(e.outcome, e.stamp) for e in entries if isinstance(e.outcome, RefusedImage)]
    columns = [pa.array([getattr(row, n) for row, _ in rows], pa.string()) for n in ERROR_FIELDS]
    stamped = manifest.version > 1
    if stamped:
        columns.append(pa.array([stamp for _, stamp in rows], pa.string()))
    return pa.table(columns, schema=errors_schema(manifest, stamped=stamped))


def deleted_table(manifest: Manifest, rows: Sequence[Deleted]) -> pa.Table:
    """Return the table of deleted images."""
    names = ("key", "uri", "sha256")
    columns = [pa.array([getattr(row, name) for row in rows], pa.string()) for name in names]
    return pa.table(columns, schema=deleted_schema(manifest))


def thumbnails_table(manifest: Manifest, entries: Sequence[Entry]) -> pa.Table:
    """Return the thumbnails of the embedded ones."""
    rows = [(e.outcome, e.thumbnail) for e in entries if isinstance(e.outcome, EmbeddedImage)]
    columns = [
        pa.array([row.key for row, _ in rows], pa.string()),
        pa.array([row.sha256 for row, _ in rows], pa.string()),
        pa.array([image for _, image in rows], pa.binary()),
    ]
    return pa.table(columns, schema=thumbnails_schema(manifest))


def embeddings_of(table: pa.Table) -> NDArray[np.float32]:
    """Return the embeddings of a shard, float32 [B,E], whatever they are stored as."""
    column = table.column("embedding").combine_chunks()
    flat: NDArray[np.floating] = column.flatten().to_numpy(zero_copy_only=False)
    return flat.astype(np.float32, copy=False).reshape(-1, column.type.list_size)

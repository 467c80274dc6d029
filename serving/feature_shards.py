"""Feature folders: the embeddings of a whole source, in Parquet. This page is their specification.

A feature folder MUST hold

    manifest.json            what the folder is, written last
    shards/00000.parquet …   the images that have an embedding
    errors/00000.parquet …   those that have none, and why

and MAY hold files whose names begin with a dot, which mean nothing. Shard n and errors table n
cover the items n·``shard_items`` up to (n+1)·``shard_items`` of the source, in its order: an item
is in exactly one of the two, once. A file that ``manifest.json`` does not name MUST be ignored.

Columns of a shard, in this order; "null" says that the value may be missing:

    key        string            of the item in its source; no two rows of a folder have the same
    uri        string            where the image is
    label      string, null      its class, if the source knows it
    width      int32             of the picture as it is meant to be seen (after EXIF rotation)
    height     int32
    sha256     string            of the content: a file's bytes, or an array's values in row order
    embedding  fixed_size_list<element: float32>[E]     of length one

Columns of an errors table:

    key, uri   string
    stage      string            "read", "decode" or "encode": what failed
    reason     string            a word from a fixed list
    message    string            the same for a reader

Both kinds of file carry the encoder's digest as ``lookalike.encoder_sha256`` in their schema's
metadata.

``manifest.json`` is one JSON object with exactly these fields:

    format             "lookalike-features"
    format_version     1; a reader MUST refuse a version that it does not know
    encoder_sha256     of the encoder file
    preprocess_sha256  digest of the encoder's preprocessing specification
    embedding_dim      E
    source             {name, items, limit}: what the source was called, how many items of it are
                       covered, and the limit that was given (or null)
    shard_items        items of each shard but the last
    shards             in the order of their items, a list of
                           file, sha256, rows
                           first_item, items: which items it covers
                           items_sha256: over key, zero byte, uri, zero byte of each, in UTF-8
                           first_key, last_key: of its rows (null if it has none)
                           errors: {file, sha256, rows}
    created_with       names and versions of what wrote it
    rows, errors       sums over the shards
    complete           true when the shards cover all items

Writing a shard is, in this order: errors table (temporary file, fsync, rename, fsync of the
folder), shard (the same), manifest (the same). A crash at any moment leaves the manifest before or
after: what it does not name is written again by ``extract --resume``.

Pandas, Polars and DuckDB read ``shards/*.parquet`` as they are.
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from images.files import sha256_bytes, write_bytes_atomic
from images.items import Item
from serving.feature_manifest import (
    FILE_NAME,
    FORMAT,
    ErrorsFile,
    Manifest,
    Shard,
    read_manifest,
)
from serving.outcomes import Embedded, Outcome, Refused

SHARDS, ERRORS = "shards", "errors"
METADATA_KEY = b"lookalike.encoder_sha256"
ERROR_FIELDS = ("key", "uri", "stage", "reason", "message")


def shard_schema(dim: int, encoder_sha256: str) -> pa.Schema:
    """The columns of a shard with embeddings of length ``dim``."""
    embedding = pa.list_(pa.field("element", pa.float32(), nullable=False), dim)
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("embedding", embedding, nullable=False),
        ],
        metadata={METADATA_KEY: encoder_sha256.encode()},
    )


def errors_schema(encoder_sha256: str) -> pa.Schema:
    """The columns of an errors table."""
    fields = [pa.field(name, pa.string(), nullable=False) for name in ERROR_FIELDS]
    return pa.schema(fields, metadata={METADATA_KEY: encoder_sha256.encode()})


def items_digest(items: Iterable[Item]) -> str:
    """SHA-256 over the items' keys and uris in UTF-8, each followed by a zero byte."""
    names = (f"{item.key}\0{item.uri}\0" for item in items)
    return sha256_bytes("".join(names).encode())


def write_shard(
    folder: Path,
    manifest: Manifest,
    number: int,
    items: Sequence[Item],
    outcomes: Sequence[Outcome],
) -> Shard:
    """Write shard ``number`` and its errors table; the manifest is left to the caller.

    Args:
        folder: the feature folder.
        manifest: of the folder.
        number: of the shard.
        items: of the shard, in order.
        outcomes: what became of them, in the same order.

    Raises:
        LookalikeError: the disk is full or fails; the folder is as it was before.
    """
    embedded = [outcome for outcome in outcomes if isinstance(outcome, Embedded)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    name = f"{number:05}.parquet"
    errors_table = pa.table(
        [pa.array([getattr(row, field) for row in refused], pa.string()) for field in ERROR_FIELDS],
        schema=errors_schema(manifest.encoder_sha256),
    )
    errors = _write(folder, f"{ERRORS}/{name}", errors_table)
    rows = _write(folder, f"{SHARDS}/{name}", _shard_table(manifest, embedded))
    return Shard(
        file=f"{SHARDS}/{name}",
        sha256=rows,
        rows=len(embedded),
        first_item=number * manifest.shard_items,
        items=len(items),
        items_sha256=items_digest(items),
        first_key=embedded[0].key if embedded else None,
        last_key=embedded[-1].key if embedded else None,
        errors=ErrorsFile(file=f"{ERRORS}/{name}", sha256=errors, rows=len(refused)),
    )


def _shard_table(manifest: Manifest, rows: Sequence[Embedded]) -> pa.Table:
    schema = shard_schema(manifest.embedding_dim, manifest.encoder_sha256)
    values = np.concatenate([np.empty(0, np.float32), *(row.embedding for row in rows)])
    columns = [
        pa.array([getattr(row, field.name) for row in rows], field.type)
        for field in list(schema)[:-1]
    ]
    embeddings = pa.FixedSizeListArray.from_arrays(
        pa.array(values), type=schema.field("embedding").type
    )
    return pa.table([*columns, embeddings], schema=schema)


def _write(folder: Path, file: str, table: pa.Table) -> str:
    """Write a Parquet file atomically and return its SHA-256."""
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=["label"])
    content = buffer.getvalue()
    write_bytes_atomic(path, content)
    return sha256_bytes(content)


def is_feature_folder(path: str | Path) -> bool:
    """Whether a path holds a feature folder, by its manifest's first words; damaged ones count."""
    manifest = Path(path) / FILE_NAME
    return manifest.is_file() and FORMAT.encode() in manifest.read_bytes()[:200]


def describe(path: str | Path) -> dict[str, Any]:
    """What a feature folder is, ready for JSON: its manifest without the list of shards.

    Raises:
        ArtefactError: it is not a feature folder or its manifest is damaged.
    """
    manifest = read_manifest(Path(path))
    return {
        "kind": "features",
        "path": str(path),
        **manifest.to_dict(),
        "shards": len(manifest.shards),
        "shards_planned": manifest.planned,
    }

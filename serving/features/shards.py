"""Feature folders: the embeddings of a whole source, in Parquet. This page is their specification.

A feature folder MUST hold

    manifest.json            what the folder is, written last
    shards/00000.parquet …   the images that have an embedding
    errors/00000.parquet …   those that have none, and why

and MAY hold

    deleted/00000-1.parquet …   images that were here and are no longer in the source
    thumbnails/00000.parquet …  small images, row for row those of the shard
    embeddings.npy, keys.parquet    all embeddings as one array, and key, uri and label of its rows

and files whose names begin with a dot, which mean nothing. An item of the source is in exactly one
shard or errors table, once. As long as `updates` is 0, shard n and errors table n cover the items
n·`shard_items` up to (n+1)·`shard_items`, in the order of the source. An update rewrites
tables as `00000-1`, `00000-2` and so on, and appends new images at the end. A file that
`manifest.json` does not name MUST be ignored.

Columns of a shard, in this order; "null" says that the value may be missing:

    key        string            of the item in its source; no two rows of a folder have the same
    uri        string            where the image is
    label      string, null      its class, if the source knows it
    width      int32             of the image as it is meant to be seen (after EXIF rotation)
    height     int32
    sha256     string            of the content: a file's bytes, or an array's values in row order
    stamp      string, null      of the file it lies in when it was read: another one, if the file
                                 may have changed (`images.sources.uris.stamp_of`)
    metadata   string, null      what else the source says of it, as the text of a JSON object; a
                                 shard whose images have none does not have this column
    embedding  fixed_size_list<element: `dtype`>[E]     of length one

Columns of an errors table:

    key, uri   string
    stage      string            "read", "decode" or "encode": what failed
    reason     string            a word from a fixed list
    message    string            the same for a reader
    stamp      string, null      as above

Columns of a table of deleted images: key, uri, sha256 (null, if it had no embedding). Of a table of
thumbnails: key, sha256, thumbnail (binary, a WebP file of at most 384 pixels a side; null, if none
could be made). All carry the encoder's digest as `lookalike.encoder_sha256` in their schema's
metadata.

`manifest.json` is one JSON object with exactly these fields:

    format             "lookalike-features"
    format_version     2; a reader MUST refuse a version that it does not know
    encoder_sha256     of the encoder file
    preprocess_sha256  digest of the encoder's preprocessing specification
    embedding_dim      E
    dtype              "float32" or "float16": how the embeddings are stored
    source             {name, items, limit}: what the source was called, how many items of it are
                       covered, and the limit that was given (or null)
    shard_items        items of each shard but the last
    thumbnails         whether the folder has them
    shards             in the order of their items, a list of
                           file, sha256, rows
                           first_item, items: which items it covers, counted through the shards
                           items_sha256: over key, zero byte, uri, zero byte of each, in UTF-8
                           first_key, last_key: of its rows (null if it has none)
                           errors: {file, sha256, rows}
                           deleted, thumbnails: the same, or null
    updates            how often the folder was brought up to date with its source
    updating           true while that is not finished
    arrays             {embeddings, keys}: {file, sha256, rows} of each, or null
    created_with       names and versions of what wrote it
    rows, errors, deleted    sums over the shards
    complete           true when the shards cover all items and no update is unfinished

Version 1 has no stamps, and of these fields not dtype (float32), thumbnails, updates, updating,
arrays and deleted. It is read, and continued as it is; an update makes it version 2.

Writing a shard is, in this order: its other tables (temporary file, fsync, rename, fsync of the
folder), shard (the same), manifest (the same), removal of the files it replaces. A crash at any
moment leaves the manifest before or after: what it does not name is written again by
`extract --resume` or `--update`.

Pandas, Polars and DuckDB read `shards/*.parquet` as they are.
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from base.files import sha256_bytes, write_bytes_atomic
from serving.embedding.results import Deleted, EmbeddedImage, Entry
from serving.features import tables
from serving.features.manifest import FILE_NAME, FORMAT, Manifest, ShardEntry, Table, read_manifest

SHARDS, ERRORS, DELETED, THUMBNAILS = "shards", "errors", "deleted", "thumbnails"
FOLDERS = (SHARDS, ERRORS, DELETED, THUMBNAILS)


def items_digest(names: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 over keys and uris in UTF-8, each followed by a zero byte."""
    return sha256_bytes("".join(f"{key}\0{uri}\0" for key, uri in names).encode())


def write_shard(
    folder: Path,
    manifest: Manifest,
    number: int,
    entries: Sequence[Entry],
    *,
    generation: int = 0,
    deleted: Sequence[Deleted] = (),
) -> ShardEntry:
    """Write the tables of a shard; the caller writes the manifest.

    Args:
        folder: the feature folder.
        manifest: of the folder.
        number: of the shard.
        entries: its items, in order, with their outcomes.
        generation: how often it has been rewritten.
        deleted: items that it once had.

    Raises:
        LookalikeError: the disk is full or fails; the folder is as it was before.
    """
    name = f"{number:05}-{generation}.parquet" if generation else f"{number:05}.parquet"
    embedded = [e.outcome for e in entries if isinstance(e.outcome, EmbeddedImage)]
    errors = _write(folder, f"{ERRORS}/{name}", tables.errors_table(manifest, entries))
    deleted_entry = thumbnails = None
    if deleted:
        deleted_entry = _write(folder, f"{DELETED}/{name}", tables.deleted_table(manifest, deleted))
    if manifest.thumbnails:
        images = tables.thumbnails_table(manifest, entries)
        thumbnails = _write(folder, f"{THUMBNAILS}/{name}", images, compression="none")
    rows = _write(folder, f"{SHARDS}/{name}", tables.shard_table(manifest, entries))
    return ShardEntry(
        file=rows.file,
        sha256=rows.sha256,
        rows=rows.rows,
        first_item=number * manifest.shard_items,
        items=len(entries),
        items_sha256=items_digest((e.outcome.key, e.outcome.uri) for e in entries),
        first_key=embedded[0].key if embedded else None,
        last_key=embedded[-1].key if embedded else None,
        errors=errors,
        deleted=deleted_entry,
        thumbnails=thumbnails,
    )


def _write(folder: Path, file: str, table: pa.Table, *, compression: str = "zstd") -> Table:
    """Write a Parquet file atomically."""
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    labels = [name for name in ("label",) if name in table.column_names]
    pq.write_table(table, buffer, compression=compression, use_dictionary=labels)
    content = buffer.getvalue()
    write_bytes_atomic(path, content)
    return Table(file=file, sha256=sha256_bytes(content), rows=len(table))


def numbers_of(file: str) -> tuple[int, int]:
    """Return the number and the generation in a shard's file name."""
    number, _, generation = Path(file).stem.partition("-")
    return int(number), int(generation or 0)


def remove_leftovers(folder: Path, manifest: Manifest) -> None:
    """Remove what a killed run left: temporary files, and tables that the manifest does not name.

    Nobody else may be writing to the folder.
    """
    named = {folder / table.file for shard in manifest.shards for table in shard.tables}
    for stray in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
        stray.unlink()
    for location in FOLDERS:
        for file in (folder / location).glob("*.parquet"):
            if file not in named:
                file.unlink()


def is_feature_folder(path: str | Path) -> bool:
    """Whether a path holds a feature folder, by its manifest's beginning; damaged ones count."""
    manifest = Path(path) / FILE_NAME
    return manifest.is_file() and FORMAT.encode() in manifest.read_bytes()[:200]


def describe(path: str | Path) -> dict[str, Any]:
    """Return the manifest of a feature folder, ready for JSON, without the list of shards.

    Raises:
        ArtifactError: it is not a feature folder or its manifest is damaged.
    """
    manifest = read_manifest(Path(path))
    return {
        "kind": "features",
        "path": str(path),
        **manifest.to_dict(),
        "shards": len(manifest.shards),
        "shards_planned": manifest.planned,
    }

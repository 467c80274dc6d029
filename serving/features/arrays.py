"""A feature folder's embeddings as one NumPy array, with their keys beside it (`extract --npy`).

    embeddings.npy    [N,E], to be mapped: np.load("features/embeddings.npy", mmap_mode="r")
    keys.parquet      key, uri, label: row i belongs to row i of the array

The rows are in the order of the shards. Both files are written shard by shard, to a temporary file
that is renamed when it is whole, and named in the manifest with their SHA-256.
"""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from base.files import atomic_write, sha256_file
from serving.features.manifest import Arrays, Manifest, Table
from serving.features.reader import Features

EMBEDDINGS, KEYS = "embeddings.npy", "keys.parquet"
COLUMNS = ("key", "uri", "label")


def write_arrays(folder: Path, manifest: Manifest) -> Arrays:
    """Write both files from the shards, holding one of them in memory at a time.

    Raises:
        ArtifactError: a shard is damaged.
        LookalikeError: the disk is full or fails.
    """
    features = Features(folder, manifest)
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(manifest.dtype)),
        "fortran_order": False,
        "shape": (manifest.rows, manifest.embedding_dim),
    }
    with atomic_write(folder / EMBEDDINGS) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in features.blocks():
            file.write(block.embeddings.astype(manifest.dtype).tobytes())
    with atomic_write(folder / KEYS) as file:
        writer = None
        for shard in manifest.shards:
            table = features.columns(shard, *COLUMNS).replace_schema_metadata()
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()
    return Arrays(**{
        name: Table(file=path, sha256=sha256_file(folder / path), rows=manifest.rows)
        for name, path in (("embeddings", EMBEDDINGS), ("keys", KEYS))
    })  # fmt: skip


def arrays_are_whole(folder: Path, manifest: Manifest) -> bool:
    """Whether both files are there and are what the manifest says."""
    features, arrays = Features(folder, manifest), manifest.arrays
    return arrays is not None and all(map(features.is_intact, (arrays.embeddings, arrays.keys)))

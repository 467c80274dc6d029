"""Export a collection as one Parquet file, and read it back.

Columns: key, uri, label, width, height, sha256, metadata (a JSON object as text) and embedding
(fixed-size list of float32, length one), in the order of the keys. The encoder's digest is
`lookalike.encoder_sha256` in the schema's metadata. Pandas, Polars and DuckDB read it directly.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from base.errors import ArtifactError, LookalikeError, UsageError
from base.files import atomic_write
from base.progress import OnProgress
from serving.collection.contract.interface import AnyCollection
from serving.collection.contract.records import Record

DIGEST = b"lookalike.encoder_sha256"
BLOCK_ROWS = 4096


def schema_of(dim: int, encoder_sha256: str) -> pa.Schema:
    """Return the columns, for embeddings of length `dim`."""
    text, number = pa.string(), pa.int32()
    embedding = pa.list_(pa.field("element", pa.float32(), nullable=False), dim)
    return pa.schema(
        [
            pa.field("key", text, nullable=False),
            pa.field("uri", text, nullable=False),
            pa.field("label", text),
            pa.field("width", number),
            pa.field("height", number),
            pa.field("sha256", text),
            pa.field("metadata", text, nullable=False),
            pa.field("embedding", embedding, nullable=False),
        ],
        metadata={DIGEST: encoder_sha256.encode()},
    )


def export_parquet(
    collection: AnyCollection, out: str | Path, on_progress: OnProgress | None = None
) -> int:
    """Write all items to a file that appears whole or not at all; return how many.

    Items that others add or remove meanwhile may be in it or not.

    Raises:
        UsageError: there is a file already.
        LookalikeError: it cannot be written.
    """
    path = Path(out)
    if path.exists():
        raise UsageError(f"{path} is there already; give the path of a new file")
    schema = schema_of(collection.dim, collection.encoder_digest)
    done = 0
    try:
        with (
            atomic_write(path) as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            for records in collection.pages(BLOCK_ROWS):
                writer.write_table(_table(records, schema))
                done += len(records)
                if on_progress:
                    on_progress(done, len(collection))
    except OSError as error:
        raise LookalikeError(f"cannot write {path}: {error.strerror or error}") from error
    return done


def is_export(path: str | Path) -> bool:
    """Whether it is a file that `export_parquet` wrote."""
    try:
        with Path(path).open("rb") as file:
            if file.read(4) != b"PAR1":
                return False
        return "metadata" in pq.read_schema(path).names and DIGEST in _facts(path)
    except (OSError, pa.ArrowException):
        return False


def count_and_keys(path: str | Path) -> tuple[int, list[str]]:
    """Return how many items an export has, and their keys."""
    keys: list[str] = pq.read_table(path, columns=["key"]).column("key").to_pylist()
    return len(keys), keys


def read_export(path: str | Path, encoder_sha256: str) -> Iterator[list[Record]]:
    """Yield the items of an export in blocks.

    Raises:
        ArtifactError: it is of another encoder, or damaged.
    """
    digest = _facts(path).get(DIGEST, b"").decode()
    if digest != encoder_sha256:
        raise ArtifactError(
            f"{path} was exported from a collection of the encoder {digest[:12]}…, this one is of "
            f"{encoder_sha256[:12]}…: their vectors cannot be compared"
        )
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BLOCK_ROWS):
                yield _records(batch)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); export it again") from error


def _facts(path: str | Path) -> dict[bytes, bytes]:
    return dict(pq.read_schema(path).metadata or {})


def _table(records: list[Record], schema: pa.Schema) -> pa.Table:
    vectors = np.stack([np.asarray(record.vector, np.float32) for record in records])
    embedding = schema.field("embedding").type
    columns: dict[str, Any] = {
        name: [getattr(record, name) for record in records]
        for name in ("key", "uri", "label", "width", "height", "sha256")
    }
    columns["metadata"] = [json.dumps(dict(one.metadata), ensure_ascii=False) for one in records]
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.reshape(-1)), type=embedding
    )
    return pa.table(columns, schema=schema)


def _records(batch: pa.RecordBatch) -> list[Record]:
    embeddings = batch.column("embedding")
    vectors = embeddings.flatten().to_numpy().reshape(len(batch), embeddings.type.list_size)
    rows: Iterable[dict[str, Any]] = batch.drop_columns(["embedding"]).to_pylist()
    return [
        Record(**{**row, "metadata": json.loads(row["metadata"])}, vector=vector)
        for row, vector in zip(rows, vectors, strict=True)
    ]

"""Reading a feature folder, as ``feature_shards`` specifies it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from images.errors import ArtefactError
from images.files import sha256_bytes, sha256_file
from serving.feature_manifest import Manifest, Shard, read_manifest
from serving.feature_shards import errors_schema, shard_schema
from serving.outcomes import Refused

REMEDY = "write it again with: lookalike extract … --resume"


@dataclass(frozen=True, slots=True)
class FeatureBlock:
    """The rows of one shard, column by column.

    Attributes:
        keys: B keys.
        uris: B uris.
        labels: B labels or None.
        widths: int32 [B].
        heights: int32 [B].
        sha256: B digests.
        embeddings: float32 [B, E].
    """

    keys: list[str]
    uris: list[str]
    labels: list[str | None]
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    sha256: list[str]
    embeddings: NDArray[np.float32]


class Features:
    """An open feature folder. Made by ``open_features``.

    Attributes:
        path: the folder.
        manifest: what it says about itself.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def __len__(self) -> int:
        return self.manifest.rows

    def blocks(self) -> Iterator[FeatureBlock]:
        """The shards one after the other, each compared with its SHA-256 before it is used.

        Raises:
            ArtefactError: a shard is missing, damaged or not what the manifest says.
        """
        manifest = self.manifest
        schema = shard_schema(manifest.embedding_dim, manifest.encoder_sha256)
        for shard in manifest.shards:
            yield _block(self._table(shard.file, shard.sha256, shard.rows, schema))

    def keys(self) -> Iterator[str]:
        """The keys of all rows, without their embeddings; the files are not checked.

        Raises:
            ArtefactError: a shard cannot be read.
        """
        for shard in self.manifest.shards:
            path = self.path / shard.file
            try:
                yield from pq.read_table(path, columns=["key"]).column("key").to_pylist()
            except (OSError, pa.ArrowException, KeyError) as error:
                raise ArtefactError(f"{path} cannot be read ({error}); {REMEDY}") from error

    def errors(self) -> Iterator[Refused]:
        """The refused images in the order of the source; checked like ``blocks``."""
        schema = errors_schema(self.manifest.encoder_sha256)
        for shard in self.manifest.shards:
            part = shard.errors
            if part.rows:
                table = self._table(part.file, part.sha256, part.rows, schema)
                yield from (Refused(**row) for row in table.to_pylist())

    def is_whole(self, shard: Shard) -> bool:
        """Whether both files of a shard are there and are what the manifest says."""
        pairs = [(shard.file, shard.sha256), (shard.errors.file, shard.errors.sha256)]
        return all(
            (self.path / file).is_file() and sha256_file(self.path / file) == digest
            for file, digest in pairs
        )

    def _table(self, file: str, digest: str, rows: int, schema: pa.Schema) -> pa.Table:
        path = self.path / file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ArtefactError(f"{path} cannot be read ({error.strerror}); {REMEDY}") from error
        if sha256_bytes(content) != digest:
            raise ArtefactError(f"{path} is damaged: its SHA-256 is not the manifest's; {REMEDY}")
        try:
            table = pq.read_table(pa.BufferReader(content))
        except pa.ArrowException as error:
            raise ArtefactError(f"{path} is not a Parquet file: {error}; {REMEDY}") from error
        if not table.schema.equals(schema, check_metadata=True) or len(table) != rows:
            raise ArtefactError(f"{path} does not have the rows and columns promised; {REMEDY}")
        return table


def open_features(path: str | Path, *, encoder_sha256: str | None = None) -> Features:
    """Open a feature folder, finished or not.

    Args:
        path: the folder.
        encoder_sha256: refuse features of another encoder; None does not ask.

    Raises:
        ArtefactError: it is not a feature folder, its manifest is damaged, or the encoder another.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if encoder_sha256 not in (None, manifest.encoder_sha256):
        raise ArtefactError(
            f"the features in {folder} were made with the encoder {manifest.encoder_sha256[:12]}…, "
            f"{encoder_sha256[:12]}… is wanted: their embeddings cannot be compared. Extract them "
            "again with that encoder into another folder"
        )
    return Features(folder, manifest)


def _block(table: pa.Table) -> FeatureBlock:
    embeddings = table.column("embedding").combine_chunks()
    columns = {name: table.column(name) for name in ("key", "uri", "label", "sha256")}
    return FeatureBlock(
        keys=columns["key"].to_pylist(),
        uris=columns["uri"].to_pylist(),
        labels=columns["label"].to_pylist(),
        widths=table.column("width").to_numpy(),
        heights=table.column("height").to_numpy(),
        sha256=columns["sha256"].to_pylist(),
        embeddings=embeddings.flatten().to_numpy().reshape(-1, embeddings.type.list_size),
    )

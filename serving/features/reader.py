"""Reading a feature folder, as `features.shards` specifies it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from base.errors import ArtifactError
from base.files import sha256_bytes, sha256_file
from images.items import RefusedImage
from serving.embedding.results import Deleted, EmbeddedImage, Entry
from serving.features import tables
from serving.features.manifest import Manifest, ShardEntry, Table, read_manifest

REMEDY = "write it again with: lookalike extract … --resume"
REMEDY_UPDATED = "write it again with: lookalike extract … --update"


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
        metadata: B texts of JSON objects or None.
    """

    keys: list[str]
    uris: list[str]
    labels: list[str | None]
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    sha256: list[str]
    embeddings: NDArray[np.float32]
    metadata: list[str | None]


class Features:
    """An open feature folder. Made by `open_features`.

    Attributes:
        path: the folder.
        manifest: the folder's.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def __len__(self) -> int:
        return self.manifest.rows

    def blocks(self) -> Iterator[FeatureBlock]:
        """Yield the shards one after the other, each compared with its SHA-256 before it is used.

        Raises:
            ArtifactError: a shard is missing, damaged or not what the manifest says.
        """
        for shard in self.manifest.shards:
            yield self.block(shard)

    def block(self, shard: ShardEntry) -> FeatureBlock:
        """Return the rows of one shard, checked like `blocks`."""
        return _block(self._rows(shard))

    def keys(self) -> Iterator[str]:
        """Yield the keys of all rows, without their embeddings; the files are not checked.

        Raises:
            ArtifactError: a shard cannot be read.
        """
        for shard in self.manifest.shards:
            yield from self.columns(shard, "key").column("key").to_pylist()

    def columns(self, shard: ShardEntry, *names: str) -> pa.Table:
        """Return some columns of a shard, those that it has; the file is not checked.

        Raises:
            ArtifactError: it cannot be read.
        """
        path = self.path / shard.file
        try:
            with pq.ParquetFile(path) as file:
                there = set(file.schema_arrow.names)
                return file.read(columns=[name for name in names if name in there])
        except (OSError, pa.ArrowException) as error:
            raise ArtifactError(f"{path} cannot be read ({error}); {self.remedy}") from error

    def errors(self) -> Iterator[RefusedImage]:
        """Yield the refused images in the order of the shards; checked like `blocks`."""
        for shard in self.manifest.shards:
            for entry in self.refused(shard):
                assert isinstance(entry.outcome, RefusedImage)
                yield entry.outcome

    def refused(self, shard: ShardEntry) -> list[Entry]:
        """Return the refused images of one shard; checked like `blocks`."""
        if not shard.errors.rows:
            return []
        table = self._table(shard.errors, *self._schemas(tables.errors_schema))
        rows = table.to_pylist()
        stamps = [row.pop("stamp", None) for row in rows]
        return [Entry(RefusedImage(**row), stamp) for row, stamp in zip(rows, stamps, strict=True)]

    def entries(self, shard: ShardEntry) -> list[Entry]:
        """Return all that the folder keeps of a shard's items, the refused last; checked."""
        table = self._rows(shard)
        embeddings = tables.embeddings_of(table)
        stamps = table.column("stamp") if "stamp" in table.column_names else None
        described = [name for name in ("metadata",) if name in table.column_names]
        rows = table.select([*tables.ROW_FIELDS, *described]).to_pylist()
        notes = [None] * len(rows) if stamps is None else stamps.to_pylist()
        images = self.thumbnails(shard) or [None] * len(rows)
        embedded = [
            Entry(EmbeddedImage(**row, embedding=embedding), stamp, image)
            for row, embedding, stamp, image in zip(rows, embeddings, notes, images, strict=True)
        ]
        return embedded + self.refused(shard)

    def deleted(self, shard: ShardEntry) -> list[Deleted]:
        """Return the items that a shard once had; checked like `blocks`."""
        if shard.deleted is None:
            return []
        table = self._table(shard.deleted, tables.deleted_schema(self.manifest))
        return [Deleted(**row) for row in table.to_pylist()]

    def thumbnails(self, shard: ShardEntry) -> list[bytes | None]:
        """Return the thumbnails of a shard's rows, [] if there are none; checked like `blocks`."""
        if shard.thumbnails is None:
            return []
        table = self._table(shard.thumbnails, tables.thumbnails_schema(self.manifest))
        thumbnails: list[bytes | None] = table.column("thumbnail").to_pylist()
        return thumbnails

    def is_whole(self, shard: ShardEntry) -> bool:
        """Whether all files of a shard are there and are what the manifest says."""
        return not self.damaged(shard)

    def damaged(self, shard: ShardEntry) -> list[str]:
        """Return those of a shard's files that are missing or not what the manifest says."""
        return [table.file for table in shard.tables if not self.is_intact(table)]

    def is_intact(self, table: Table) -> bool:
        """Whether a file is there and is what the manifest says."""
        path = self.path / table.file
        return path.is_file() and sha256_file(path) == table.sha256

    @property
    def remedy(self) -> str:
        """The command that writes a damaged file again."""
        return REMEDY_UPDATED if self.manifest.updates else REMEDY

    def _rows(self, shard: ShardEntry) -> pa.Table:
        described = partial(tables.shard_schema, described=True)
        schemas = [*self._schemas(tables.shard_schema), *self._schemas(described)]
        return self._table(shard.tables[0], *schemas)

    def _schemas(self, schema: Callable[..., pa.Schema]) -> list[pa.Schema]:
        """Return what a table may look like: with stamps, or as version 1 wrote it."""
        return [schema(self.manifest, stamped=stamped) for stamped in (True, False)]

    def _table(self, table: Table, *schemas: pa.Schema) -> pa.Table:
        path = self.path / table.file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ArtifactError(
                f"{path} cannot be read ({error.strerror}); {self.remedy}"
            ) from error
        if sha256_bytes(content) != table.sha256:
            raise ArtifactError(
                f"{path} is damaged: its SHA-256 is not the manifest's; {self.remedy}"
            )
        try:
            # pq.read_table's threads may release `content` after Python's end, and abort it.
            with pq.ParquetFile(pa.BufferReader(content)) as file:
                rows = file.read(use_threads=False)
        except pa.ArrowException as error:
            raise ArtifactError(f"{path} is not a Parquet file: {error}; {self.remedy}") from error
        fits = any(rows.schema.equals(schema, check_metadata=True) for schema in schemas)
        if not fits or len(rows) != table.rows:
            raise ArtifactError(
                f"{path} does not have the rows and columns promised; {self.remedy}"
            )
        return rows


def open_features(path: str | Path, *, encoder_sha256: str | None = None) -> Features:
    """Open a feature folder, finished or not.

    Args:
        path: the folder.
        encoder_sha256: refuse features of another encoder; None takes any.

    Raises:
        ArtifactError: it is not a feature folder, its manifest is damaged, or the encoder another.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if encoder_sha256 not in (None, manifest.encoder_sha256):
        raise ArtifactError(
            f"the features in {folder} were made with the encoder {manifest.encoder_sha256[:12]}…, "
            f"{encoder_sha256[:12]}… is wanted: their embeddings cannot be compared. Extract them "
            "again with that encoder into another folder"
        )
    return Features(folder, manifest)


def check_files(path: str | Path) -> str:
    """Compare every file of a feature folder with its SHA-256; return a line with their number.

    Raises:
        ArtifactError: naming those that are missing or damaged, and the remedy.
    """
    features = open_features(path)
    manifest = features.manifest
    tables = [table for shard in manifest.shards for table in shard.tables]
    if manifest.arrays is not None and not manifest.updating:
        tables += [manifest.arrays.embeddings, manifest.arrays.keys]
    damaged = [table.file for table in tables if not features.is_intact(table)]
    if damaged:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise ArtifactError(
            f"{path}: {len(damaged)} of {len(tables)} files are missing or damaged: "
            f"{', '.join(damaged[:3])}{more}; {features.remedy}"
        )
    return f"all {len(tables)} files are whole"


def _block(table: pa.Table) -> FeatureBlock:
    columns = {name: table.column(name) for name in ("key", "uri", "label", "sha256")}
    return FeatureBlock(
        keys=columns["key"].to_pylist(),
        uris=columns["uri"].to_pylist(),
        labels=columns["label"].to_pylist(),
        widths=table.column("width").to_numpy(),
        heights=table.column("height").to_numpy(),
        sha256=columns["sha256"].to_pylist(),
        embeddings=tables.embeddings_of(table),
        metadata=(
            table.column("metadata").to_pylist()
            if "metadata" in table.column_names
            else [None] * len(table)
        ),
    )

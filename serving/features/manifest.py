"""`manifest.json` of a feature folder: its fields, and how they are read and checked.

What each field means is specified in `features.shards`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from base.errors import ArtifactError
from base.files import write_json_atomic

FILE_NAME = "manifest.json"
FORMAT = "lookalike-features"
FORMAT_VERSION = 2
READABLE = (1, 2)
DTYPES = ("float32", "float16")
_SINCE_2 = ("dtype", "thumbnails", "updates", "updating", "arrays", "deleted")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file with rows."""

    file: str
    sha256: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """What `--npy` wrote: the embeddings as one array, and their keys, row for row."""

    embeddings: Table
    keys: Table


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One finished shard, as the manifest lists it."""

    file: str
    sha256: str
    rows: int
    first_item: int
    items: int
    items_sha256: str
    first_key: str | None
    last_key: str | None
    errors: Table
    deleted: Table | None = None
    thumbnails: Table | None = None

    @property
    def tables(self) -> list[Table]:
        """All its files, with what they must be."""
        own = Table(file=self.file, sha256=self.sha256, rows=self.rows)
        return [own, self.errors, *filter(None, (self.deleted, self.thumbnails))]


@dataclass(frozen=True, kw_only=True)
class SourceNote:
    """The source that was extracted."""

    name: str
    items: int
    limit: int | None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a feature folder holds. Its shards are in the order of their items."""

    encoder_sha256: str
    preprocess_sha256: str
    embedding_dim: int
    source: SourceNote
    shard_items: int
    shards: tuple[ShardEntry, ...] = ()
    created_with: Mapping[str, str]
    version: int = FORMAT_VERSION
    dtype: str = "float32"
    thumbnails: bool = False
    updates: int = 0
    updating: bool = False
    arrays: Arrays | None = None

    @property
    def planned(self) -> int:
        """The number of shards of a finished extraction."""
        whole = -(-self.source.items // self.shard_items)
        return max(len(self.shards), whole) if self.updates else whole

    @property
    def complete(self) -> bool:
        """Whether every item is in a shard, and nothing else."""
        covered = sum(shard.items for shard in self.shards)
        return covered == self.source.items and not self.updating

    @property
    def rows(self) -> int:
        """Images with an embedding."""
        return sum(shard.rows for shard in self.shards)

    @property
    def errors(self) -> int:
        """Images without one."""
        return sum(shard.errors.rows for shard in self.shards)

    @property
    def deleted(self) -> int:
        """Images that were here once and are no longer in the source."""
        return sum(shard.deleted.rows for shard in self.shards if shard.deleted)

    def with_shard(self, shard: ShardEntry) -> Self:
        """Return the manifest with one more shard, or with another one for the same items."""
        others = [other for other in self.shards if other.first_item != shard.first_item]
        shards = sorted([*others, shard], key=lambda entry: entry.first_item)
        return replace(self, shards=tuple(shards))

    def with_replacement(self, file: str, shard: ShardEntry) -> Self:
        """Return the manifest with `shard` instead of the one of this file, items recounted."""
        shards, first = [], 0
        for other in self.shards:
            shards.append(replace(shard if other.file == file else other, first_item=first))
            first += shards[-1].items
        return replace(self, shards=tuple(shards))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of the file."""
        content = {
            "format": FORMAT,
            "format_version": self.version,
            **asdict(self),
            "shards": [asdict(shard) for shard in self.shards],
            "created_with": dict(self.created_with),
            "rows": self.rows,
            "errors": self.errors,
            "deleted": self.deleted,
            "complete": self.complete,
        }
        del content["version"]
        if self.version == 1:
            for name in _SINCE_2:
                del content[name]
            for shard in content["shards"]:
                del shard["deleted"], shard["thumbnails"]
        return content

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest, atomically."""
        write_json_atomic(folder / FILE_NAME, self.to_dict())


def read_manifest(folder: Path) -> Manifest:
    """Read and check a feature folder's manifest.

    Raises:
        ArtifactError: there is none, or it is damaged, another program's or of a newer version.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise ArtifactError(f"{folder} is not a feature folder: it has no {FILE_NAME}")
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ArtifactError(f"{path} is not the manifest of a feature folder")
    if content.get("format_version") not in READABLE:
        raise ArtifactError(
            f"{path} has format version {content.get('format_version')!r}, this program knows "
            f"{FORMAT_VERSION}: it was written by a newer Lookalike; update this one"
        )
    try:
        return _parsed(content)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged: {error!r}") from error


def _parsed(content: dict[str, Any]) -> Manifest:
    """Return the manifest of a JSON object, every field with the type it must have.

    Raises:
        KeyError, TypeError, ValueError: for a field that is missing, too many or of another type.
    """
    source = content["source"]
    manifest = Manifest(
        encoder_sha256=_typed(content, "encoder_sha256", str),
        preprocess_sha256=_typed(content, "preprocess_sha256", str),
        embedding_dim=_typed(content, "embedding_dim", int),
        source=SourceNote(
            name=_typed(source, "name", str),
            items=_typed(source, "items", int),
            limit=_typed(source, "limit", int, type(None)),
        ),
        shard_items=_typed(content, "shard_items", int),
        shards=tuple(_parsed_shard(shard) for shard in content["shards"]),
        created_with=_typed(content, "created_with", dict),
        version=content["format_version"],
    )
    if manifest.version > 1:
        manifest = replace(manifest, **_parsed_since_2(content))
    if manifest.to_dict() != content:
        wrong = [name for name, value in manifest.to_dict().items() if content.get(name) != value]
        raise ValueError(f"these fields do not fit the others: {wrong or set(content)}")
    return manifest


def _parsed_shard(shard: dict[str, Any]) -> ShardEntry:
    errors = shard["errors"]
    return ShardEntry(
        file=_typed(shard, "file", str),
        sha256=_typed(shard, "sha256", str),
        rows=_typed(shard, "rows", int),
        first_item=_typed(shard, "first_item", int),
        items=_typed(shard, "items", int),
        items_sha256=_typed(shard, "items_sha256", str),
        first_key=_typed(shard, "first_key", str, type(None)),
        last_key=_typed(shard, "last_key", str, type(None)),
        errors=_parsed_table(errors),
        deleted=_parsed_optional(shard.get("deleted")),
        thumbnails=_parsed_optional(shard.get("thumbnails")),
    )


def _parsed_since_2(content: dict[str, Any]) -> dict[str, Any]:
    arrays = content["arrays"]
    if arrays is not None:
        arrays = Arrays(**{name: _parsed_table(arrays[name]) for name in ("embeddings", "keys")})
    if content["dtype"] not in DTYPES:
        raise ValueError(f"dtype is {content['dtype']!r}")
    return {
        "dtype": content["dtype"],
        "thumbnails": _flag(content, "thumbnails"),
        "updates": _typed(content, "updates", int),
        "updating": _flag(content, "updating"),
        "arrays": arrays,
    }


def _parsed_table(table: dict[str, Any]) -> Table:
    return Table(
        file=_typed(table, "file", str),
        sha256=_typed(table, "sha256", str),
        rows=_typed(table, "rows", int),
    )


def _parsed_optional(table: dict[str, Any] | None) -> Table | None:
    return None if table is None else _parsed_table(table)


def _flag(content: dict[str, Any], name: str) -> bool:
    if not isinstance(content[name], bool):
        raise TypeError(f"{name} is {content[name]!r}")
    return bool(content[name])


def _typed(content: dict[str, Any], name: str, *kinds: type) -> Any:
    value = content[name]
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}")
    return value

"""SOURCE, one argument for every kind of image collection: list it, reopen one of its items."""

import os
from collections.abc import Sequence
from pathlib import Path

from base.errors import SourceError, UsageError
from base.text import nearest
from images.items import Item, Source
from images.pixels.image_format import kind_of
from images.sources.cifar10 import is_cifar10, open_batches, open_cifar10
from images.sources.combined import JoinedSource, join, take_shard
from images.sources.excluded import ExcludingSource
from images.sources.fashion_mnist import open_fashion_mnist
from images.sources.folder import FolderSource, RemoteFolder
from images.sources.folder_labels import label_from_folders
from images.sources.idx import GZIP_MAGIC, MAGIC, open_idx
from images.sources.label_file import with_labels
from images.sources.locations import exists, is_folder, is_url, location_of, open_location
from images.sources.npz import open_npz
from images.sources.parquet import MAGIC as PARQUET_MAGIC
from images.sources.parquet import ParquetSource, open_parquet
from images.sources.parquet_columns import AS_CALLED, ColumnNames
from images.sources.path_list import PathListSource
from images.sources.patterns import expand, is_pattern
from images.sources.tar_archive import is_tar, open_tar
from images.sources.text_files import is_utf16
from images.sources.uris import own_scheme, read_uri
from images.sources.zip_archive import MAGICS as ZIP_MAGICS
from images.sources.zip_archive import open_zip

__all__ = ["Item", "Source", "open_source", "read_uri"]

_DATASETS = {"cifar10": open_cifar10, "fashion-mnist": open_fashion_mnist}
_SPLITS = ("train", "test")
NAMES = tuple(
    f"{name}{split}" for name in _DATASETS for split in ("", *(f":{split}" for split in _SPLITS))
)
KINDS = (
    "a folder of images, a tar, zip or Parquet file or a pattern of them, an IDX images file, an "
    "npz file, a list of paths (text or CSV), or a name"
)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tzst")


def open_source(
    source: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    exclude: Sequence[str] = (),
    shard: str | None = None,
    label_from: str | None = None,
    columns: ColumnNames = AS_CALLED,
) -> Source:
    """List a SOURCE; nothing is decoded yet.

    Args:
        source: a folder (sub-folder = label), a tar, zip or Parquet file or a pattern of such
            (`shards-{000..099}.tar`), the images file of an IDX pair, an npz of pixels or of image
            files, a text or CSV file of paths, a URL of any of these but arrays, or a name:
            `fashion-mnist` or `cifar10` with `:train` (what the bare name means) or `:test`. A path
            that looks like a name is given as `./name`.
        labels: a CSV file of keys or paths with labels, which count instead of the source's own.
        exclude: patterns of keys, or of names on them, to leave out (`excluded.ExcludingSource`).
        shard: `i/n`, every n-th image from the i-th on.
        label_from: which folder is the label (`folder_labels.folder_labels`); None: the first, or
            what the source says otherwise.
        columns: which columns of Parquet files count.

    Raises:
        SourceError: it is missing, of another kind, damaged or without images.
        UsageError: `shard` or `label_from` is not of that form, a pattern is empty, there are
            `labels` and `label_from`, or `columns` of what has none.
    """
    opened = _open(_home_expanded(os.fspath(source)), columns)
    if columns and not _is_parquet(opened):
        raise UsageError(f"{opened.name} is not a Parquet file: it has no columns to choose from")
    if label_from is not None:
        if labels is not None:
            raise UsageError("labels come from a table or from folders: leave one option out")
        opened = label_from_folders(opened, label_from)
    if labels is not None:
        opened = with_labels(opened, Path(_home_expanded(os.fspath(labels))))
    if exclude:
        opened = ExcludingSource(opened, exclude)
    return opened if shard is None else take_shard(opened, shard)


def _home_expanded(name: str) -> str:
    """Return a path with its `~` written out, which a shell leaves in quotes as it is."""
    if not name.startswith("~") or exists(location_of(name)):
        return name
    return os.path.expanduser(name)  # noqa: PTH111 - Path's raises for an unknown user


def _is_parquet(source: Source) -> bool:
    files = source.sources if isinstance(source, JoinedSource) else (source,)
    return all(isinstance(file, ParquetSource) for file in files)


def _open(name: str, columns: ColumnNames) -> Source:
    if name in NAMES:
        dataset, _, split = name.partition(":")
        return _DATASETS[dataset](split or "train", name)
    if not name:
        raise SourceError(f"SOURCE is empty; give {KINDS}")
    if own_scheme(name) and is_url(name):
        raise SourceError(f"{name} is one image of a source; give the archive or file it lies in")
    location = location_of(name)
    if exists(location):
        return (
            _open_folder(location, name)
            if is_folder(location)
            else _open_file(location, name, columns)
        )
    if is_pattern(name):
        locations = expand(name)
        files = [_open_one_of_many(location, name, columns) for location in locations]
        return join(name, locations, files)
    path, _, split = location.rpartition(":")
    if split in _SPLITS and not is_url(location) and is_cifar10(Path(path)):
        return open_batches(Path(path), split, name)
    raise SourceError(
        f"{name} does not exist, nor is it a name that is known{_suggestion(location, name)}"
    )


def _suggestion(location: str, name: str) -> str:
    if near := nearest(name, NAMES):
        return f"; did you mean {near}?"
    try:
        siblings = (
            [] if is_url(location) else [path.name for path in Path(location).parent.iterdir()]
        )
    except OSError:  # no such folder either, or a forbidden one
        siblings = []
    if near := nearest(Path(location).name, siblings):
        return f"; did you mean {Path(name).with_name(near)}?"
    return f"; names: {', '.join(NAMES)}"


def _open_folder(location: str, name: str) -> Source:
    if is_url(location):
        return RemoteFolder(location, name)
    folder = Path(location)
    if is_cifar10(folder):
        return open_batches(folder, "train", name)
    try:
        return FolderSource(folder, name)
    except SourceError as error:
        others = [path for kind in ("*images*idx3*", "*.npz", "*.tar", "*.zip", "*.parquet")
                  for path in folder.glob(kind)]  # fmt: skip
        if others:
            raise SourceError(f"{error}; did you mean {min(others)}?") from error
        raise


def _open_one_of_many(location: str, name: str, columns: ColumnNames) -> Source:
    if not exists(location):
        raise SourceError(f"{name}: {location} does not exist")
    if is_folder(location):
        raise SourceError(f"{name}: {location} is a folder; a pattern must mean files")
    return _open_file(location, location, columns)


def _open_file(location: str, name: str, columns: ColumnNames) -> Source:
    """Tell the kind from the first bytes, so that a misnamed file gets a fitting answer."""
    path = Path(location)
    if not is_url(location) and not path.is_file():  # a pipe can be read only once
        raise SourceError(f"{location} is neither a folder nor a plain file; give {KINDS}")
    try:
        with open_location(location) as file:
            head = file.read(4096)
    except OSError as error:
        raise SourceError(f"cannot read {location}: {error.strerror}") from error
    lower = location.lower()
    if head.startswith(PARQUET_MAGIC) or lower.endswith(".parquet"):
        return open_parquet(location, name, columns)
    if is_url(location) and lower.endswith(".npz"):
        raise SourceError(f"{location}: npz files are read from this machine only; fetch it first")
    if lower.endswith(".npz"):
        return open_npz(path, name)
    if is_cifar10(path):
        return open_batches(path, "train", name)
    if head.startswith(ZIP_MAGICS) or lower.endswith(".zip"):
        return open_zip(location, name)
    if lower.endswith(TAR_SUFFIXES) or is_tar(head):
        return open_tar(location, name)
    return _open_plain(location, name, head)


def _open_plain(location: str, name: str, head: bytes) -> Source:
    path = Path(location)
    if not is_url(location) and (head.startswith((MAGIC, GZIP_MAGIC)) or "ubyte" in path.name):
        return open_idx(path, name)
    if kind_of(head):
        raise SourceError(f"{location} is one image; give its folder, or a text file that lists it")
    if b"\x00" in head and not is_utf16(head):
        raise SourceError(f"{location} is not a known source; give {KINDS}")
    return PathListSource(location, name)

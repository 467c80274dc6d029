"""SOURCE: one argument for every kind of image collection. `open_source` lists it, `read_uri` reopens one item."""

import os
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from images.arrays import ArraySource
from images.errors import ImageRefused, RefusalReason, SourceError
from images.fashion_mnist import SPLITS, open_fashion_mnist
from images.folder import FolderSource
from images.idx import open_idx
from images.items import Content, Item, Source
from images.npz import open_npz
from images.path_list import PathListSource
from images.paths import read_file, uri_to_path

__all__ = ["Item", "Source", "open_source", "read_uri"]

NAMES = ("fashion-mnist",)


def open_source(source: str | os.PathLike[str]) -> Source:
    """List a SOURCE: a folder, an IDX or npz file, a text file of paths, or a name; raises SourceError."""
    name = os.fspath(source)
    base, _, split = name.partition(":")
    if base in NAMES:
        if (split or "train") not in SPLITS:
            raise SourceError(f"{base} has no split {split!r}; it has {', '.join(SPLITS)}")
        return open_fashion_mnist(split or "train", name)
    path = Path(name).absolute()
    if path.is_dir():
        return FolderSource(path, name)
    if path.is_file():
        return _open_file(path, name)
    near = get_close_matches(base, NAMES, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise SourceError(f"{name} is neither a path nor a known name ({', '.join(NAMES)}){hint}")


def _open_file(path: Path, name: str) -> Source:
    if path.suffix == ".npz":
        return open_npz(path, name)
    if "idx" in path.name:
        return open_idx(path, name)
    return PathListSource(path, name)


def read_uri(uri: str) -> Content:
    """Open one item again from its uri; raises ImageRefused(UNREADABLE)."""
    scheme = uri.partition("://")[0]
    if scheme not in {"idx", "npz"}:
        return read_file(uri_to_path(uri))
    parts = urlsplit(uri)
    path = Path(unquote(parts.path))
    try:
        source = _reopen(scheme, path, path.stat().st_mtime_ns)
        return source.contents[int(parts.fragment)]
    except (OSError, SourceError, ValueError, IndexError) as error:
        raise ImageRefused(RefusalReason.UNREADABLE, f"cannot read {uri}: {error}") from error


@lru_cache(maxsize=4)
def _reopen(scheme: str, path: Path, _changed: int) -> ArraySource:
    return open_idx(path, str(path)) if scheme == "idx" else open_npz(path, str(path))

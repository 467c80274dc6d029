"""SOURCE, one argument for every kind of image collection: list it, reopen one of its items."""

import os
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote_to_bytes

from images.arrays import ArraySource
from images.errors import ImageRefused, RefusalReason, SourceError
from images.fashion_mnist import SPLITS, open_fashion_mnist
from images.folder import FolderSource
from images.idx import GZIP_MAGIC, MAGIC, open_idx
from images.items import Content, Item, Source
from images.npz import open_npz
from images.path_list import PathListSource
from images.paths import is_there, read_file, uri_to_path
from images.verdict import kind_of

__all__ = ["Item", "Source", "open_source", "read_uri"]

NAMES = ("fashion-mnist", *(f"fashion-mnist:{split}" for split in SPLITS))
KINDS = "a folder of images, an IDX images file, an npz file, a text file of paths, or a name"


def open_source(source: str | os.PathLike[str]) -> Source:
    """List a SOURCE; nothing is decoded yet.

    Args:
        source: a folder (sub-folder = label), the images file of an IDX pair, an npz of pixels or
            of image files, a text file of paths, or a name: `fashion-mnist` with `:train` (what the
            bare name means) or `:test`. A path that looks like a name is given as `./name`.

    Raises:
        SourceError: it is missing, of another kind, damaged or without images.
    """
    name = os.fspath(source)
    if name in NAMES:
        return open_fashion_mnist(name.partition(":")[2] or "train", name)
    if not name:
        raise SourceError(f"SOURCE is empty; give {KINDS}")
    path = Path(name).absolute()
    if is_there(path):
        return _open_folder(path, name) if path.is_dir() else _open_file(path, name)
    raise SourceError(
        f"{name} does not exist, nor is it a name that is known{_nearest(path, name)}"
    )


def _nearest(path: Path, name: str) -> str:
    if near := get_close_matches(name, NAMES, 1):
        return f"; did you mean {near[0]}?"
    try:
        siblings = [sibling.name for sibling in path.parent.iterdir()]
    except OSError:  # no such folder either, or a forbidden one
        siblings = []
    if near := get_close_matches(path.name, siblings, 1):
        return f"; did you mean {Path(name).with_name(near[0])}?"
    return f"; names: {', '.join(NAMES)}"


def _open_folder(path: Path, name: str) -> Source:
    try:
        return FolderSource(path, name)
    except SourceError as error:
        arrays = [*path.glob("*images*idx3*"), *path.glob("*.npz")]
        if arrays:
            raise SourceError(f"{error}; did you mean {min(arrays)}?") from error
        raise


def _open_file(path: Path, name: str) -> Source:
    """Tell the kind from the first bytes, so that a misnamed file gets a fitting answer."""
    if not path.is_file():  # a pipe can be read only once
        raise SourceError(f"{path} is neither a folder nor a plain file; give {KINDS}")
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    if path.suffix.lower() == ".npz":
        return open_npz(path, name)
    if head.startswith((MAGIC, GZIP_MAGIC)) or "ubyte" in path.name:
        return open_idx(path, name)
    if kind_of(head):
        raise SourceError(f"{path} is one image; give its folder, or a text file that lists it")
    if b"\x00" in head or head.startswith(b"PK\x03\x04"):
        raise SourceError(f"{path} is no source that is known; give {KINDS}")
    return PathListSource(path, name)


def read_uri(uri: str) -> Content:
    """Open one item again, without its source: for thumbnails and for embedding anew.

    Args:
        uri: as an Item has it: a path, `idx:///path#12`, `npz:///path#12` or, for names that are no
            UTF-8, `file:///path`.

    Returns:
        What the item's `read` returned: an image file's bytes, or an array.

    Raises:
        ImageRefused: UNREADABLE, if the file or the item is gone, or the uri is of another kind.
    """
    scheme, separator, rest = uri.partition("://")
    if uri.startswith("/") or not separator or scheme == "file":
        return read_file(str(uri_to_path(uri)))
    path, _, number = rest.rpartition("#")
    try:
        source = _reopen(scheme, Path(os.fsdecode(unquote_to_bytes(path))))
        if not number.isdecimal() or int(number) >= len(source):
            raise IndexError(f"it holds {len(source)} images")
        return source.contents[int(number)]
    except (OSError, SourceError, LookupError) as error:
        raise ImageRefused(RefusalReason.UNREADABLE, f"cannot read {uri}: {error}") from error


def _reopen(scheme: str, path: Path) -> ArraySource:
    if scheme not in _OPENERS:
        raise SourceError(f"a uri starts with /, file://, {'://, '.join(_OPENERS)}://")
    return _reopen_unchanged(scheme, path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _reopen_unchanged(scheme: str, path: Path, _mtime_ns: int) -> ArraySource:
    """Keep the last few files open: unpacking one takes long, and neighbours come from the same."""
    return _OPENERS[scheme](path, str(path))


_OPENERS = {"idx": open_idx, "npz": open_npz}

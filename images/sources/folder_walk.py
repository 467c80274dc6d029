"""The image files below a folder, through its links, and what is passed over on the way."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from base.errors import SourceError
from base.text import printable
from images.sources.archives import is_hidden
from images.sources.passed_over import PassedOver
from images.sources.paths import SUFFIXES, suffix_of

MAX_WAYS = 8
"""Links that lead to one folder in more ways than this make a web."""

Identity = tuple[int, int]


class _Folder(NamedTuple):
    prefix: str
    ancestors: frozenset[Identity]
    linked: bool  # it is reached through a link
    crossed: bool  # a link lies on the way to the folder it is in


class _Web(Exception):  # noqa: N818 - no fault, a reason to walk otherwise
    """Links lead in circles or in very many ways to the same folders."""


def image_paths(root: Path) -> tuple[list[str], PassedOver]:
    """Return the posix paths of image files relative to `root`, sorted, and what was passed over.

    Links are followed, but not back into a folder that they lie in: a folder that is linked twice
    is listed twice. Where links make a web, as folders that link one another, each folder is
    listed once, by its own path if it has one below `root`.

    Raises:
        SourceError: `root` itself cannot be listed.
    """
    passed = PassedOver()
    try:
        return sorted(_every_way(root, passed)), passed
    except _Web:
        passed = PassedOver()
        return sorted(_each_once(root, passed)), passed


def _every_way(root: Path, passed: PassedOver) -> Iterator[str]:
    ways = Counter[Identity]()
    pending = [_Folder("", frozenset(), linked=False, crossed=False)]
    while pending:
        folder = pending.pop()
        listing = _list(root, folder.prefix, passed)
        if listing is None:
            continue
        identity, entries = listing
        ways[identity] += 1
        if identity in folder.ancestors:  # a link back up
            if folder.crossed:
                raise _Web
            continue
        if ways[identity] > MAX_WAYS:
            raise _Web
        for entry, is_folder in _visible(entries):
            path = f"{folder.prefix}{entry.name}"
            if is_folder:
                linked = folder.linked or entry.is_symlink()
                ancestors = folder.ancestors | {identity}
                pending.append(_Folder(f"{path}/", ancestors, linked, folder.linked))
            elif suffix_of(entry.name) in SUFFIXES:
                yield path
            else:
                passed.add_file(path)


def _each_once(root: Path, passed: PassedOver) -> Iterator[str]:
    """Yield the paths by the folders' own paths first, then by the links in their order."""
    seen: set[Identity] = set()
    folders, links = [""], list[str]()
    while folders or links:
        if not folders:
            links.sort(reverse=True)
        prefix = folders.pop() if folders else links.pop()
        listing = _list(root, prefix, passed)
        if listing is None or listing[0] in seen:
            continue
        seen.add(listing[0])
        for entry, is_folder in _visible(listing[1]):
            path = f"{prefix}{entry.name}"
            if is_folder:
                (links if entry.is_symlink() else folders).append(f"{path}/")
            elif suffix_of(entry.name) in SUFFIXES:
                yield path
            else:
                passed.add_file(path)


def _visible(entries: list[os.DirEntry[str]]) -> Iterator[tuple[os.DirEntry[str], bool]]:
    """Yield the entries that are for the user, and whether each is a folder."""
    for entry in entries:
        if not is_hidden(entry.name):
            yield entry, _is_folder(entry)


def _list(
    root: Path, prefix: str, passed: PassedOver
) -> tuple[Identity, list[os.DirEntry[str]]] | None:
    """Return what tells a folder from all others, and its entries; None if it is forbidden."""
    folder = root / prefix
    try:
        status = folder.stat()
        with os.scandir(folder) as scan:
            return (status.st_dev, status.st_ino), list(scan)
    except OSError as error:
        if prefix:
            passed.folders.append(printable(prefix.rstrip("/")))
            return None
        message = f"cannot list {printable(str(folder))}: {error.strerror}"
        raise SourceError(message) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False

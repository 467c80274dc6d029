"""A folder of images: recursive, in order, labelled by its sub-folders."""

import os
from collections.abc import Iterator
from pathlib import Path

from images.errors import SourceError
from images.items import Item
from images.paths import SUFFIXES, path_item, printable


class FolderSource:
    """The image files below a folder, sorted by their relative posix paths, which are their keys.

    The first folder on an image's path is its label; an image directly in the root has none. Names
    that start with a dot are skipped. Links are followed, but not back into a folder they lie in.
    Names are all that is read: a broken link or an empty file is listed, and refused when read.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self._root = root
        self._paths = sorted(_image_paths(root))
        if not self._paths:
            kinds = ", ".join(sorted(SUFFIXES))
            raise SourceError(f"{root} holds no image files ({kinds}), nor do its sub-folders")
        labels = {label for path in self._paths if (label := _label(path)) is not None}
        self.classes = tuple(sorted(printable(label) for label in labels))

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Item]:
        for path in self._paths:  # joined as text: a million Path objects take half a minute
            yield path_item(f"{self._root}/{path}", path, _label(path))


def _label(path: str) -> str | None:
    first, slash, _ = path.partition("/")
    return first if slash else None


def _image_paths(root: Path) -> Iterator[str]:
    """Yield the posix paths of image files relative to `root`, in no particular order."""
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        prefix, ancestors = pending.pop()
        identity, entries = _list(root / prefix)
        if identity in ancestors:  # a link back up
            continue
        for entry in entries:
            if _is_folder(entry):
                pending.append((f"{prefix}{entry.name}/", ancestors | {identity}))
            elif _suffix(entry.name) in SUFFIXES:
                yield prefix + entry.name


def _list(folder: Path) -> tuple[tuple[int, int], list[os.DirEntry[str]]]:
    """Return what tells a folder from all others, and its entries without the hidden ones."""
    try:
        status = folder.stat()
        with os.scandir(folder) as scan:
            entries = [entry for entry in scan if not entry.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"cannot list {printable(str(folder))}: {error.strerror}") from error
    return (status.st_dev, status.st_ino), entries


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path for each of a million names is slow

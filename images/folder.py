"""A folder of images: recursive, in order, labelled by its sub-folders."""

import os
from collections.abc import Iterator
from pathlib import Path

from images.errors import SourceError
from images.items import Item
from images.paths import SUFFIXES, path_item


class FolderSource:
    """Image files below a folder, sorted by their relative posix path."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self._root = root
        self._keys = sorted(_walk(root, "", ()))
        if not self._keys:
            raise SourceError(f"{root} holds no images ({', '.join(sorted(SUFFIXES))})")
        self.classes = tuple(sorted({label for key in self._keys if (label := _label(key))}))

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Item]:
        for key in self._keys:
            yield path_item(self._root / key, key, _label(key))


def _label(key: str) -> str | None:
    first, slash, _ = key.partition("/")
    return first if slash else None


def _walk(root: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    folder = root / prefix
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return
        with os.scandir(folder) as scan:
            entries = [entry for entry in scan if not entry.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"cannot list {folder}: {error.strerror}") from error
    for entry in entries:
        if entry.is_dir():
            yield from _walk(root, f"{prefix}{entry.name}/", (*above, identity))
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file():  # noqa: PTH122
            yield prefix + entry.name

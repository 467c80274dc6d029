"""A folder of images: recursive, in order, labeled by its sub-folders."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from base.errors import SourceError
from base.text import printable
from images.items import Item
from images.sources.archives import counts, hidden_in
from images.sources.folder_walk import image_paths
from images.sources.locations import file_system, read_location
from images.sources.passed_over import PassedOver
from images.sources.paths import SUFFIXES, path_item, unique_keys


class FolderSource:
    """The image files below a folder, sorted by their relative posix paths, which are their keys.

    The first folder on an image's path is its label; an image directly in the root has none. Names
    that start with a dot are skipped, and what systems put beside images (`archives.is_hidden`).
    Names are all that is read: a broken link or an empty file is listed, and refused when it is
    read. A sub-folder that cannot be listed is passed over.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self._root = root
        self._paths, self.passed_over = image_paths(root)
        if not self._paths:
            kinds, others = ", ".join(sorted(SUFFIXES)), self.passed_over.summary()
            message = f"{root} holds no image files ({kinds}), nor do its sub-folders"
            raise SourceError(
                f"{message}; {' and '.join(others.splitlines())}" if others else message
            )
        self._keys = unique_keys(self._paths)
        labels = {label for path in self._paths if (label := _label(path)) is not None}
        self.classes = tuple(sorted(printable(label) for label in labels))

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Item]:
        for path in self._paths:  # joined as text: a million Path objects take half a minute
            yield path_item(f"{self._root}/{path}", self._keys.get(path, path), _label(path))


class RemoteFolder:
    """The image files below a folder behind a URL: keys, labels and order as those of FolderSource.

    Raises:
        SourceError: it cannot be listed, or holds no images.
    """

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        system, path = file_system(url)
        root = path.rstrip("/")
        try:
            files = [file[len(root) :].lstrip("/") for file in system.find(path)]
        except Exception as error:  # each file system raises its own
            raise SourceError(f"cannot list {url}: {error}") from error
        self._paths = sorted(file for file in files if counts(file))
        self.passed_over = PassedOver()
        for file in files:
            if not counts(file) and not hidden_in(file):
                self.passed_over.add_file(file)
        self._url = url
        if not self._paths:
            raise SourceError(f"{url} holds no image files, nor do its sub-folders")
        labels = {_label(path) for path in self._paths}
        self.classes = tuple(sorted(printable(label) for label in labels if label is not None))

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Item]:
        for path in self._paths:
            url = f"{self._url}/{path}"
            yield Item(path, url, _label(path), partial(read_location, url))


def _label(path: str) -> str | None:
    first, slash, _ = path.partition("/")
    return first if slash else None

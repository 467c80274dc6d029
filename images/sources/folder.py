"""A folder of images: recursive, in order, labeled by its sub-folders."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from base.errors import SourceError
from images.items import Item
from images.sources.archives import counts, hidden_in
from images.sources.folder_labels import folder_labels
from images.sources.folder_walk import image_paths
from images.sources.locations import file_system, is_url, read_location, read_span
from images.sources.metadata_file import is_metadata_file
from images.sources.passed_over import PassedOver
from images.sources.paths import SUFFIXES, path_item, suffix_of, unique_keys
from images.sources.sample_labels import SampleLabels, bytes_to_read, sample_of

READERS = 8  # of small files beside images: a network's file system answers many at once
CHUNK = 4096


class FolderSource:
    """The image files below a folder, sorted by their relative posix paths, which are their keys.

    Labels and splits are those of the folders (`folder_labels`). Names
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
        self._described = _described(self._paths, self.passed_over, lambda path: f"{root}/{path}")
        self.classes = _classes(self._described.labels)

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Item]:
        # Paths are joined as text: a million Path objects take half a minute.
        for path, label, metadata in zip(self._paths, *self._described, strict=True):
            key = self._keys.get(path, path)
            yield path_item(f"{self._root}/{path}", key, label, metadata)


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
        self._described = _described(self._paths, self.passed_over, lambda path: f"{url}/{path}")
        self.classes = _classes(self._described.labels)

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Item]:
        for path, label, metadata in zip(self._paths, *self._described, strict=True):
            url = f"{self._url}/{path}"
            yield Item(path, url, label, partial(read_location, url), metadata)


class _Described(NamedTuple):
    labels: list[str | None]
    metadata: list[dict[str, Any] | None]


def _described(paths: list[str], passed: PassedOver, location: Callable[[str], str]) -> _Described:
    """Return what the files beside images say, else what their folders do."""
    folders, samples = folder_labels(paths), SampleLabels()
    images = {sample_of(path) for path in paths} if passed.beside else set()
    beside = [path for path in passed.beside if sample_of(path) in images or is_metadata_file(path)]
    passed.files.update(suffix_of(path) for path in set(passed.beside).difference(beside))
    with ThreadPoolExecutor(READERS, "beside") as pool:
        for start in range(0, len(beside), CHUNK):
            chunk = beside[start : start + CHUNK]
            contents = pool.map(_read_beside, map(location, chunk), map(bytes_to_read, chunk))
            for path, data in zip(chunk, contents, strict=True):
                if data is not None:
                    samples.add(path, data)
    labels = list(samples.over(paths, folders.labels))
    return _Described(labels, list(samples.metadata(paths, folders.splits)))


def _read_beside(location: str, most: int) -> bytes | None:
    if not is_url(location) and not Path(location).is_file():  # a pipe would block
        return None
    try:
        data = read_span(location, 0, most + 1)
    except (OSError, SourceError):
        return None
    return data if len(data) <= most else None


def _classes(labels: list[str | None]) -> tuple[str, ...]:
    return tuple(sorted({label for label in labels if label is not None}))

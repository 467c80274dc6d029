"""A list of image paths: a text file, or a CSV file with a header.

Text: UTF-8 or UTF-16, one path a line, optionally a tab and a label after it; blank lines are
skipped, and those that start with #. CSV (.csv or .tsv; commas, semicolons or tabs): a column path
and, if wanted, one label.
Paths are relative to the list's folder, or absolute, or URLs.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath

from base.errors import SourceError
from images.items import Item
from images.sources.label_file import read_table
from images.sources.locations import is_url, read_location
from images.sources.paths import is_there, path_item, uri_to_path
from images.sources.text_files import read_text

CSV_SUFFIXES = (".csv", ".tsv")
FILE = "file://"


class PathListSource:
    """The images that a file lists, in its order; a path, as written, is the key.

    Missing files are listed too, and refused when read: one of them must not stop a batch. Where
    all are missing, the file is something else.
    """

    def __init__(self, location: str, name: str) -> None:
        self.name = name
        self._folder = location.rpartition("/")[0]
        self._labels = _read_list(location)
        self.classes = tuple(sorted({label for label in self._labels.values() if label}))
        if not is_url(location) and not any(
            _may_be_there(self._folder, key) for key in self._labels
        ):
            raise SourceError(
                f"{location} is not a list of images: none of its {len(self._labels)} lines is a "
                "path that exists; paths are relative to its folder"
            )

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[Item]:
        for key, label in self._labels.items():
            yield listed_item(_below(self._folder, key), key, label)


def listed_item(location: str, key: str, label: str | None) -> Item:
    """Return the item of the image file at a path or URL."""
    if location.startswith(FILE):
        return path_item(uri_to_path(location), key, label)
    if is_url(location):
        return Item(key, location, label, partial(read_location, location))
    return path_item(location, key, label)


def _below(folder: str, key: str) -> str:
    return key if key.startswith("/") or is_url(key) else f"{folder}/{key}"


def _may_be_there(folder: str, key: str) -> bool:
    location = _below(folder, key)
    path = uri_to_path(location)
    return is_there(path) if location.startswith(FILE) or not is_url(location) else True


def _read_list(location: str) -> dict[str, str | None]:
    """Return the listed paths in order, each with its label."""
    if location.lower().endswith(CSV_SUFFIXES):
        labels = dict(read_table(location, _key))
    else:
        labels = _read_lines(location)
    if not labels:
        raise SourceError(f"{location} lists no paths; write one a line, relative to its folder")
    return labels


def _read_lines(location: str) -> dict[str, str | None]:
    try:
        text = read_text(location)
    except (OSError, UnicodeDecodeError) as error:
        message = f"{location} is not a text file of paths in UTF-8 or UTF-16"
        raise SourceError(f"{message}: {error}") from error
    labels: dict[str, str | None] = {}
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        written, _, label = line.partition("\t")
        written = written.strip()
        if not written or written.startswith("#"):
            continue
        key = _key(written)
        if key in labels:
            raise SourceError(
                f"{location}, line {number}: {key} is listed twice; keys must be unique"
            )
        labels[key] = label.strip() or None
    return labels


def _key(written: str) -> str:
    return written if is_url(written) else PurePosixPath(written).as_posix()

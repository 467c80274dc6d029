"""A text file of image paths: UTF-8, one path a line, optionally a tab and a label after it.

Paths are relative to the file's folder, or absolute. Blank lines are skipped, and those that start
with #.
"""

from collections.abc import Iterator
from pathlib import Path

from images.errors import SourceError
from images.items import Item
from images.paths import is_there, path_item


class PathListSource:
    """The images that a text file lists, in its order; a path, as written, is the key.

    Missing files are listed too, and refused when read: one of them must not stop a batch. Where
    all are missing, the file is something else.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._folder = path.parent
        self._labels = _read_list(path)
        self.classes = tuple(sorted({label for label in self._labels.values() if label}))

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[Item]:
        for key, label in self._labels.items():
            yield path_item(self._folder / key, key, label)


def _read_list(path: Path) -> dict[str, str | None]:
    """Return the listed paths in order, each with its label."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} is no UTF-8 text file of paths: {error}") from error
    labels: dict[str, str | None] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        written, _, label = line.partition("\t")
        written = written.strip()
        if not written or written.startswith("#"):
            continue
        key = Path(written).as_posix()
        if key in labels:
            raise SourceError(f"{path}, line {number}: {key} is listed twice; keys must be unique")
        labels[key] = label.strip() or None
    if not labels:
        raise SourceError(f"{path} lists no paths; write one a line, relative to its folder")
    if not any(is_there(path.parent / key) for key in labels):
        message = (
            f"{path} is no list of images: none of its {len(labels)} lines is a path that exists"
        )
        raise SourceError(f"{message}; paths are relative to its folder")
    return labels

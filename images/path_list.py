"""A text file of image paths: one a line, relative to the file, optionally a tab and a label."""

from collections.abc import Iterator
from pathlib import Path

from images.errors import SourceError
from images.items import Item
from images.paths import path_item


class PathListSource:
    """The images that a text file lists, in its order."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._folder = path.parent
        self._lines = _read_lines(path)
        self.classes = tuple(sorted({label for _, label in self._lines if label}))

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Item]:
        for key, label in self._lines:
            yield path_item(self._folder / key, key, label)


def _read_lines(path: Path) -> list[tuple[str, str | None]]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} is no text file of paths: {error}") from error
    lines = []
    for line in text.splitlines():
        key, _, label = line.strip().partition("\t")
        if key and not key.startswith("#"):
            lines.append((key, label or None))
    if not lines:
        raise SourceError(f"{path} lists no paths")
    return lines

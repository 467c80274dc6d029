"""A source without the images whose keys fit a pattern: `extract --exclude '@thumbs' '*.gif'`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import compress

from base.errors import SourceError, UsageError
from images.items import Item, Source
from images.sources.passed_over import EXCLUDED, PassedOver, passed_over


class ExcludingSource:
    """The images of a source that fit none of some patterns; order, keys and labels stay.

    A pattern of * ? [ ] without a slash means a file or folder of that name at any depth; one with
    a slash, a path from the top of the source, and what lies below it.

    Raises:
        UsageError: a pattern is empty.
        SourceError: nothing is left.
    """

    def __init__(self, source: Source, patterns: Sequence[str]) -> None:
        if not all(pattern.strip("/") for pattern in patterns):
            raise UsageError("--exclude is empty; give a name or a pattern, as in '*.gif'")
        self.name = source.name
        self._source = source
        self._selected = bytearray()
        labels = set()
        for item in source:
            selected = not any(fits(item.key, pattern) for pattern in patterns)
            self._selected.append(selected)
            if selected and item.label is not None:
                labels.add(item.label)
        self._count = sum(self._selected)
        self.classes = tuple(sorted(labels))
        if not self._count:
            raise SourceError(f"{self.name}: --exclude {' '.join(patterns)} leaves no images")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Item]:
        return compress(self._source, self._selected)

    @property
    def passed_over(self) -> PassedOver:
        """What the source passed over, and how many images were excluded."""
        own = passed_over(self._source)
        excluded = len(self._selected) - self._count
        return PassedOver(own.files + Counter({EXCLUDED: excluded}), own.folders, own.notes)


def fits(key: str, pattern: str) -> bool:
    """Return whether a key, or a folder on its way, fits a pattern."""
    levels = key.split("/")
    plain = pattern.rstrip("/").removeprefix("./")
    if "/" not in plain:
        return any(fnmatchcase(level, plain) for level in levels)
    plain = plain.lstrip("/")
    paths = ("/".join(levels[: count + 1]) for count in range(len(levels)))
    return any(fnmatchcase(path, plain) for path in paths)

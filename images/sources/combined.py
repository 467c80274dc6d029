"""Sources made of sources: several files as one, and every n-th image of one."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from base.errors import SourceError, UsageError
from images.items import Item, Source


@dataclass(frozen=True, slots=True)
class JoinedSource:
    """Several files in their order.

    A key is the file's path below the folder that all lie in, a slash, and the key in the file.
    """

    name: str
    prefixes: tuple[str, ...]
    parts: tuple[Source, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The sorted label names of all parts."""
        return tuple(sorted(set(itertools.chain(*(part.classes for part in self.parts)))))

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __iter__(self) -> Iterator[Item]:
        for prefix, part in zip(self.prefixes, self.parts, strict=True):
            for item in part:
                yield replace(item, key=f"{prefix}/{item.key}")


def join(name: str, locations: Sequence[str], parts: Sequence[Source]) -> JoinedSource:
    """Put the sources of `places` together."""
    folders = [location.split("/")[:-1] for location in locations]
    levels = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))
    common = sum(len(level[0]) + 1 for level in levels)
    prefixes = tuple(location[common:] for location in locations)
    return JoinedSource(name, prefixes, tuple(parts))


@dataclass(frozen=True, slots=True)
class SourceShard:
    """Every n-th image of a source, for an array of jobs.

    Number i takes the images i, i + n, i + 2n and so on, all numbers together each image once.
    Keys, labels and classes stay what they are.
    """

    source: Source
    number: int
    count: int

    @property
    def name(self) -> str:
        """What the user called the source, and which part of it this is."""
        return f"{self.source.name} [{self.number}/{self.count}]"

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the whole source."""
        return self.source.classes

    def __len__(self) -> int:
        return len(range(self.number, len(self.source), self.count))

    def __iter__(self) -> Iterator[Item]:
        return itertools.islice(iter(self.source), self.number, None, self.count)


def shard(source: Source, text: str) -> Source:
    """Return a part of a source: `0/8` to `7/8`.

    Raises:
        UsageError: the text is not of that form.
        SourceError: the part is empty.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise UsageError(f"--shard {text} is not i/n with i from 0 to n-1, as in 0/8 … 7/8")
    part = SourceShard(source, int(found[1]), int(found[2]))
    if len(part) == 0:
        raise SourceError(f"part {text} of {source.name} is empty: it has {len(source)} images")
    return part

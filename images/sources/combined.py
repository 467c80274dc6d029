"""Sources made of sources: several files as one, and every n-th image of one."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from base.errors import SourceError, UsageError
from images.items import Item, Source
from images.sources.passed_over import PassedOver, joined, passed_over
from images.sources.paths import unique_keys


@dataclass(frozen=True, slots=True)
class JoinedSource:
    """Several files in their order.

    A key is the file's path below the folder that all lie in, a slash, and the key in the file.
    """

    name: str
    prefixes: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The sorted label names of all files."""
        return tuple(sorted(set(itertools.chain(*(source.classes for source in self.sources)))))

    @property
    def passed_over(self) -> PassedOver:
        """What all files passed over."""
        return joined(self.prefixes, self.sources)

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def __iter__(self) -> Iterator[Item]:
        for prefix, source in zip(self.prefixes, self.sources, strict=True):
            for item in source:
                yield replace(item, key=f"{prefix}/{item.key}")


def join(name: str, locations: Sequence[str], sources: Sequence[Source]) -> JoinedSource:
    """Join the sources at `locations` to one."""
    folders = [location.split("/")[:-1] for location in locations]
    levels = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))
    common = sum(len(level[0]) + 1 for level in levels)
    names = [location[common:] for location in locations]
    keys = unique_keys(names)
    prefixes = tuple(keys.get(name, name) for name in names)
    return JoinedSource(name, prefixes, tuple(sources))


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
        """The name of the source, and which shard of it this is."""
        return f"{self.source.name} [{self.number}/{self.count}]"

    @property
    def passed_over(self) -> PassedOver:
        """What the whole source passed over."""
        return passed_over(self.source)

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the whole source."""
        return self.source.classes

    def __len__(self) -> int:
        return len(range(self.number, len(self.source), self.count))

    def __iter__(self) -> Iterator[Item]:
        return itertools.islice(iter(self.source), self.number, None, self.count)


def take_shard(source: Source, text: str) -> Source:
    """Return one shard of a source: `0/8` to `7/8`.

    Raises:
        UsageError: the text is not of that form.
        SourceError: the shard is empty.
    """
    numbers = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if numbers is None or not int(numbers[1]) < int(numbers[2]):
        raise UsageError(f"--shard {text} is not i/n with i from 0 to n-1, as in 0/8 … 7/8")
    shard = SourceShard(source, int(numbers[1]), int(numbers[2]))
    if len(shard) == 0:
        raise SourceError(f"shard {text} of {source.name} is empty: it has {len(source)} images")
    return shard

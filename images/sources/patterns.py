"""Shell-like patterns of files: `shards-{000..099}.tar`, `{train,val}.tar`, `data/*.parquet`."""

import glob
import os
import re
from collections.abc import Iterator

from base.errors import SourceError
from images.sources.locations import file_system, is_url, location_of

MAX_FILES = 100_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_pattern(name: str) -> bool:
    """Return whether a SOURCE means several files."""
    return bool(_BRACES.search(name)) or glob.has_magic(name)


def expand(pattern: str) -> list[str]:
    """Return the locations of a pattern: braces in their order, then * ? [ ] sorted.

    Raises:
        SourceError: a pattern of * ? [ ] fits nothing, or there are too many files.
    """
    locations: list[str] = []
    for name in braces(pattern):
        locations += _globbed(name) if glob.has_magic(name) else [location_of(name)]
        if len(locations) > MAX_FILES:
            raise SourceError(f"{pattern} means more than {MAX_FILES:,} files")
    return list(dict.fromkeys(locations))


def braces(pattern: str) -> Iterator[str]:
    """Yield what a pattern's braces stand for: `{a,b}` and `{008..011}`, which keeps its zeros."""
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    head, tail = pattern[: match.start()], pattern[match.end() :]
    for choice in _choices(match[1]):
        for rest in braces(tail):
            yield head + choice + rest


def _choices(inside: str) -> Iterator[str]:
    span = _RANGE.fullmatch(inside)
    if span is None:
        yield from inside.split(",")
        return
    first, last = int(span[1]), int(span[2])
    step = 1 if first <= last else -1
    for number in range(first, last + step, step):
        yield f"{number:0{len(span[1])}d}"


def _globbed(name: str) -> list[str]:
    if is_url(name):
        system, path = file_system(name)
        files = [system.unstrip_protocol(path) for path in system.glob(path)]
    else:
        files = glob.glob(os.path.abspath(name), recursive=True)  # noqa: PTH100, PTH207
    if not files:
        raise SourceError(f"{name} fits no file; quote the pattern and check its folder")
    return sorted(files)

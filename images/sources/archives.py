"""The source that tar and zip archives share: members with a name, an offset and a reader."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from base.errors import SourceError
from base.text import printable
from images.items import Content, Item
from images.sources.passed_over import PassedOver
from images.sources.paths import SUFFIXES, suffix_of

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterator, Sequence


SYSTEM_FOLDERS = frozenset(
    {
        "__MACOSX", "@eaDir", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot",
        "$RECYCLE.BIN", "RECYCLER", "System Volume Information", "lost+found",
    }
)  # fmt: skip
"""Of macOS, Synology, QNAP, Windows and Linux: thumbnails, waste and rescued pieces."""

_MAY_BE_SYSTEM = re.compile("|".join(map(re.escape, sorted(SYSTEM_FOLDERS))))


def counts(name: str) -> bool:
    """Return whether a member is an image by its name: hidden ones and what macOS adds are not."""
    if suffix_of(name) not in SUFFIXES:
        return False
    return not hidden_in(name)


def hidden_in(name: str) -> bool:
    """Return whether a member or a folder it lies in is hidden."""
    if "." not in name[:1] and "/." not in name and not _MAY_BE_SYSTEM.search(name):
        return False  # nearly all, decided at once
    return any(is_hidden(level) for level in name.split("/"))


def is_hidden(name: str) -> bool:
    """Return whether the name of a file or folder says that it is not for the user."""
    return name in SYSTEM_FOLDERS or (name.startswith(".") and name not in {".", ".."})


@dataclass(frozen=True, slots=True)
class ArchiveSource:
    """The images of one archive, in its order.

    A key is the member's name, without a leading `./`; a name that was there before gets `@` and
    the member's offset behind it. Names are keys and nothing else: no file is ever written.

    Attributes:
        name: what the user called it.
        base: of the uris: `tar:///path`.
        members: the names.
        offsets: of the members' headers in the archive.
        labels: by member, valid Unicode.
        reader: from a member's position to what reads it; it can be pickled.
        passed_over: the members that are not images.
        metadata: by member; () if there is none.
    """

    name: str
    base: str
    members: list[str]
    offsets: array[int]
    labels: list[str | None]
    reader: Callable[[int], Callable[[], Content]]
    passed_over: PassedOver = field(default_factory=PassedOver)
    metadata: Sequence[dict[str, Any] | None] = ()

    def __post_init__(self) -> None:
        if not self.members:
            kinds = ", ".join(sorted(SUFFIXES))
            message, others = (
                f"{self.name} holds no image files ({kinds})",
                self.passed_over.summary(),
            )
            raise SourceError(f"{message}; {others}" if others else message)

    @property
    def classes(self) -> tuple[str, ...]:
        """The sorted label names; () if unlabeled."""
        return tuple(sorted({label for label in self.labels if label is not None}))

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Item]:
        seen: set[str] = set()
        for index, name in enumerate(self.members):
            offset = self.offsets[index]
            key = name.removeprefix("./")
            while key in seen:
                key = f"{key}@{offset}"
            seen.add(key)
            yield Item(key, member_uri(self.base, name, offset), self.labels[index],
                       self.reader(index),
                       self.metadata[index] if self.metadata else None)  # fmt: skip


def member_uri(base: str, member: str, offset: int) -> str:
    """Return the uri of a member."""
    return f"{base}#{quote(member)}@{offset}"


def clean(name: str) -> str:
    """Return a member's name as valid Unicode."""
    if name.isascii() and "\0" not in name:
        return name
    return printable(name).replace("\0", "\\x00")

"""Labels and splits from folders: one rule for a folder, a tar and a zip of the same files.

Of the folders on an image's path those that hold everything do not count (`photos/` in an archive
of that folder), and where the first that do are splits (SPLITS), they are metadata and those below
them count.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from base.errors import UsageError
from base.text import printable
from images.items import Item, Source
from images.sources.combined import JoinedSource
from images.sources.passed_over import PassedOver, passed_over

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})
FIRST, LAST, NONE = "first", "last", "none"

_Folders = tuple[str, ...]


class FolderLabels(NamedTuple):
    """What folders say of some images, in their order.

    Attributes:
        labels: the class of each, valid Unicode; None where there is no folder.
        splits: `train`, `test` …, as the folder is called; None where there are none.
    """

    labels: list[str | None]
    splits: list[str | None]


def folder_labels(names: Sequence[str], label_from: str = FIRST) -> FolderLabels:
    """Return labels and splits of images by their names, paths with slashes.

    Args:
        names: of all images of a source.
        label_from: which of the folders that count is the label: `first`, `last`, a number from 1
            on, or `none`.

    Raises:
        UsageError: `label_from` is something else.
    """
    position = _position(label_from)
    memo: dict[str, _Folders] = {}
    heads = [name.removeprefix("./").lstrip("/").rpartition("/")[0] for name in names]
    for head in set(heads):
        memo[head] = tuple(head.split("/")) if head else ()
    counting, split = _counting(set(memo.values()))
    texts: dict[str, tuple[str | None, str | None]] = {}
    for head, folders in memo.items():
        label = _label(folders[counting:], position)
        at = None if split is None or split >= len(folders) else folders[split]
        texts[head] = (label and printable(label), at and printable(at))
    return FolderLabels([texts[head][0] for head in heads], [texts[head][1] for head in heads])


def _position(label_from: str) -> int | None:
    """Return the position of the label among the folders that count; None for no labels."""
    if label_from in (FIRST, LAST, NONE):
        return {FIRST: 0, LAST: -1, NONE: None}[label_from]
    if label_from.isascii() and label_from.isdecimal() and 1 <= int(label_from) < 1000:
        return int(label_from) - 1
    raise UsageError(f"--label-from is {label_from}; give first, last, none or a number from 1 on")


def _label(folders: _Folders, position: int | None) -> str | None:
    if position is None or not folders or position >= len(folders):
        return None
    return folders[position]


def _counting(kinds: set[_Folders]) -> tuple[int, int | None]:
    """Return from which position on folders count, and at which the split is (None: nowhere)."""
    depth, split = 0, None
    while tops := {folders[depth] for folders in kinds if len(folders) > depth}:
        if split is None and all(top.lower() in SPLITS for top in tops):
            split = depth
        elif not _is_wrapper(kinds, tops, depth):
            break
        depth += 1
    return depth, split


def _is_wrapper(kinds: set[_Folders], tops: set[str], depth: int) -> bool:
    """Return whether one folder holds all images, and folders that tell them from one another."""
    if len(tops) > 1 or any(len(folders) <= depth for folders in kinds):
        return False
    below = {folders[depth + 1] for folders in kinds if len(folders) > depth + 1}
    return len(below) > 1 or all(len(folders) > depth + 1 for folders in kinds)


@dataclass(frozen=True, slots=True)
class RelabeledSource:
    """A source labeled by the folders in its keys alone.

    Attributes:
        source: the images.
        folders: labels and splits by item.
    """

    source: Source
    folders: FolderLabels

    @property
    def name(self) -> str:
        """What the user called it."""
        return self.source.name

    @property
    def passed_over(self) -> PassedOver:
        """What the source passed over."""
        return passed_over(self.source)

    @property
    def classes(self) -> tuple[str, ...]:
        """The sorted labels."""
        return tuple(sorted({label for label in self.folders.labels if label is not None}))

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Item]:
        for item, label in zip(self.source, self.folders.labels, strict=True):
            yield replace(item, label=label)


def label_from_folders(source: Source, label_from: str) -> Source:
    """Label a source by the folders in its keys, whatever labels it has of its own.

    Raises:
        UsageError: `label_from` is not one of those of `folder_labels`.
    """
    if isinstance(source, JoinedSource):  # the files' names are no folders
        files = tuple(label_from_folders(file, label_from) for file in source.sources)
        return replace(source, sources=files)
    return RelabeledSource(source, folder_labels([item.key for item in source], label_from))

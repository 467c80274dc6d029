"""Labels from a table: a CSV file that says which image is of which class."""

import csv
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unicodedata import normalize

from base.errors import SourceError
from images.items import Item, Source
from images.sources.passed_over import PassedOver, passed_over
from images.sources.text_files import Row, read_rows

KEY_COLUMNS = ("key", "path", "file", "filename", "file_name", "image", "uri")
LABEL_COLUMNS = ("label", "class", "class_name", "category")
SHOWN = 3  # of the wrong ones


@dataclass(frozen=True, slots=True)
class LabeledSource:
    """A source whose labels come from a table; its own ones no longer count.

    Attributes:
        source: the images.
        table: from key, uri or path to the label.
        folder: what relative paths in the table are relative to.
        classes: the sorted labels.
        composed: from the composed form (NFC) of a name that is not ASCII to the name.
    """

    source: Source
    table: dict[str, str]
    folder: str
    classes: tuple[str, ...]
    composed: dict[str, str]

    @property
    def name(self) -> str:
        """What the user called it."""
        return self.source.name

    @property
    def passed_over(self) -> PassedOver:
        """What the source passed over."""
        return passed_over(self.source)

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Item]:
        for item in self.source:
            entry = self.entry_of(item)
            yield replace(item, label=None if entry is None else self.table[entry])

    def entry_of(self, item: Item) -> str | None:
        """Return which line of the table means an item: by its key, else by its uri or path."""
        names = (item.key, item.uri, item.uri.removeprefix(self.folder))
        entry = next((name for name in names if name in self.table), None)
        if entry is None and not item.key.isascii():  # é as macOS writes it, and as others do
            forms = (self.composed.get(normalize("NFC", name)) for name in names)
            entry = next((form for form in forms if form is not None), None)
        return entry


def with_labels(source: Source, file: Path) -> LabeledSource:
    """Label a source from a CSV file with a header; images that it does not name have no label.

    Raises:
        SourceError: the file cannot be used, or names images that are not in the source.
    """
    table = {name: label for name, label in read_table(str(file)) if label is not None}
    if not table:
        raise SourceError(f"{file} holds no labels")
    composed = {normalize("NFC", name): name for name in table if not name.isascii()}
    classes = tuple(sorted(set(table.values())))
    labeled = LabeledSource(source, table, f"{file.absolute().parent}/", classes, composed)
    unknown = dict.fromkeys(table)
    for item in source:
        entry = labeled.entry_of(item)
        if entry is not None:
            unknown.pop(entry, None)
    if unknown:
        shown = ", ".join(itertools.islice(unknown, SHOWN))
        first = next((item.key for item in source), "")
        raise SourceError(
            f"{file} labels {len(unknown)} of {len(table)} images that are not in {source.name}: "
            f"{shown}; its keys are like {first}"
        )
    return labeled


def read_table(
    location: str, called: Callable[[str], str] = str
) -> Iterator[tuple[str, str | None]]:
    """Yield name and label of each line of a CSV file (.tsv: with tabs); an empty label is None.

    Args:
        location: the file.
        called: from a name as it is written to the one that counts.

    Raises:
        SourceError: no such file, not text, a header without the columns, a name twice.
    """
    seen: set[str] = set()
    try:
        rows = read_rows(location, KEY_COLUMNS)
        name_at, label_at = _columns(next(rows, Row(1, [])).cells, location)
        for number, line in rows:
            written = line[name_at].strip() if name_at < len(line) else ""
            if not written:
                continue
            name = called(written)
            if name in seen:
                raise SourceError(f"{location}, line {number}: {name} is listed twice")
            seen.add(name)
            label = line[label_at].strip() if 0 <= label_at < len(line) else ""
            yield name, label or None
    except (OSError, ValueError, csv.Error) as error:
        message = f"cannot read {location} as a CSV file in UTF-8 or UTF-16"
        raise SourceError(f"{message}: {error}") from error


def _columns(header: list[str], location: str) -> tuple[int, int]:
    """Return where name and label stand; -1 if there is no label."""
    titles = [title.strip().lower() for title in header]
    name_at = next((titles.index(title) for title in KEY_COLUMNS if title in titles), None)
    if name_at is None:
        columns = ", ".join(header[:10]) or "(nothing)"
        raise SourceError(
            f"{location}: its first line is {columns}; it must name the columns, as in: path,label"
        )
    label_at = next((titles.index(title) for title in LABEL_COLUMNS if title in titles), -1)
    return name_at, label_at

"""Text that people and their programs write: UTF-8 or UTF-16, separated by commas or otherwise."""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from images.sources.locations import open_location

UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SEPARATORS = (",", ";", "\t")


class Row(NamedTuple):
    """A row of a table, and the number of its last line."""

    line: int
    cells: list[str]


def read_text(location: str) -> str:
    """Return a text file's content. Raises OSError, UnicodeDecodeError."""
    with open_location(location) as file:
        data = file.read()
    return decoded(data)


def decoded(data: bytes) -> str:
    """Return text in UTF-8 or UTF-16. Raises UnicodeDecodeError."""
    return data.decode("utf-16" if is_utf16(data) else "utf-8-sig")


def is_utf16(head: bytes) -> bool:
    """Return whether a file that starts like this is UTF-16, as Excel and PowerShell write it."""
    return head.startswith(UTF16_MARKS)


def read_rows(location: str, titles: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a table, its header first.

    Separated by tabs where the file is called .tsv, else by what makes one of `titles` a column of
    the header: commas, semicolons or tabs. A first line `sep=;`, as Excel has it, is passed over.

    Raises:
        OSError, ValueError, csv.Error: it cannot be read, or is not such a table.
    """
    text = io.StringIO(read_text(location), newline="")
    skipped = text.readline().lower().startswith("sep=")
    start = text.tell() if skipped else 0
    text.seek(start)
    separator = _separator(location, text.readline(), titles)
    text.seek(start)
    reader = csv.reader(text, delimiter=separator)
    for cells in reader:
        yield Row(reader.line_num + skipped, cells)


def _separator(location: str, header: str, titles: Sequence[str]) -> str:
    if location.lower().endswith(".tsv"):
        return "\t"
    for separator in SEPARATORS:
        cells = next(csv.reader([header], delimiter=separator), [])
        if any(cell.strip().lower() in titles for cell in cells):
            return separator
    return SEPARATORS[0]

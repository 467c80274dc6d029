"""metadata.jsonl and metadata.csv among images, as Hugging Face's ImageFolder has them.

Each row has a `file_name`, a path from the file's folder on, and further fields.
"""

import csv
import io
import json
import posixpath
from collections.abc import Iterator
from typing import Any

from images.sources.text_files import decoded

NAMES = frozenset({"metadata.jsonl", "metadata.csv"})
FILE_NAME = "file_name"
MAX_BYTES = 256 * 2**20


def is_metadata_file(name: str) -> bool:
    """Return whether a file describes the images below its folder."""
    return name.rpartition("/")[2].lower() in NAMES


def described_in(name: str, data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path of each image that a file describes, and its fields.

    What cannot be read is passed over: rows that are no objects or name no file, and the rest of a
    file that is not text.
    """
    folder = name.rpartition("/")[0]
    try:
        text = decoded(data)
        for fields in _objects(text) if name.lower().endswith(".jsonl") else _rows(text):
            file = fields.pop(FILE_NAME, None)
            if isinstance(file, str) and file:
                yield posixpath.normpath(posixpath.join(folder, file)), fields
    except (ValueError, csv.Error, RecursionError):
        return


def _objects(text: str) -> Iterator[dict[str, Any]]:
    for line in text.split("\n"):
        if line.strip():
            fields = json.loads(line)
            if isinstance(fields, dict):
                yield fields


def _rows(text: str) -> Iterator[dict[str, Any]]:
    for row in csv.DictReader(io.StringIO(text, newline="")):
        yield {key: value for key, value in row.items() if key and isinstance(value, str) and value}

"""Labels and metadata from the files beside an image, as WebDataset and img2dataset name them.

The files of a sample have the same path up to the first dot of the last name. A sample's label is
what its `.cls` holds, else one of LABEL_FIELDS of its `.json`. The other fields of that, if they
are texts, numbers or booleans, are metadata. A `.txt` is a caption or a detector's boxes: no class.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from base.text import printable
from images.sources.metadata_file import MAX_BYTES, described_in, is_metadata_file
from images.sources.paths import suffix_of

LABEL_FIELDS = ("label", "class", "cls", "class_name")
LABEL_SUFFIXES = (".cls", ".json")  # the first of them counts
SAMPLE_SUFFIXES = frozenset({*LABEL_SUFFIXES, ".txt"})
MAX_LABEL_BYTES = 64 * 1024
MAX_LABEL = 100  # characters; a longer .cls is not a label
MAX_TEXT = 4096  # characters of a value of metadata
MAX_METADATA = 32 * 1024  # bytes of one image's, as JSON; a collection takes twice as many
MAX_INTEGER = 2**53  # what every reader of JSON holds exactly
_BOXES = re.compile(r"[\d\s.eE+-]+")  # YOLO: numbers of classes, coordinates


class SampleLabels:
    """The labels of the samples of a source."""

    def __init__(self) -> None:
        self._labels: dict[str, dict[str, str]] = {}
        self._metadata: dict[str, dict[str, Any]] = {}
        self._described: dict[str, tuple[str | None, dict[str, Any]]] = {}  # by path

    def add(self, name: str, data: bytes) -> None:
        """Note what a file holds that is one of a sample's or describes a folder."""
        if is_metadata_file(name):
            for path, fields in described_in(name, data):
                self._described[path] = _label_of(fields), _metadata_of(fields)
            return
        suffix, sample = suffix_of(name), sample_of(name)
        if suffix in LABEL_SUFFIXES and (label := label_in(data, suffix)):
            self._labels.setdefault(sample, {})[suffix] = label
        if fields := caption_in(data) if suffix == ".txt" else fields_in(data, suffix):
            entry = self._metadata.get(sample, {})
            self._metadata[sample] = fields | entry if suffix == ".txt" else entry | fields

    def read(self, names: Iterable[str], read: Callable[[str], bytes | None]) -> None:
        """Note what files hold; `read` returns None for one that cannot be read or is too large."""
        for name in names:
            data = read(name)
            if data is not None:
                self.add(name, data)

    def over(self, names: Iterable[str], labels: Iterable[str | None]) -> Iterator[str | None]:
        """Yield the label of each image: its sample's, else the one that it has already."""
        for name, label in zip(names, labels, strict=True):
            own = self._labels.get(sample_of(name), {}) if self._labels else {}
            described = self._described.get(name.removeprefix("./")) if self._described else None
            other = (described and described[0]) or label
            yield next((own[kind] for kind in LABEL_SUFFIXES if kind in own), other)

    def metadata(
        self, names: Iterable[str], splits: Iterable[str | None]
    ) -> Iterator[dict[str, Any] | None]:
        """Yield the metadata of each image: its sample's, and the split of its folders."""
        for name, split in zip(names, splits, strict=True):
            fields: dict[str, Any] = {} if split is None else {"split": split}
            if self._described and (described := self._described.get(name.removeprefix("./"))):
                fields |= described[1]
            if self._metadata:
                fields |= self._metadata.get(sample_of(name), {})
            yield fields or None


def sample_of(name: str) -> str:
    """Return which sample a file belongs to: its path up to the first dot of its last name."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def bytes_to_read(name: str) -> int:
    """Return how long a file may be that says something of images; 0 for all others."""
    if is_metadata_file(name):
        return MAX_BYTES
    return MAX_LABEL_BYTES if suffix_of(name) in LABEL_SUFFIXES else 0


def label_in(data: bytes, suffix: str) -> str | None:
    """Return the label that a file beside an image holds, or None if it holds something else."""
    try:
        text = data.decode("utf-8-sig").strip()
        if suffix != ".json":
            one_line = len(text) <= MAX_LABEL and len(text.splitlines()) == 1
            return text if one_line else None
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return _label_of(fields) if isinstance(fields, dict) else None


def _label_of(fields: dict[str, Any]) -> str | None:
    values = (fields.get(field) for field in LABEL_FIELDS)
    return next((printable(str(value)) for value in values if isinstance(value, str | int)), None)


def fields_in(data: bytes, suffix: str) -> dict[str, Any]:
    """Return the fields of a `.json` that are metadata; {} for any other file."""
    if suffix != ".json":
        return {}
    try:
        fields = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return {}
    return _metadata_of(fields) if isinstance(fields, dict) else {}


def _metadata_of(fields: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    left = MAX_METADATA
    for name, value in fields.items():
        if name in LABEL_FIELDS or not _fits(value):
            continue
        left -= len(json.dumps({name: value}))
        if left < 0:
            break
        metadata[printable(name)] = printable(value) if isinstance(value, str) else value
    return metadata


def _fits(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    if isinstance(value, bool):
        return True
    if isinstance(value, int):
        return abs(value) <= MAX_INTEGER
    return isinstance(value, float) and math.isfinite(value)


def caption_in(data: bytes) -> dict[str, Any]:
    """Return the caption that a `.txt` holds; {} for boxes and what is not text."""
    try:
        text = data.decode("utf-8-sig").strip()
    except ValueError:
        return {}
    if not text or len(text) > MAX_TEXT or _BOXES.fullmatch(text):
        return {}
    return {"caption": text}

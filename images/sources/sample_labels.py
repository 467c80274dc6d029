"""Labels from the files beside an image, as WebDataset names them: one rule for all sources.

The files of a sample have the same path up to the first dot of the last name. A sample's label is
what its `.cls` holds, else one of LABEL_FIELDS of its `.json`. A `.txt` is a caption or the boxes
of a detector: no class.
"""

import json
from collections.abc import Callable, Iterable, Iterator

from base.text import printable
from images.sources.paths import suffix_of

LABEL_FIELDS = ("label", "class", "cls", "class_name")
LABEL_SUFFIXES = (".cls", ".json")  # the first of them counts
SAMPLE_SUFFIXES = frozenset({*LABEL_SUFFIXES, ".txt"})
MAX_LABEL_BYTES = 64 * 1024
MAX_LABEL = 100  # characters; a longer .cls is not a label


class SampleLabels:
    """The labels of the samples of a source."""

    def __init__(self) -> None:
        self._labels: dict[str, dict[str, str]] = {}

    def add(self, name: str, data: bytes) -> None:
        """Note what the file `name`, one of LABEL_SUFFIXES, holds."""
        suffix = suffix_of(name)
        if label := label_in(data, suffix):
            self._labels.setdefault(sample_of(name), {})[suffix] = label

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
            yield next((own[kind] for kind in LABEL_SUFFIXES if kind in own), label)


def sample_of(name: str) -> str:
    """Return which sample a file belongs to: its path up to the first dot of its last name."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


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
    if not isinstance(fields, dict):
        return None
    values = (fields.get(field) for field in LABEL_FIELDS)
    return next((printable(str(value)) for value in values if isinstance(value, str | int)), None)

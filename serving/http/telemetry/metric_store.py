"""Where figures are kept: in this process, or in a file that several workers add up.

A worker of several has a place, 0 or above, and for it a file `<place>.figures` in a folder of all:

    uint64           bytes in use, these eight with them
    then entries     uint32 length of the key, the key as JSON padded with spaces so that the number
                     behind it begins at a multiple of 8, float64 the number

Little-endian. Only its worker writes to a file, an entry first and then the bytes in use; anyone
may read it meanwhile. A worker that takes the place of one that died goes on with the file, so no
counter ever goes back.
"""

import json
import mmap
import struct
from pathlib import Path
from typing import Protocol

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]

FILE_BYTES = 4 * 2**20  # sparse; all combinations of labels there can be need a fifth
HEAD = struct.Struct("<Q")
LENGTH = struct.Struct("<I")
NUMBER = struct.Struct("<d")


class Figures(Protocol):
    """Numbers by name and labels."""

    def add(self, key: Key, amount: float) -> None:
        """Add to a number; one that is not there is 0."""

    def put(self, key: Key, value: float) -> None:
        """Set a number."""

    def all(self) -> dict[Key, float]:
        """All numbers, those of all workers added up."""


class OwnFigures:
    """The figures of the only process."""

    def __init__(self) -> None:
        self._values: dict[Key, float] = {}

    def add(self, key: Key, amount: float) -> None:
        """Add to a number; one that is not there is 0."""
        self._values[key] = self._values.get(key, 0.0) + amount

    def put(self, key: Key, value: float) -> None:
        """Set a number."""
        self._values[key] = value

    def all(self) -> dict[Key, float]:
        """All numbers."""
        return dict(self._values)


class SharedFigures:
    """The figures of one worker of several.

    Args:
        folder: of all workers.
        slot: of this one.
    """

    def __init__(self, folder: Path, slot: int) -> None:
        self._folder = folder
        path = folder / f"{slot}.figures"
        with path.open("ab") as file:  # not cut off: a worker before this one may have written it
            file.truncate(FILE_BYTES)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), FILE_BYTES)
        if not HEAD.unpack_from(self._map)[0]:
            HEAD.pack_into(self._map, 0, HEAD.size)
        self._slots = {key: at for key, at, _ in _entries(self._map)}

    def add(self, key: Key, amount: float) -> None:
        """Add to a number; one that is not there is 0."""
        at = self._place_of(key)
        NUMBER.pack_into(self._map, at, NUMBER.unpack_from(self._map, at)[0] + amount)

    def put(self, key: Key, value: float) -> None:
        """Set a number."""
        NUMBER.pack_into(self._map, self._place_of(key), value)

    def all(self) -> dict[Key, float]:
        """All numbers, those of all workers added up."""
        total: dict[Key, float] = {}
        for path in sorted(self._folder.glob("*.figures")):
            content = path.read_bytes() if path.stat().st_size else b""
            if len(content) < HEAD.size:  # made a moment ago
                continue
            for key, _, value in _entries(content):
                total[key] = total.get(key, 0.0) + value
        return total

    def _place_of(self, key: Key) -> int:
        found = self._slots.get(key)
        if found is not None:
            return found
        text = json.dumps(key, separators=(",", ":")).encode()
        begin: int = HEAD.unpack_from(self._map)[0]
        text += b" " * (-(begin + LENGTH.size + len(text)) % NUMBER.size)
        at = begin + LENGTH.size + len(text)
        end = at + NUMBER.size
        LENGTH.pack_into(self._map, begin, len(text))
        self._map[begin + LENGTH.size : at] = text
        NUMBER.pack_into(self._map, at, 0.0)
        HEAD.pack_into(self._map, 0, end)
        self._slots[key] = at
        return at


def _entries(content: "bytes | mmap.mmap") -> list[tuple[Key, int, float]]:
    """Key, place of the number, and number of each entry."""
    end: int = HEAD.unpack_from(content)[0]
    at, found = HEAD.size, []
    while at < end:
        (length,) = LENGTH.unpack_from(content, at)
        at += LENGTH.size
        name, labels = json.loads(content[at : at + length])
        at += length
        key = (name, tuple((label, text) for label, text in labels))
        found.append((key, at, NUMBER.unpack_from(content, at)[0]))
        at += NUMBER.size
    return found

"""The directory of a zip archive, with the names that their writers meant.

The listing is Python's zipfile's. A name without bit 11 of its flags has no declared character set
(PKWARE's APPNOTE 6.3, section 4.4.4, and appendix D): it is what the Unicode Path extra field says
where that belongs to it, else UTF-8 if it is valid (Info-ZIP on Debian, macOS), else CP437.
Backslashes, which some programs of Windows write against the standard, separate folders.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from base.errors import SourceError
from base.text import one_line
from images.sources.archives import clean
from images.sources.locations import open_location

_UTF8 = 1 << 11
_UNICODE_PATH = 0x7075
_END = struct.Struct("<4s8xLLH")  # magic, …, size and offset of the directory, comment's length
_END64 = struct.Struct("<4s36xQQ")
_LOCATOR64_SIZE = 20
_ENTRY = struct.Struct("<4s4xH18xHHH12x")  # magic, …, flags, …, lengths of name, extra, comment


class Entry(NamedTuple):
    """A file in the directory.

    Attributes:
        name: as its writer meant it, valid Unicode; it is not empty.
        former_name: as versions before this one read it: it stands in their uris.
        info: the rest.
    """

    name: str
    former_name: str
    info: zipfile.ZipInfo


def read_directory(location: str) -> Iterator[Entry]:
    """Yield the files of an archive; folders and nameless members are passed over.

    Raises:
        SourceError: it is damaged, truncated or not a zip archive.
    """
    for info in _read(location):
        name = clean(_name_of(info).partition("\0")[0].replace("\\", "/"))
        if name and not name.endswith("/"):
            yield Entry(name, clean(info.filename), info)


def _read(location: str) -> list[zipfile.ZipInfo]:
    try:
        with open_location(location) as file:
            try:
                return zipfile.ZipFile(file).infolist()
            except UnicodeDecodeError:  # one name that is not the UTF-8 it says it is
                return _read_wrong_names(file)
    except Exception as error:  # a damaged directory makes zipfile raise nearly anything
        message = f"{location} is damaged, truncated or not a zip archive: {one_line(error)}"
        raise SourceError(f"{message}; fetch or make it anew") from error


def _name_of(info: zipfile.ZipInfo) -> str:
    if info.filename.isascii() or info.flag_bits & _UTF8:
        return info.filename
    raw = info.orig_filename.encode("cp437")
    try:
        return _unicode_path(info.extra, raw) or raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """Return the name in the extra field, if there is one and it was made for this name."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        data, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH and len(data) > 5:
            version, crc = struct.unpack_from("<BL", data)
            if version == 1 and crc == zlib.crc32(raw):
                return data[5:].decode()
    return None


def _read_wrong_names(file: BinaryIO) -> list[zipfile.ZipInfo]:
    """Read a directory with names that are not the UTF-8 that their flags promise."""
    start, data, end = _directory_bytes(file)
    at = 0
    while at + _ENTRY.size <= len(data):
        magic, flags, *lengths = _ENTRY.unpack_from(data, at)
        if magic != b"PK\1\2":
            break
        name = bytes(data[at + _ENTRY.size : at + _ENTRY.size + lengths[0]])
        if flags & _UTF8 and not _is_utf8(name):
            struct.pack_into("<H", data, at + 8, flags & ~_UTF8)
        at += _ENTRY.size + sum(lengths)
    entries = zipfile.ZipFile(io.BytesIO(data + end)).infolist()
    for info in entries:  # zipfile took the directory for the whole file
        info.header_offset += start
    return entries


def _directory_bytes(file: BinaryIO) -> tuple[int, bytearray, bytes]:
    """Return where the directory starts, its bytes, and what comes after it."""
    size = file.seek(0, io.SEEK_END)
    first = max(0, size - 2**16 - _END.size - _END64.size - _LOCATOR64_SIZE)
    file.seek(first)
    tail = file.read()
    at = tail.rindex(b"PK\5\6")
    _, length, _, _ = _END.unpack_from(tail, at)
    at64 = at - _LOCATOR64_SIZE - _END64.size
    if at64 >= 0 and tail.startswith(b"PK\6\6", at64):
        at, (_, length, _) = at64, _END64.unpack_from(tail, at64)
    start = first + at - length
    file.seek(start)
    return start, bytearray(file.read(length)), tail[at:]


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True

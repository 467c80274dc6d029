"""The members of a tar archive, header by header, several times as fast as with tarfile.

Ordinary headers are read here (POSIX.1-1988 ustar and GNU's, with the long names of GNU and the
extended headers of POSIX.1-2001 before them). Whatever else an archive may hold (links, sparse
files, numbers in base 256, other character sets, damage, the end) is left to tarfile, at the same
byte: what it makes of it counts, and what follows is read here again.
"""

import posixpath
import tarfile
from collections.abc import Generator, Iterator, Mapping
from enum import IntEnum
from typing import IO, NamedTuple

BLOCK = 512
MAX_EXTENDED = 2**20  # bytes of an extended header; a longer one is tarfile's
_CHECKSUM = slice(148, 156)
_SIZE = slice(124, 136)
_FOLDER = b"5"
_ORDINARY = {b"0", b"\0"}
_EXTENDED, _LONG_NAME = b"x", b"L"


class Kind(IntEnum):
    """The kinds of members."""

    FILE = 0
    FOLDER = 1
    LINK = 2
    SPARSE = 3


class Member(NamedTuple):
    """A member of an archive.

    Attributes:
        name: as stored; what is not UTF-8 is escaped by surrogates.
        offset: of its first header.
        start: of its content.
        size: of its content, in bytes.
        kind: what it is.
        target: of a link, the member it means; empty for all others.
    """

    name: str
    offset: int
    start: int
    size: int
    kind: Kind
    target: str = ""


def read_members(file: IO[bytes]) -> Iterator[Member]:
    """Yield the members of a plain tar archive, and make sure that it is whole.

    Raises:
        tarfile.TarError, OSError, ValueError, OverflowError: it is damaged or truncated, or
            continues after its end.
    """
    with tarfile.open(fileobj=file, mode="r:") as tar:
        info = tar.next()
        while info is not None:
            yield member_of(info)
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            # A header for all members that follow changes what theirs mean.
            if not _changes_meaning(tar.pax_headers):
                tar.offset = yield from _ordinary(file, tar.offset)
            file.seek(0)  # so that tarfile looks whether the last member is there to its end
            info = tar.next()
        _check_end(file, tar.offset)


def member_of(info: tarfile.TarInfo) -> Member:
    """Return what tarfile found as a member."""
    kind = Kind.LINK if info.issym() or info.islnk() else Kind.FILE
    if info.isdir():
        kind = Kind.FOLDER
    elif info.issparse():
        kind = Kind.SPARSE
    target = info.linkname if info.islnk() else ""
    if info.issym():
        target = posixpath.normpath(posixpath.join(posixpath.dirname(info.name), info.linkname))
    return Member(info.name, info.offset, info.offset_data, info.size, kind, target)


def _changes_meaning(headers: Mapping[str, str]) -> bool:
    return any(key in {"path", "size", "hdrcharset"} or "sparse" in key for key in headers)


def _ordinary(file: IO[bytes], offset: int) -> Generator[Member, None, int]:
    """Yield members as long as their headers are ordinary; return where the first other one is."""
    while True:
        file.seek(offset)
        member = _read_one(file, offset)
        if member is None:
            return offset
        yield member
        content = 0 if member.kind is Kind.FOLDER else member.size
        offset = member.start + -(-content // BLOCK) * BLOCK


def _read_one(file: IO[bytes], offset: int) -> Member | None:
    block = file.read(BLOCK)
    start, name, size = offset + BLOCK, None, None
    kind = block[156:157]
    if kind in {_EXTENDED, _LONG_NAME}:
        length = _number(block[_SIZE])
        if length is None or not 0 < length <= MAX_EXTENDED or not _is_header(block):
            return None
        padded = -(-length // BLOCK) * BLOCK
        content = file.read(padded)
        if len(content) < padded:
            return None
        try:
            name, size = _extended(content[:length]) if kind == _EXTENDED else _long_name(content)
        except ValueError:  # also for what is not UTF-8
            return None
        block = file.read(BLOCK)
        start += padded + BLOCK
        kind = block[156:157]
    return _plain(block, offset, start, name, size)


def _plain(
    block: bytes, offset: int, start: int, name: str | None, size: int | None
) -> Member | None:
    """Return what a header says, unless it is an unusual one; name and size given count more."""
    kind = block[156:157]
    if kind not in _ORDINARY and kind != _FOLDER:
        return None
    if size is None:
        size = _number(block[_SIZE])
    if size is None or not _is_header(block):
        return None
    if name is None:
        try:
            name = _own_name(block)
        except UnicodeDecodeError:
            return None
    if kind == _FOLDER:
        return Member(name.rstrip("/"), offset, start, size, Kind.FOLDER)
    if name.endswith("/"):  # a folder of old
        return None
    return Member(name, offset, start, size, Kind.FILE)


def _own_name(block: bytes) -> str:
    name, folders = _text(block[:100]), _text(block[345:500])
    return f"{folders}/{name}" if folders else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode()


def _is_header(block: bytes) -> bool:
    """Return whether it is whole, of a known format, and its checksum fits."""
    if len(block) < BLOCK or block[257:262] != b"ustar":
        return False
    return _number(block[_CHECKSUM]) == sum(block) - sum(block[_CHECKSUM]) + 8 * 0x20


def _number(field: bytes) -> int | None:
    """Return an octal number, or None where it is written in another way."""
    digits = field.partition(b"\0")[0].strip(b" ")
    return int(digits, 8) if digits.isdigit() and not {0x38, 0x39} & set(digits) else None


def _long_name(content: bytes) -> tuple[str, None]:
    return _text(content), None


def _extended(content: bytes) -> tuple[str | None, int | None]:
    """Return the name and the size that records `length key=value` give; ValueError if unusual."""
    name = size = None
    at = 0
    while at < len(content):
        space = content.index(b" ", at, at + 20)
        end = at + int(content[at:space])
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        if not (at < space < end <= len(content) and equals and content[end - 1] == 0x0A):
            raise ValueError(f"not a record at byte {at}")
        if key == b"path":
            name = value.decode().rstrip("/")
        elif key == b"size":
            size = int(value)
        elif key == b"hdrcharset" or b"sparse" in key:
            raise ValueError(f"a header of the kind {key!r}")
        at = end
    if name is not None and "\0" in name:
        raise ValueError("a name with a zero byte")
    if size is not None and size < 0:
        raise ValueError(f"a size of {size}")
    return name, size


def _check_end(file: IO[bytes], offset: int) -> None:
    """Make sure that the listing stopped at the mark of zeros, and that nothing comes after it."""
    file.seek(offset)
    mark = file.read(BLOCK)
    if len(mark) < BLOCK:
        raise tarfile.ReadError("the mark of its end is missing")
    if any(mark):
        raise tarfile.ReadError(f"byte {offset:,} is not a header")
    while rest := file.read(2**20):
        if any(rest):
            raise tarfile.ReadError("it continues after its end, as concatenated archives do")

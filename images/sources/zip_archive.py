"""zip archives: any member is read by itself, stored or deflated, and its checksum compared.

Members are read here, from their local header on (PKWARE's APPNOTE 6.3, section 4.3.7): an open
ZipFile serves one thread at a time, and opening one for every image would read the whole directory
of the archive every time.
"""

import struct
import zipfile
import zlib
from array import array
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

from base.errors import ImageRefused, RefusalReason, SourceError
from images.items import Content
from images.sources.archives import ArchiveSource, counts, hidden_in
from images.sources.folder_labels import folder_labels
from images.sources.locations import (
    check_size,
    join_uri,
    read_span,
    size_and_stamp,
    unreadable,
)
from images.sources.passed_over import PassedOver
from images.sources.paths import suffix_of
from images.sources.sample_labels import (
    SAMPLE_SUFFIXES,
    SampleLabels,
    bytes_to_read,
)
from images.sources.zip_directory import read_directory

MAGICS = (b"PK\x03\x04", b"PK\x05\x06")  # a member comes first, or nothing but the end
_LOCAL = struct.Struct("<4s22xHH")  # magic, …, lengths of the name and the extra field
_ENCRYPTED = 1


class Member(NamedTuple):
    """The entry of a member in the directory."""

    offset: int  # of its local header
    packed: int  # bytes in the archive
    size: int  # bytes unpacked
    crc: int
    method: int


def open_zip(location: str, name: str) -> ArchiveSource:
    """List a zip archive.

    Raises:
        SourceError: it is damaged, truncated or without images.
    """
    names: list[str] = []
    passed = PassedOver()
    beside: dict[str, Member] = {}
    columns = tuple(array("q") for _ in Member._fields)
    for member, _, info in read_directory(location):
        method = -1 if info.flag_bits & _ENCRYPTED else info.compress_type
        facts = Member(info.header_offset, info.compress_size, info.file_size, info.CRC, method)
        if not counts(member):
            suffix = suffix_of(member)
            if hidden_in(member):
                continue
            if 0 < facts.size <= bytes_to_read(member):
                beside[member] = facts
            elif suffix not in SAMPLE_SUFFIXES:
                passed.add_file(member)
            continue
        names.append(member)
        for column, fact in zip(columns, facts, strict=True):
            column.append(fact)

    def reader(index: int) -> "partial[bytes]":
        return partial(read_zipped, location, Member(*(column[index] for column in columns)))

    by_folder, samples = folder_labels(names), SampleLabels()
    samples.read(beside, lambda member: _read_beside(location, beside[member]))
    labels = list(samples.over(names, by_folder.labels))
    base = join_uri("zip", location)
    metadata = list(samples.metadata(names, by_folder.splits))
    return ArchiveSource(name, base, names, columns[0], labels, reader, passed, metadata)


def _read_beside(location: str, member: Member) -> bytes | None:
    try:
        return read_zipped(location, member)
    except ImageRefused:
        return None


def read_zipped(location: str, member: Member) -> bytes:
    """Return a member's bytes.

    Raises:
        ImageRefused: UNREADABLE, TOO_MANY_BYTES, TRUNCATED; CORRUPT if they are not those that were
            packed; UNSUPPORTED if encrypted or packed in another way.
    """
    if member.method not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        kind = "encrypted" if member.method < 0 else f"packed by method {member.method}"
        message = f"the member is {kind}; pack it anew with deflate"
        raise ImageRefused(RefusalReason.UNSUPPORTED, message)
    check_size(member.size)
    check_size(member.packed)
    try:
        return _checked(_unpacked(_raw(location, member), member), member)
    except (OSError, SourceError) as error:
        raise unreadable(location, error) from error


def _raw(location: str, member: Member) -> bytes:
    """Return the member's packed bytes; name and extra field come before them."""
    head = read_span(location, member.offset, _LOCAL.size)
    if len(head) < _LOCAL.size or not head.startswith(MAGICS[0]):
        raise OSError(f"there is no member at byte {member.offset:,}")
    _, name, extra = _LOCAL.unpack(head)
    data = read_span(location, member.offset + _LOCAL.size + name + extra, member.packed)
    if len(data) < member.packed:
        message = f"{location} ends within the member: {len(data):,} of {member.packed:,} bytes"
        raise ImageRefused(RefusalReason.TRUNCATED, message)
    return data


def _unpacked(data: bytes, member: Member) -> bytes:
    if member.method == zipfile.ZIP_STORED:
        return data
    try:  # one byte more than promised shows that there are more
        return zlib.decompressobj(-15).decompress(data, member.size + 1)
    except zlib.error as error:
        raise ImageRefused(RefusalReason.CORRUPT, f"the member is damaged: {error}") from error


def _checked(data: bytes, member: Member) -> bytes:
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        message = "the member is damaged: its checksum or its length does not fit"
        raise ImageRefused(RefusalReason.CORRUPT, message)
    return data


def read_zip_uri(location: str, member: str, offset: int) -> Content:
    """Return the bytes of the member whose local header is at `offset`.

    Raises:
        OSError, LookupError, SourceError, ImageRefused: it is not there, or another one is.
    """
    names, reader = _listed(location, size_and_stamp(location)[1])
    index = names.get((member, offset))
    if index is None:
        raise LookupError(f"{member} is no longer at byte {offset}")
    return reader(index)()


@lru_cache(maxsize=4)
def _listed(
    location: str, _stamp: str
) -> tuple[dict[tuple[str, int], int], Callable[[int], Callable[[], Content]]]:
    """Keep the last few directories: reading one takes long, neighbors come from the same."""
    source = open_zip(location, location)
    pairs = zip(source.members, source.offsets, strict=True)
    indices = {pair: index for index, pair in enumerate(pairs)}
    for name, former, info in read_directory(location):
        if former != name and (name, info.header_offset) in indices:
            indices.setdefault((former, info.header_offset), indices[name, info.header_offset])
    return indices, source.reader

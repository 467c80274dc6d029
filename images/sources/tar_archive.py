"""tar archives: folders of images, and WebDataset shards.

A member's label is that of its sample (`sample_labels`), else that of its folders.
"""

import tarfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import IO, BinaryIO

from base.errors import ImageRefused, RefusalReason, SourceError
from images.items import Content
from images.sources.archives import ArchiveSource, clean, counts, hidden_in
from images.sources.folder_labels import folder_labels
from images.sources.locations import (
    check_size,
    join_uri,
    open_location,
    read_span,
    size_and_stamp,
    unreadable,
)
from images.sources.passed_over import PassedOver
from images.sources.paths import suffix_of
from images.sources.sample_labels import (
    MAX_LABEL_BYTES,
    SAMPLE_SUFFIXES,
    SampleLabels,
    bytes_to_read,
)
from images.sources.tar_headers import BLOCK, Kind, Member, member_of, read_members
from images.sources.unpacked import (
    ZSTD_MAGIC,
    packer_of,
    read_unpacked,
    unpacked_head,
    unpacked_view,
)

LINK, SPARSE = -1, -2  # in place of a size


def is_tar(head: bytes) -> bool:
    """Return whether a file that starts like this is a tar archive, compressed or not."""
    if head.startswith(ZSTD_MAGIC):
        return True  # no other source is packed so
    if packer_of(head):
        head = unpacked_head(head)
    return head[257:262] == b"ustar" or _is_old_header(head[:BLOCK])


def _is_old_header(block: bytes) -> bool:
    """Return whether it is a header without the word ustar, as before 1988: its checksum fits."""
    try:
        return block[0] > 0 and tarfile.TarInfo.frombuf(block, "utf-8", "replace").chksum > 0
    except (tarfile.TarError, IndexError, ValueError):
        return False


def open_tar(location: str, name: str) -> ArchiveSource:
    """List a tar archive; a compressed one is unpacked to a temporary file first.

    Raises:
        SourceError: it is damaged, truncated or without images.
    """
    listing = _Listing()
    try:
        with _opened(location) as (file, packed):
            listing.read(file)
    except (OSError, tarfile.TarError, ValueError, OverflowError) as error:
        count = len(listing.names)
        message = f"{location} is damaged or truncated after {count} images: {error}"
        raise SourceError(f"{message}; fetch or make it anew") from error
    by_folder = folder_labels(listing.names)
    labels = list(listing.samples.over(listing.names, by_folder.labels))
    sizes, starts = listing.sizes, listing.starts

    def reader(index: int) -> "partial[bytes]":
        return partial(read_member, location, starts[index], sizes[index], packed=packed)

    base = join_uri("tar", location)
    return ArchiveSource(
        name,
        base,
        listing.names,
        listing.offsets,
        labels,
        reader,
        listing.passed_over,
        list(listing.samples.metadata(listing.names, by_folder.splits)),
    )


class _Listing:
    """The images of an archive in its order, and the labels of its samples."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.offsets, self.starts, self.sizes = array("q"), array("q"), array("q")
        self.passed_over = PassedOver()
        self.samples = SampleLabels()
        self._links: dict[int, str] = {}

    def read(self, file: IO[bytes]) -> None:
        for member in read_members(file):
            if member.kind is not Kind.FOLDER:
                self._take(member, file)
        self._follow_links()

    def _follow_links(self) -> None:
        """Read links to images of the archive as these; the others are refused when read."""
        if not self._links:
            return
        images = {name.removeprefix("./"): index for index, name in enumerate(self.names)}
        for link in self._links:
            index, seen = link, {link}
            while index in self._links:
                index = images.get(self._links[index], -1)
                if index in seen:
                    index = -1
                seen.add(index)
            if index >= 0:
                self.starts[link], self.sizes[link] = self.starts[index], self.sizes[index]

    def _take(self, member: Member, file: IO[bytes]) -> None:
        name = clean(member.name)
        suffix = suffix_of(name)
        if counts(name):
            if member.kind is Kind.LINK:
                self._links[len(self.names)] = clean(member.target).removeprefix("./")
            self.names.append(name)
            self.offsets.append(member.offset)
            self.starts.append(member.start)
            self.sizes.append(_size_of(member))
        elif hidden_in(name):
            return
        elif 0 < member.size <= (MAX_LABEL_BYTES if suffix == ".txt" else bytes_to_read(name)):
            file.seek(member.start)
            self.samples.add(name, file.read(member.size))
        elif suffix not in SAMPLE_SUFFIXES:
            self.passed_over.add_file(name)


def _size_of(member: Member) -> int:
    """Return a member's size, or what stands in its place where it cannot be read."""
    return {Kind.LINK: LINK, Kind.SPARSE: SPARSE}.get(member.kind, member.size)


@contextmanager
def _opened(location: str) -> Iterator[tuple[IO[bytes] | BinaryIO, bool]]:
    """Give a file with the plain archive, and whether it had to be unpacked."""
    with open_location(location) as file:
        packed = packer_of(file.read(8)) is not None
        file.seek(0)
        if not packed:
            yield file, False
            return
    with unpacked_view(location) as whole:
        yield whole, True


def read_member(location: str, start: int, size: int, *, packed: bool) -> bytes:
    """Return a member's bytes.

    Raises:
        ImageRefused: UNREADABLE, TOO_MANY_BYTES, TRUNCATED; UNSUPPORTED for a link or sparse file.
    """
    if size < 0:
        kind = "a link to what is not an image of the archive" if size == LINK else "a sparse file"
        message = f"the member is {kind}; make the archive with the files themselves"
        raise ImageRefused(RefusalReason.UNSUPPORTED, message)
    check_size(size)
    try:
        data = (read_unpacked if packed else read_span)(location, start, size)
    except (OSError, SourceError) as error:
        raise unreadable(location, error) from error
    if len(data) < size:
        message = f"{location} ends within the member: {len(data):,} of {size:,} bytes are there"
        raise ImageRefused(RefusalReason.TRUNCATED, message)
    return data


def read_tar_uri(location: str, member: str, offset: int) -> Content:
    """Return the bytes of the member whose header is at `offset`.

    Raises:
        OSError, LookupError, SourceError, ImageRefused: it is not there, or another one is.
    """
    try:
        with _opened(location) as (file, packed):
            file.seek(offset)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                info = tar.next()
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise LookupError(f"no member begins at byte {offset}: {error}") from error
    if info is None or clean(info.name) != member:
        raise LookupError(f"{member} is no longer at byte {offset}")
    if info.issym() or info.islnk():
        return _links_of(location, size_and_stamp(location)[1])[offset]()
    return read_member(location, info.offset_data, _size_of(member_of(info)), packed=packed)


@lru_cache(maxsize=4)
def _links_of(location: str, _stamp: str) -> dict[int, Callable[[], Content]]:
    """Return the readers of all members by their offsets; what a link means is elsewhere."""
    source = open_tar(location, location)
    return {offset: source.reader(index) for index, offset in enumerate(source.offsets)}

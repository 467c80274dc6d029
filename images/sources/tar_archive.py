"""tar archives: folders of images, and WebDataset shards.

A member's label is what lies beside it in its sample (WebDataset: the members next to one another
with the same name up to the first dot): a `.cls` file, a `.json` object with one of LABEL_FIELDS,
or a `.txt` of one line that is not a box of an object detector. Without these it is the first
folder of its name.
"""

import json
import re
import tarfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, BinaryIO

from base.errors import ImageRefused, RefusalReason, SourceError
from base.text import printable
from images.sources.archives import ArchiveSource, clean, counts, folder_labels, hidden_in
from images.sources.locations import check_size, join_uri, open_location, read_span, unreadable
from images.sources.passed_over import PassedOver
from images.sources.paths import suffix_of
from images.sources.tar_headers import BLOCK, Kind, Member, member_of, read_members
from images.sources.unpacked import packer_of, read_unpacked, unpacked_head, unpacked_view

LABEL_FIELDS = ("label", "class", "cls", "class_name")
LABEL_SUFFIXES = (".cls", ".json", ".txt")  # the first of them counts
MAX_LABEL_BYTES = 64 * 1024
MAX_LABEL = 100  # characters; a longer .txt is not a label
_BOXES = re.compile(r"\d+(\s+-?\d*\.?\d+(e-?\d+)?){4,}")  # YOLO: a class, then coordinates
LINK, SPARSE = -1, -2  # in place of a size


def is_tar(head: bytes) -> bool:
    """Return whether a file that starts like this is a tar archive, compressed or not."""
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
    labels = folder_labels(listing.names)
    labels = [own or folder for own, folder in zip(listing.labels, labels, strict=True)]
    sizes, starts = listing.sizes, listing.starts

    def reader(index: int) -> "partial[bytes]":
        return partial(read_member, location, starts[index], sizes[index], packed=packed)

    base = join_uri("tar", location)
    return ArchiveSource(
        name, base, listing.names, listing.offsets, labels, reader, listing.passed_over
    )


class _Listing:
    """The images of an archive in its order, with the labels that their samples give."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.labels: list[str | None] = []
        self.offsets, self.starts, self.sizes = array("q"), array("q"), array("q")
        self.passed_over = PassedOver()
        self._sample = ""
        self._first = 0  # image of the sample
        self._beside: dict[str, str] = {}

    def read(self, file: IO[bytes]) -> None:
        for member in read_members(file):
            if member.kind is not Kind.FOLDER:
                self._take(member, file)
        self._end_sample("")

    def _take(self, member: Member, file: IO[bytes]) -> None:
        name = clean(member.name)
        folder, slash, last = name.rpartition("/")
        sample = folder + slash + last.partition(".")[0]
        if sample != self._sample:
            self._end_sample(sample)
        suffix = suffix_of(last)
        if suffix in LABEL_SUFFIXES and member.size <= MAX_LABEL_BYTES:
            file.seek(member.start)
            if label := _label_in(file.read(member.size), suffix):
                self._beside[suffix] = label
        elif counts(name):
            self.names.append(name)
            self.labels.append(None)
            self.offsets.append(member.offset)
            self.starts.append(member.start)
            self.sizes.append(_size_of(member))
        elif suffix not in LABEL_SUFFIXES and not hidden_in(name):
            self.passed_over.add_file(name)

    def _end_sample(self, following: str) -> None:
        label = next((self._beside[kind] for kind in LABEL_SUFFIXES if kind in self._beside), None)
        if label is not None:
            for index in range(self._first, len(self.names)):
                self.labels[index] = label
        self._sample, self._first, self._beside = following, len(self.names), {}


def _size_of(member: Member) -> int:
    """Return a member's size, or what stands in its place where it cannot be read."""
    return {Kind.LINK: LINK, Kind.SPARSE: SPARSE}.get(member.kind, member.size)


def _label_in(data: bytes, suffix: str) -> str | None:
    """Return the label that a file beside an image holds, or None if it holds something else."""
    try:
        text = data.decode("utf-8-sig").strip()
        if suffix != ".json":
            one_line = len(text) <= MAX_LABEL and len(text.splitlines()) == 1
            return text if one_line and not _BOXES.fullmatch(text) else None
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    values = (fields.get(field) for field in LABEL_FIELDS)
    return next((printable(str(value)) for value in values if isinstance(value, str | int)), None)


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
        kind = "a link" if size == LINK else "a sparse file"
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


def read_tar_uri(location: str, member: str, offset: int) -> bytes:
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
    return read_member(location, info.offset_data, _size_of(member_of(info)), packed=packed)

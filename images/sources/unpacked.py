"""Compressed files, unpacked to a nameless temporary file so that they can be read at any offset.

gzip, bzip2, xz and Zstandard files can only be read from the start. The temporary file lies in the
system's folder for them ($TMPDIR) and is gone when the process ends, however it ends.
"""

import bz2
import gzip
import io
import lzma
import os
import shutil
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO, cast

from base.errors import SourceError
from images.sources.locations import open_location, size_and_stamp

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Zstd:
    """Zstandard, by pyarrow."""

    @staticmethod
    @contextmanager
    def open(file: BinaryIO) -> Iterator[Any]:
        """Give the content as a file. Raises OSError if it is damaged or pyarrow is missing."""
        try:
            import pyarrow as pa
        except ImportError as error:
            message = "Zstandard needs pyarrow; pip install 'lookalike[serve]'"
            raise OSError(message) from error
        with pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd") as content:
            yield content


PACKERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip,
    b"BZh": bz2,
    b"\xfd7zXZ\x00": lzma,
    ZSTD_MAGIC: Zstd,
}
_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)
_lock = threading.Lock()
_unpacking = threading.Lock()


def packer_of(head: bytes) -> Any | None:
    """Return the module that unpacks a file which starts like this, or None."""
    return next((module for magic, module in PACKERS.items() if head.startswith(magic)), None)


def unpacked_head(head: bytes) -> bytes:
    """Return the start of what a compressed file's first bytes unpack to; "" if damaged.

    Also of Zstandard, the blocks of which are longer than a head.
    """
    if head.startswith(ZSTD_MAGIC):
        return b""
    if not head.startswith(b"\x1f\x8b"):
        factory = bz2.BZ2Decompressor if head.startswith(b"BZh") else lzma.LZMADecompressor
        try:
            return factory().decompress(head, 1024)
        except (OSError, lzma.LZMAError):
            return b""
    try:
        return zlib.decompressobj(31).decompress(head, 1024)
    except zlib.error:
        return b""


class Whole:
    """A nameless temporary file, there as long as something holds this."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes; several threads may read at once."""
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, offset)
        with _lock:  # Windows
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, size)

    def __del__(self) -> None:
        os.close(self._descriptor)


def unpack(location: str) -> Whole:
    """Return the content of a compressed file; kept for the next call.

    Raises:
        SourceError: it is damaged, or there is no room.
    """
    with _unpacking:
        try:
            return _unpack(location, size_and_stamp(location)[1])
        except _DAMAGE as error:
            message = f"cannot unpack {location} to {tempfile.gettempdir()}: {error}"
            raise SourceError(f"{message}; if room is short, set TMPDIR") from error


@lru_cache(maxsize=4)
def _unpack(location: str, _stamp: str) -> Whole:
    with open_location(location) as file, tempfile.TemporaryFile() as whole:
        module = packer_of(file.read(8))
        file.seek(0)
        if module is None:
            raise OSError("it is not compressed by gzip, bzip2, xz or Zstandard")
        with module.open(file) as content:
            shutil.copyfileobj(cast("BinaryIO", content), whole, 2**20)
        whole.flush()
        return Whole(os.dup(whole.fileno()))


class _View(io.RawIOBase):
    """A position of one's own in a file that others read too."""

    def __init__(self, whole: Whole) -> None:
        self._whole = whole
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        ends = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._whole.size}
        self._at = ends[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._whole.read(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def unpacked_view(location: str) -> io.BufferedReader:
    """Return a compressed file's content as a file of the caller's own. Raises as `unpack`."""
    return io.BufferedReader(_View(unpack(location)), 2**16)


def read_unpacked(location: str, offset: int, size: int) -> bytes:
    """Return bytes of a compressed file's content. Raises as `unpack`."""
    return unpack(location).read(offset, size)

"""Locations of bytes: a path, or a URL that fsspec opens (s3://, gs://, hf://, memory:// …).

A location is text: an absolute path, or such a URL. fsspec is an optional package; paths and file://
URLs work without it.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote_from_bytes, unquote_to_bytes

from base.errors import ImageRefused, RefusalReason, SourceError
from base.text import one_line, printable
from images.pixels.decode import DEFAULT_MAX_BYTES
from images.sources.paths import is_there, uri_to_path

REFUSED = frozenset({"http", "https", "ftp"})
"""A uri may have come from somebody else: what it names must not be asked for over the web."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9.+-]+(::[A-Za-z][A-Za-z0-9.+-]+)*://")


def is_url(name: str) -> bool:
    """Return whether a SOURCE is written as a URL; a drive's single letter is not a scheme."""
    return _URL.match(name) is not None


def location_of(name: str) -> str:
    """Return the location that a user means: an absolute path, or the URL without a final slash."""
    if name.startswith("file://"):
        return str(uri_to_path(name).absolute())
    return name.rstrip("/") if is_url(name) else str(Path(name).absolute())


def file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it.

    Raises:
        SourceError: fsspec or its extension for this kind of URL is not installed, or refuses it.
    """
    if refused := REFUSED.intersection(re.findall(r"[A-Za-z]+(?=:)", url.lower())):
        raise SourceError(f"{url}: {min(refused)} URLs are not read; fetch the file first")
    try:
        import fsspec
    except ImportError as error:
        message = f"{url} needs fsspec: pip install fsspec (for s3:// also s3fs, for gs:// gcsfs"
        raise SourceError(f"{message}, for hf:// huggingface_hub)") from error
    try:
        system, path = fsspec.core.url_to_fs(url)
    except Exception as error:  # each file system raises its own
        raise SourceError(f"cannot open {url}: {one_line(error)}") from error
    return system, path


def exists(location: str) -> bool:
    """Return whether there is a file or folder at a location."""
    if not is_url(location):
        return is_there(Path(location))
    system, path = file_system(location)
    try:
        return bool(system.exists(path))
    except Exception as error:  # no credentials, no network
        raise SourceError(f"cannot reach {location}: {one_line(error)}") from error


def is_folder(location: str) -> bool:
    """Return whether a location is a folder."""
    if not is_url(location):
        return Path(location).is_dir()
    system, path = file_system(location)
    return bool(system.isdir(path))


@contextmanager
def open_location(location: str) -> Iterator[BinaryIO]:
    """Open a file for reading, seekable. Raises OSError, also for what a URL's system raises."""
    if not is_url(location):
        with Path(location).open("rb") as file:
            yield file
        return
    system, path = file_system(location)
    try:
        remote = system.open(path, "rb")
    except Exception as error:
        raise OSError(errno.EIO, one_line(error), location) from error
    with remote:
        yield cast("BinaryIO", remote)


def size_and_stamp(location: str) -> tuple[int, str]:
    """Return a file's length and a text that changes when its content does. Raises OSError."""
    if not is_url(location):
        status = Path(location).stat()
        return status.st_size, f"{status.st_mtime_ns} {status.st_size}"
    system, path = file_system(location)
    try:
        return int(system.size(path)), str(system.ukey(path))
    except Exception as error:
        raise OSError(errno.EIO, one_line(error), location) from error


def read_span(location: str, offset: int, size: int) -> bytes:
    """Return `size` bytes from `offset` on, fewer where the file ends. Raises OSError."""
    if is_url(location):
        system, path = file_system(location)
        try:
            return cast("bytes", system.cat_file(path, start=offset, end=offset + size))
        except Exception as error:
            raise OSError(errno.EIO, one_line(error), location) from error
    with Path(location).open("rb", buffering=0) as file:
        file.seek(offset)
        data = file.read(size)
        while len(data) < size and (more := file.read(size - len(data))):  # 2 GiB at a time
            data += more
        return data


def read_location(url: str) -> bytes:
    """Return the bytes of an image file behind a URL.

    Raises:
        ImageRefused: UNREADABLE, or TOO_MANY_BYTES before it is read.
    """
    try:
        size, _ = size_and_stamp(url)
        check_size(size)
        return read_span(url, 0, size)
    except (OSError, SourceError) as error:
        raise unreadable(url, error) from error


def check_size(size: int) -> None:
    """Refuse an image file of more than DEFAULT_MAX_BYTES before it is read."""
    if size > DEFAULT_MAX_BYTES:
        message = f"the file has {size:,} bytes, {DEFAULT_MAX_BYTES:,} are allowed"
        raise ImageRefused(RefusalReason.TOO_MANY_BYTES, message)


def unreadable(what: str, why: object) -> ImageRefused:
    """Return the refusal of what cannot be read."""
    message = f"cannot read {printable(what)}: {why}"
    return ImageRefused(RefusalReason.UNREADABLE, message)


def join_uri(scheme: str, location: str) -> str:
    """Return `tar:///photos/a.tar` for a path, `tar+s3://bucket/a.tar` for a URL."""
    if is_url(location):
        protocol, _, rest = location.partition("://")
        return f"{scheme}+{protocol}://{quote_from_bytes(os.fsencode(rest))}"
    return f"{scheme}://{quote_from_bytes(os.fsencode(location))}"


def split_uri(uri: str) -> tuple[str, str, str]:
    """Undo `join_uri`: return the scheme, the location, and what follows #."""
    base, _, fragment = uri.rpartition("#")
    scheme, _, rest = base.partition("://")
    scheme, _, protocol = scheme.partition("+")
    path = os.fsdecode(unquote_to_bytes(rest))
    return scheme, f"{protocol}://{path}" if protocol else path, fragment

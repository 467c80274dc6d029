"""Files that are either whole or absent, and their SHA-256.

`atomic_write` makes these steps in this order: write a hidden temporary file in the target's
folder, flush and fsync it, rename it over the target, fsync the folder. A crash at any moment
leaves the old file or the new one, never a part.
"""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from base.errors import LookalikeError

_DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def sha256_bytes(data: bytes | memoryview) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits, in bounded memory."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Give a binary file to write; when the block ends well it becomes `path`, all at once.

    Raises:
        LookalikeError: the folder cannot be written to, the disk is full, or `path` is a folder,
            pipe or device (a rename would put a file in its place). Whatever else the block
            raises passes through. In all cases `path` is as it was and nothing is left behind.
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        raise LookalikeError(f"cannot write {target}: it is a folder, pipe or device, not a file")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        file = temporary.open("xb")
    except OSError as error:
        raise LookalikeError(f"cannot write {target}: {error.strerror}") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        fsync_directory(target.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _DISK_TROUBLE:
            raise LookalikeError(f"cannot write {target}: {error.strerror}") from error
        raise


def fsync_directory(path: str | os.PathLike[str]) -> None:
    """Make the names in a folder durable (a rename is not, until its folder is synced)."""
    if os.name == "nt":  # Windows neither needs nor allows it
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_write(path) as file:
        file.write(data)


def write_json_atomic(path: str | os.PathLike[str], obj: object) -> None:
    """Write `obj` as indented UTF-8 JSON to `path`, whole or not at all."""
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes_atomic(path, (text + "\n").encode())

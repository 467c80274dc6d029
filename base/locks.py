"""A lock on a folder between processes: one at a time may change what is in it.

The operating system holds the lock for the open file and gives it back when the process ends,
however it ends; nothing stale is left after kill -9. The lock file stays and means nothing by
itself.
"""

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from base.errors import StorageError

FILE_NAME = ".lock"
RETRY_SECONDS = 0.02
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

if sys.platform == "win32":
    import msvcrt

    # Windows locks bytes, and locked bytes cannot be read: one far behind the text is taken.
    _FAR = 1 << 20

    def _take(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
else:
    import fcntl

    def _take(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Locked(Exception):  # noqa: N818 - a state, turned into an error by whoever knows the folder
    """Another process holds the lock.

    Attributes:
        holder: its process number as text, or "" if it is not known yet.
    """

    def __init__(self, holder: str) -> None:
        self.holder = holder
        super().__init__(holder)


@contextmanager
def folder_lock(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the folder's lock while the block runs.

    Args:
        folder: an existing folder.
        wait: seconds to keep trying.

    Raises:
        Locked: another process (or this one, elsewhere) held it all the time.
        StorageError: the folder cannot be written to.
    """
    path = folder / FILE_NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        message = f"cannot write to {folder}: {error.strerror}"
        raise StorageError(message, full=error.errno in NO_SPACE) from error
    try:
        _take_within(descriptor, path, wait)
        # As wide as any number, so that nothing is left of a longer one: cutting the file costs a
        # file system's journal two milliseconds, more than all the rest of a small write.
        with suppress(OSError):  # a full disk: the lock is held all the same
            os.write(descriptor, f"{os.getpid():<20}\n".encode())
        yield
    finally:
        os.close(descriptor)


def _take_within(descriptor: int, path: Path, wait: float) -> None:
    end = time.monotonic() + wait
    while True:
        try:
            return _take(descriptor)
        except OSError as error:
            if time.monotonic() >= end:
                raise Locked(path.read_text().strip()) from error
        time.sleep(RETRY_SECONDS)

"""Vectors that stay in their file: the system reads what a search needs and may forget it.

A mapping is one array that begins with a file's rows and continues with empty ones, which take
memory only once they are written. So what was saved costs no memory, what came since does, and
readers of the rows see no difference. Writing never reaches the file (it is mapped privately).

The address space behind the file is reserved first and the file laid over its beginning; Python's
own mmap cannot do that. A system that does not let us reserve so much maps the file alone. Where
there is no mmap, the file is read into memory instead.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import weakref
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from serving.collection.contract.scores import Vectors

FIXED = 0x10  # of mmap(2) on Linux and macOS
NORESERVE = 0x4000 if sys.platform == "linux" else 0x40
FAILED = ctypes.c_void_p(-1).value
CAN_MAP = sys.platform in ("linux", "darwin")


def mapped_rows(file: BinaryIO, rows: int, capacity: int, dim: int) -> Vectors:
    """Return the rows of a file, and room for more behind them.

    Args:
        file: float32 little-endian [rows, dim]; it may be closed, renamed or deleted afterwards,
            but not truncated.
        rows: in the file, at least 1.
        capacity: of the array, at least `rows`.
        dim: length of a row.

    Returns:
        float32 [capacity, dim], writable; [rows, dim] where no room could be reserved.

    Raises:
        OSError: the system does not map it.
    """
    if not CAN_MAP:
        buffer = np.empty((capacity, dim), np.float32)
        file.seek(0)
        file.readinto(buffer[:rows].data.cast("B"))  # type: ignore[attr-defined]
        return buffer
    size, behind = 4 * rows * dim, 4 * capacity * dim
    access, private = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE
    try:
        start = _map(None, behind, access, private | mmap.MAP_ANONYMOUS | NORESERVE, -1)
    except OSError:
        return np.memmap(file, "<f4", "r", shape=(rows, dim))
    try:
        _map(start, size, access, private | NORESERVE | FIXED, file.fileno())
    except OSError:
        _libc().munmap(start, behind)
        raise
    memory = (ctypes.c_uint8 * behind).from_address(start)
    weakref.finalize(memory, _libc().munmap, start, behind)
    vectors: Vectors = np.ctypeslib.as_array(memory).view("<f4").reshape(capacity, dim)
    return vectors


def _map(address: int | None, size: int, access: int, flags: int, descriptor: int) -> int:
    start: int | None = _libc().mmap(address, size, access, flags, descriptor, 0)
    if start is None or start == FAILED:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot map {size} bytes of vectors")
    return start


@cache
def _libc() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    size, number, pointer = ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p
    library.mmap.restype = pointer
    library.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_int64]
    library.munmap.argtypes = [pointer, size]
    return library

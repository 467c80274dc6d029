"""Arrays of an npz file (NumPy's zip of .npy files) without loading them.

A stored member is mapped where it lies; a deflated one is unpacked to a nameless temporary file and
mapped there. The checksum of a mapped member is not compared: that would mean to read all of it.
"""

import math
import shutil
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_LOCAL = struct.Struct("<4s22xHH")  # magic, …, lengths of the name and the extra field


def map_members(path: Path, keys: tuple[str, ...]) -> tuple[list[str], dict[str, NDArray[Any]]]:
    """Return the names of all arrays, and those of `keys` that are there.

    Raises:
        ValueError: an array holds Python objects, or its header does not fit its length.
        Exception: whatever zipfile and NumPy raise on damaged files.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members = {
            info.filename.removesuffix(".npy"): info
            for info in archive.infolist()
            if info.filename.endswith(".npy")
        }
        arrays = {key: _map(file, archive, members[key]) for key in keys if key in members}
    return list(members), arrays


def _map(file: IO[bytes], archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
        file.seek(info.header_offset)
        _, name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
        file.seek(name + extra, 1)
        return _map_npy(file, info.file_size)
    with archive.open(info) as packed, tempfile.TemporaryFile() as whole:
        shutil.copyfileobj(packed, whole, 2**20)
        whole.seek(0)
        return _map_npy(whole, info.file_size)


def _map_npy(file: IO[bytes], length: int) -> NDArray[Any]:
    """Map the .npy file of `length` bytes that begins where `file` stands."""
    start = file.tell()
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("an array holds Python objects, which may run code when loaded")
    begin = file.tell()
    if begin - start + math.prod(shape) * dtype.itemsize != length:
        raise ValueError(f"an array of {dtype} {list(shape)} does not fit into {length:,} bytes")
    if math.prod(shape) == 0:
        return np.zeros(shape, dtype)
    return np.memmap(file, dtype, "r", begin, shape, "F" if fortran else "C")

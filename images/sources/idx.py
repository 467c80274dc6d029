"""IDX pairs: the MNIST family's images file with its labels file beside it, gzipped or plain.

Layout (LeCun, Cortes, Burges: "The MNIST database of handwritten digits"): two zero bytes; a byte
for the element type (8: uint8); a byte for the number of dimensions; a big-endian uint32 for each
dimension; the elements, last index fastest.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from base.errors import SourceError
from images.sources.arrays import ArraySource, Labels, name_labels

MAGIC = b"\x00\x00\x08"
GZIP_MAGIC = b"\x1f\x8b"


def open_idx(
    path: Path, name: str, *, class_names: tuple[str, ...] = (), prefix: str | None = None
) -> ArraySource:
    """Open an IDX images file; its labels file is found beside it by its name, if it is there.

    Args:
        path: like `train-images-idx3-ubyte`, with or without `.gz`.
        name: what the user called it.
        class_names: names of the labels 0, 1, …; by default the numbers are the names.
        prefix: of the keys; by default the file's name up to its first hyphen or dot.

    Raises:
        SourceError: a file is damaged, holds no images, or the two do not fit together.
    """
    images = read_idx(path)
    if images.ndim not in {3, 4}:
        message = f"{path} has {images.ndim} dimension(s), images have 3 or 4; give the images file"
        raise SourceError(message)
    if len(images) == 0:
        raise SourceError(f"{path} holds no images")
    labels = Labels()
    labels_path = _labels_beside(path)
    if labels_path is not None:
        numbers = read_idx(labels_path)
        if numbers.shape != images.shape[:1]:
            message = f"{labels_path} has labels of shape {numbers.shape} for {len(images)} images"
            raise SourceError(message)
        labels = name_labels(numbers, class_names, labels_path)
    prefix = prefix or path.name.split("-")[0].split(".")[0]
    return ArraySource(name, path, "idx", prefix, images, labels, open_idx)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array of an IDX file of bytes: a plain file is mapped, a gzipped one unpacked."""
    try:
        with path.open("rb") as file:
            gzipped = file.read(2) == GZIP_MAGIC
        if not gzipped:
            return _map_plain(path)
        with gzip.open(path) as packed:
            return _unpack(cast("BinaryIO", packed), path)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path} is damaged or cannot be read: {error}") from error


def _map_plain(path: Path) -> NDArray[np.uint8]:
    with path.open("rb") as file:
        shape = _read_header(file, path)
        start = file.tell()
    _check_length(path, path.stat().st_size - start, shape)
    if math.prod(shape) == 0:
        return np.zeros(shape, np.uint8)
    return np.memmap(path, np.uint8, "r", start, shape)


def _unpack(file: BinaryIO, path: Path) -> NDArray[np.uint8]:
    shape = _read_header(file, path)
    elements = bytearray()  # grown by what is there: a header may promise anything
    while len(elements) <= math.prod(shape) and (chunk := file.read(2**20)):
        elements += chunk
    _check_length(path, len(elements), shape)
    return np.frombuffer(elements, np.uint8).reshape(shape)


def _read_header(file: BinaryIO, path: Path) -> tuple[int, ...]:
    head = file.read(4)
    if len(head) < 4 or head[:3] != MAGIC:
        message = (
            f"{path} is not an IDX file of bytes: it starts with {head.hex(' ')}, not 00 00 08"
        )
        raise SourceError(message)
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise SourceError(f"{path} is truncated: it ends within its header")
    return struct.unpack(f">{head[3]}I", sizes)


def _check_length(path: Path, length: int, shape: tuple[int, ...]) -> None:
    promised = math.prod(shape)
    if length < promised:
        message = f"{path} is truncated: {length:,} of the {promised:,} bytes of {shape} are there"
        raise SourceError(message)
    if length > promised:
        raise SourceError(f"{path} is damaged: it continues after {promised:,} bytes of {shape}")


def _labels_beside(path: Path) -> Path | None:
    plain = path.name.removesuffix(".gz")
    name = plain.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    if name == plain:
        return None
    candidates = (path.with_name(name), path.with_name(f"{name}.gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)

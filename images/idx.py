"""IDX pairs: the MNIST family's images file with its labels file beside it, gzipped or plain.

Layout (Y. LeCun, "The MNIST database"): two zero bytes, one byte for the element type (8: uint8), one
for the number of dimensions, one big-endian uint32 per dimension, then the elements, last index fastest.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from images.arrays import ArraySource, name_labels
from images.errors import SourceError

MAGIC = b"\x00\x00\x08"


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array of an IDX file of bytes: a plain file is mapped, a gzipped one decompressed."""
    try:
        with _open(path) as file:
            shape = _read_header(file, path)
            start = 4 + 4 * len(shape)
            if _is_gzipped(path):
                body = file.read(math.prod(shape) + 1)
                _check_size(path, len(body), shape)
                return np.frombuffer(body, np.uint8).reshape(shape)
        _check_size(path, path.stat().st_size - start, shape)
        if math.prod(shape) == 0:
            return np.zeros(shape, np.uint8)
        return np.memmap(path, np.uint8, "r", start, shape)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path} is damaged or cannot be read: {error}") from error


def open_idx(
    path: Path, name: str, *, class_names: tuple[str, ...] = (), prefix: str | None = None
) -> ArraySource:
    """Open an IDX images file; the labels file is found beside it by its name."""
    images = read_idx(path)
    if images.ndim not in {3, 4}:
        raise SourceError(
            f"{path} has {images.ndim} dimension(s), so it holds no images; give the images file (…-images-idx3-ubyte)"
        )
    if len(images) == 0:
        raise SourceError(f"{path} holds no images")
    labels_path = _labels_beside(path)
    labels, names = None, ()
    if labels_path is not None:
        raw = read_idx(labels_path)
        if raw.shape != images.shape[:1]:
            raise SourceError(
                f"{labels_path} has shape {raw.shape} for {len(images)} images of {path}"
            )
        labels, names = name_labels(raw, class_names, labels_path)
    return ArraySource(name, path, "idx", prefix or path.name.split("-")[0], images, labels, names)


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path)) if _is_gzipped(path) else path.open("rb")


def _is_gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _read_header(file: BinaryIO, path: Path) -> tuple[int, ...]:
    head = file.read(4)
    if len(head) < 4 or head[:3] != MAGIC:
        raise SourceError(
            f"{path} is no IDX file of bytes: it starts with {head.hex(' ')}, not 00 00 08"
        )
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise SourceError(f"{path} is truncated in its header")
    return struct.unpack(f">{head[3]}I", sizes)


def _check_size(path: Path, found: int, shape: tuple[int, ...]) -> None:
    if found != math.prod(shape):
        fault = "truncated" if found < math.prod(shape) else "damaged: it goes on past its end"
        raise SourceError(
            f"{path} is {fault}: its header promises {math.prod(shape)} bytes for {shape}"
        )


def _labels_beside(path: Path) -> Path | None:
    stem = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    if stem == path.name.removesuffix(".gz"):
        return None
    candidates = (path.with_name(stem), path.with_name(stem + ".gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)

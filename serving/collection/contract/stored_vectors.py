"""How a ledger holds vectors: float32, or float16 in half the space, little-endian.

float16 has 11 binary digits. A vector of length one loses at most 2^-11 of each number, so its
length and any cosine with it are off by less than 0.0005. In memory and in every answer vectors are
float32 with these values; their length is left as it is stored, so that an item read and added
again is the same item, bit for bit.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from base.errors import UsageError

Dtype = Literal["float32", "float16"]
CODES: dict[str, str] = {"float32": "<f4", "float16": "<f2"}
HALF_TOLERANCE = 2**-11 + 1e-6  # how far from one the length of a stored float16 vector may be


def check_dtype(dtype: str) -> None:
    """Refuse a dtype that vectors cannot be stored as.

    Raises:
        UsageError: naming it.
    """
    if dtype not in CODES:
        raise UsageError(f"dtype is {dtype!r}; choose {' or '.join(get_args(Dtype))}")


def bytes_of(dim: int, dtype: Dtype) -> int:
    """Return the bytes of one stored vector."""
    return dim * np.dtype(CODES[dtype]).itemsize


def stored(vectors: NDArray[np.float32], dtype: Dtype) -> list[bytes]:
    """Return vectors [N, E] of length one as the ledger holds them."""
    return [vector.tobytes() for vector in vectors.astype(CODES[dtype], copy=False)]


def loaded(blobs: Sequence[bytes], dim: int, dtype: Dtype) -> NDArray[np.float32]:
    """Return stored vectors, all of the expected size, as float32 [N, E]."""
    matrix = np.frombuffer(b"".join(blobs), CODES[dtype]).reshape(len(blobs), dim)
    return matrix.astype(np.float32, copy=False)


def kept_by_half(vectors: NDArray[np.float32], lengths: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which vectors [N, E] float16 holds exactly, which means they were read from it."""
    with np.errstate(over="ignore"):
        same: NDArray[np.bool_] = (vectors == vectors.astype("<f2")).all(axis=1)
    return same & (np.abs(lengths - 1) <= HALF_TOLERANCE)

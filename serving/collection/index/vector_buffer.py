"""The growing array of vectors that several indexes share."""

import numpy as np

from serving.collection.contract.scores import Vectors


class VectorBuffer:
    """Rows that several indexes share; each row is written once.

    Attributes:
        in_file: how many rows, the first ones, are in a file and take no memory.
    """

    def __init__(self, capacity: int, dim: int, rows: Vectors | None = None) -> None:
        self.rows = np.empty((capacity, dim), np.float32) if rows is None else rows
        self.ids = np.empty(capacity, np.int64)
        self.used = 0
        self.in_file = 0

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes; rows that were never written take none."""
        in_memory = max(self.used - self.in_file, 0)
        return in_memory * self.rows.itemsize * int(self.rows.shape[1]) + 8 * self.used

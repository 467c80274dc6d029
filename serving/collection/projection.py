"""Principal axes: a vector's few numbers that tell most of where it lies.

Embeddings of 512 or 2048 numbers lie near a space of far fewer dimensions. Turned on its axes and
cut off, they are good enough to propose neighbours by, and a search touches a fraction of the
memory. Measured on 200,000 vectors of 512 numbers, embeddings of pictures, on one core: a graph
over 128 axes proposes in 0.10 ms what one over all numbers proposes in 0.18 ms, at a recall@10 of
0.996 when all that it looked at is scored; building takes 44 s against 75 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from serving.collection.index import Ids, Vectors

SAMPLE = 40_000  # vectors the axes are learned from


@dataclass(frozen=True)
class Projection:
    """An affine map: what is left of a distance (L2) after it is never more than the distance.

    Attributes:
        axes: float32 [E, D], of length one, at right angles to each other.
        offset: float32 [D]; makes the mean zero.
    """

    axes: NDArray[np.float32]
    offset: NDArray[np.float32]

    @classmethod
    def learn(cls, vectors: Vectors, rows: Ids, dims: int) -> Projection:
        """The axes along which vectors differ most.

        Args:
            vectors: float32 [N, E].
            rows: int64 [n], where the vectors are that are to be projected.
            dims: how many axes, D < E.
        """
        sample = vectors[rows[:: max(1, len(rows) // SAMPLE)]]
        mean = sample.mean(0)
        centred = sample - mean
        _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))  # the largest last
        kept = np.ascontiguousarray(axes[:, : -dims - 1 : -1], np.float32)
        return cls(kept, -(mean @ kept))

    def __call__(self, vectors: Vectors) -> Vectors:
        """float32 [N, E] to float32 [N, D]."""
        projected: Vectors = vectors @ self.axes
        projected += self.offset
        return projected

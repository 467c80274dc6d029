"""Principal axes: the few numbers of a vector that tell most of where it lies.

Embeddings of 512 or 2048 numbers lie near a space of far fewer dimensions. Turned on its axes and
cut off, they are good enough to propose neighbors by, and a search touches a fraction of the
memory. Measured on 200,000 vectors of 512 numbers, embeddings of images, on one core: a graph
over 128 axes proposes in 0.10 ms what one over all numbers proposes in 0.18 ms, at a recall@10 of
0.996 when all that it looked at is scored; building takes 44 s against 75 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from serving.collection.contract.scores import Ids, Vectors

SAMPLE = 40_000  # vectors the axes are learned from
MOST_LOSS = 1.25  # of what was lost where it was learned
TINY, ROUNDING = np.float32(1e-12), 1e-3


@dataclass(frozen=True)
class Projection:
    """An affine map: what is left of a distance (L2) after it is never more than the distance.

    Attributes:
        axes: float32 [E, D], of length one, at right angles to each other.
        mean: float32 [E], of the vectors it was learned from.
        variances: float32 [E], of those along all axes, the largest first.
    """

    axes: NDArray[np.float32]
    mean: NDArray[np.float32]
    variances: NDArray[np.float32]

    @classmethod
    def learn(cls, vectors: Vectors, rows: Ids, dims: int) -> Projection:
        """Return the axes along which vectors differ most.

        Args:
            vectors: float32 [N, E].
            rows: int64 [n], where the vectors are that are to be projected.
            dims: how many axes, D < E.
        """
        sample = vectors[rows[:: max(1, len(rows) // SAMPLE)]]
        mean = sample.mean(0)
        sample -= mean  # a copy; of long vectors a second one would be as large as a gigabyte
        covariance = (sample.T @ sample).astype(np.float64) / len(sample)
        variances, axes = np.linalg.eigh(covariance)  # the largest last
        kept = np.ascontiguousarray(axes[:, : -dims - 1 : -1], np.float32)
        return cls(kept, mean, variances[::-1].clip(0).astype(np.float32))

    def __call__(self, vectors: Vectors) -> Vectors:
        """float32 [N, E] to float32 [N, D]."""
        projected: Vectors = vectors @ self.axes
        projected -= self._projected_mean
        return projected

    @cached_property
    def _projected_mean(self) -> Vectors:
        return self.mean @ self.axes

    def fits(self, vectors: Vectors) -> bool:
        """Whether it loses hardly more of these vectors than of those it was learned from.

        New kinds of images may differ along axes that told nothing before: then the neighbors
        among them could not be proposed.
        """
        total = self.variances.sum()
        expected = 1 - self.variances[: self.axes.shape[1]].sum() / max(total, TINY)
        spread = np.square(vectors - self.mean).sum()
        lost = 1 - np.square(self(vectors)).sum() / max(spread, TINY)
        return bool(lost <= MOST_LOSS * expected + ROUNDING)

    def to_faiss(self) -> Any:
        """Return the same map as FAISS holds it."""
        pca = faiss.PCAMatrix(*self.axes.shape)
        faiss.copy_array_to_vector(self.axes.T.ravel(), pca.A)
        faiss.copy_array_to_vector(-(self.mean @ self.axes), pca.b)
        faiss.copy_array_to_vector(self.mean, pca.mean)
        faiss.copy_array_to_vector(self.variances, pca.eigenvalues)
        pca.have_bias = pca.is_trained = True
        return pca

    @classmethod
    def from_faiss(cls, index: Any) -> Projection:
        """Return the map of an IndexPreTransform.

        Raises:
            ValueError: the index does something else before it searches.
        """
        pca = faiss.downcast_VectorTransform(index.chain.at(0))
        if index.chain.size() != 1 or not isinstance(pca, faiss.PCAMatrix):
            raise ValueError("it is not a graph over principal axes")
        axes = faiss.vector_to_array(pca.A).reshape(-1, pca.d_in)[: pca.d_out]
        mean, variances = faiss.vector_to_array(pca.mean), faiss.vector_to_array(pca.eigenvalues)
        return cls(np.ascontiguousarray(axes.T), mean, variances)

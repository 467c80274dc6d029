"""Linear projections of unit features, fitted to images without their labels.

    unit = features / |features|,   embeddings = y / |y|,   y = (unit - mean) W

Of N fitting images, g = centered / |centered| where centered = unit - mean, G [N,D] all of them:

    center      W = I
    pca         W = V_E, the E directions of largest variance
    whiten      W = V_E / deviation
    neighbors   W = (G'G + RIDGE I)^-1 G'T, where row i of T is the mean of the k rows of G that
                are nearest to g_i by cosine, itself among them; with a width E, W V_E of the
                mapped rows

`neighbors` is a ridge regression of each image on the middle of its neighborhood: what the
neighborhoods have in common stays, what tells their members apart shrinks. That gathers images of
one kind, and makes near-duplicates harder to find.

The ridge counts for little: between 0.03 and 3 mAP@R moved by at most 1.8 points at 200 images and
0.6 at 3,000, on three sets and two image sizes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from base.errors import UsageError
from export.convert.onnx_graph import TINY_NORM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Wide = NDArray[np.float64]  # [N, D] or [D, E] or [D]

Kind = Literal["center", "pca", "whiten", "neighbors"]
RIDGE = 0.3
NEAREST = 5  # of a few tried, what keeps most of the near-duplicates
BLOCK = 2**24  # cosines held at a time: 128 MiB
LEAST_VARIANCE = 1e-8  # of the largest: below it a direction is rounding noise of float32 features


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A fitted map of unit features: y = unit weights + shift; weights None: the identity."""

    name: str
    kind: Kind
    weights: NDArray[np.float32] | None  # [D,E]
    shift: NDArray[np.float32]  # [E]
    nearest: int | None = None  # of neighbors

    @property
    def width(self) -> int:
        """E."""
        return len(self.shift)

    @property
    def sha256(self) -> str:
        """Of weights and shift, float32: the identity of the fit."""
        weights = b"" if self.weights is None else self.weights.tobytes()
        return hashlib.sha256(weights + self.shift.tobytes()).hexdigest()

    def __call__(self, unit: Wide) -> NDArray[np.float32]:
        """Map unit features [N,D] to [N,E]; not yet of length 1."""
        mapped = unit if self.weights is None else unit @ self.weights.astype(np.float64)
        return (mapped + self.shift).astype(np.float32)


def unit_rows(features: NDArray[np.floating[Any]]) -> Wide:
    """Scale rows to length 1 (or 0), float64."""
    wide = features.astype(np.float64)
    unit: Wide = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), TINY_NORM)
    return unit


class Fitter:
    """Fits projections to the same unit features [N,D]; what they share is computed once.

    Raises:
        UsageError: all features are the same.
    """

    def __init__(self, unit: Wide) -> None:
        self.mean: Wide = unit.mean(0)
        self._centered = unit - self.mean
        variances, directions = np.linalg.eigh(self._centered.T @ self._centered / len(unit))
        self._variances, self._directions = variances[::-1], directions[:, ::-1]
        if not self._variances[0] > np.finfo(np.float32).eps ** 2:
            raise UsageError(
                "the features of all these pictures are the same: there is nothing to fit a "
                "projection to; give pictures that differ, or another encoder"
            )

    @property
    def rank(self) -> int:
        """Directions above rounding noise."""
        return int((self._variances > LEAST_VARIANCE * self._variances[0]).sum())

    def center(self) -> Projection:
        """Remove the mean."""
        shift = -self.mean.astype(np.float32)
        return Projection(name="center", kind="center", weights=None, shift=shift)

    def pca(self, width: int) -> Projection:
        """Keep the directions of largest variance."""
        return self._linear(f"PCA {width}", "pca", self._directions[:, :width])

    def whiten(self, width: int) -> Projection:
        """Keep those directions, all with the same weight; `width` at most `rank`."""
        weights = self._directions[:, :width] / np.sqrt(self._variances[:width])
        return self._linear(f"whiten {width}", "whiten", weights)

    def neighbors(self, nearest: int = NEAREST, width: int | None = None) -> Projection:
        """Move each image to the middle of its neighborhood, as far as a linear map can."""
        rows = self._centered / np.maximum(
            np.linalg.norm(self._centered, axis=1, keepdims=True), TINY_NORM
        )
        gram = rows.T @ rows
        gram[np.diag_indices_from(gram)] += RIDGE
        weights: Wide = np.linalg.solve(gram, rows.T @ middles(rows, nearest))
        name = f"neighbors {nearest}"
        if width is not None:
            _, directions = np.linalg.eigh(weights.T @ self._centered.T @ self._centered @ weights)
            weights, name = weights @ directions[:, ::-1][:, :width], f"{name}, {width} numbers"
        return self._linear(name, "neighbors", weights, nearest)

    def _linear(
        self, name: str, kind: Kind, weights: Wide, nearest: int | None = None
    ) -> Projection:
        return Projection(
            name=name,
            kind=kind,
            weights=np.ascontiguousarray(weights, np.float32),
            shift=(-self.mean @ weights).astype(np.float32),
            nearest=nearest,
        )


def middles(rows: Wide, nearest: int) -> Wide:
    """Return the mean of each row's nearest rows by cosine, itself among them [N,D].

    Args:
        rows: of length 1 [N,D]; compared in blocks, so that memory grows with N and not with N^2.
        nearest: k, at most N.
    """
    narrow = rows.astype(np.float32)
    step = max(1, BLOCK // len(rows))
    means = np.empty_like(rows)
    for start in range(0, len(rows), step):
        similarity = narrow[start : start + step] @ narrow.T
        order = np.argpartition(-similarity, nearest - 1, axis=1)[:, :nearest]
        means[start : start + step] = rows[order].mean(1)
    return means

"""Shorter embeddings: a PCA of real features, appended to the graph.

    unit = features / |features|,   embeddings = y / |y|,   y = (unit - mean) V_E = unit V_E + shift

V_E are the E directions of largest variance over the fitted images, mean their mean; whitening
divides each direction by its standard deviation. The covariance is accumulated in
float64, batch by batch: D x D numbers whatever the number of images. Directions are fitted to unit
features because these are what is compared; every fifth image is held out of the fit and measures
what it costs.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import UsageError
from export.convert.onnx_graph import Draft
from export.shrink.append_projection import append_projection
from export.shrink.fitting_features import EVERY, check_finite, held_out_mask
from export.shrink.projections import LEAST_VARIANCE, unit_rows
from export.verify.measures import NEIGHBORS, neighbor_overlap
from training.data.dataset import NO_LABEL
from training.protocols.retrieval import retrieval_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Wide = NDArray[np.float64]  # [N, D] or [D, D] or [D]

COMPARED = 2000  # held-out images at most: each is compared with all others
WIDTHS = (1024, 512, 256, 128, 64, 32, 16, 8)


class Covariance:
    """Mean and covariance of rows [*,D], accumulated batch by batch."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self._sum = np.zeros(dim)
        self._products = np.zeros((dim, dim))

    def add(self, rows: NDArray[np.floating[Any]]) -> None:
        """Add rows [n,D]."""
        wide = rows.astype(np.float64)
        self.count += len(wide)
        self._sum += wide.sum(0)
        self._products += wide.T @ wide

    @property
    def mean(self) -> Wide:
        """[D]."""
        return self._sum / self.count

    @property
    def matrix(self) -> Wide:
        """[D,D], divided by the count."""
        mean = self.mean
        matrix: Wide = self._products / self.count - np.outer(mean, mean)
        return matrix


@dataclass(frozen=True, kw_only=True)
class Basis:
    """All D directions, the most important first, as columns [D,D]; variances [D]; mean [D]."""

    directions: Wide
    variances: Wide
    mean: Wide

    def projection(self, width: int, *, whiten: bool) -> tuple[Wide, Wide]:
        """Return weights [D,width] and shift [width] such that y = unit weights + shift."""
        weights = self.directions[:, :width]
        if whiten:
            weights = weights / np.sqrt(self.variances[:width])
        return weights, -self.mean @ weights


def principal_directions(covariance: Covariance) -> Basis:
    """Return the eigenvectors of a covariance, each with its largest component above 0."""
    variances, directions = np.linalg.eigh(covariance.matrix)
    variances, directions = variances[::-1], directions[:, ::-1]
    largest = directions[np.abs(directions).argmax(0), np.arange(len(variances))]
    return Basis(
        directions=directions * np.where(largest < 0, -1.0, 1.0),
        variances=np.maximum(variances, np.finfo(np.float32).tiny),
        mean=covariance.mean,
    )


@dataclass(frozen=True, kw_only=True)
class WidthScore:
    """What an embedding of this width is worth on images held out of the fit."""

    width: int
    explained: float  # share of the variance
    overlap: float  # of 10 neighbors with the full width's
    map_at_r: float | None  # where there are labels
    recall_at_1: float | None


@dataclass(frozen=True, kw_only=True)
class ReductionReport:
    """What was fitted; the first of `widths` is the full one, without a projection."""

    embedding_dim: int
    whiten: bool
    explained: float
    source: str
    fitted_on: int
    compared_on: int
    fit_sha256: str  # of weights and shift, float32
    widths: tuple[WidthScore, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for JSON and for the file's `quality`."""
        return asdict(self) | {"widths": [asdict(width) for width in self.widths]}


def reduce_draft(
    draft: Draft,
    features: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    embedding_dim: int,
    *,
    whiten: bool = False,
    source: str = "",
) -> tuple[Draft, ReductionReport]:
    """Append a projection to `embedding_dim` numbers.

    Args:
        draft: in fp32, at full width.
        features: float32 [N,D] of real images, N above `embedding_dim`; may be memory-mapped.
        labels: [N] numbers; `NO_LABEL` where there is none.
        embedding_dim: E, at most D.
        whiten: give all directions the same weight.
        source: name of the images, for the report.

    Raises:
        UsageError: E is not between 1 and D or, with `whiten`, above the rank of the features; too
            few images; or the draft is projected already.
    """
    count, full = features.shape
    held_out = held_out_mask(count)
    check_finite(features)
    _check(draft, embedding_dim, full, fitted=int((~held_out).sum()), count=count)
    covariance = Covariance(full)
    for rows in np.array_split(np.flatnonzero(~held_out), max(1, count // 4096)):
        covariance.add(unit_rows(features[rows]))
    basis = principal_directions(covariance)
    if whiten:
        _check_rank(basis, embedding_dim)
    weights, shift = (
        term.astype(np.float32) for term in basis.projection(embedding_dim, whiten=whiten)
    )
    compared = np.flatnonzero(held_out)[:: max(1, int(held_out.sum()) // COMPARED)][:COMPARED]
    report = ReductionReport(
        embedding_dim=embedding_dim,
        whiten=whiten,
        explained=_explained(basis, embedding_dim),
        source=source,
        fitted_on=covariance.count,
        compared_on=len(compared),
        fit_sha256=hashlib.sha256(weights.tobytes() + shift.tobytes()).hexdigest(),
        widths=tuple(
            _scores(
                basis,
                unit_rows(features[compared]),
                labels[compared],
                embedding_dim,
                whiten=whiten,
            )
        ),
    )
    contract = replace(
        draft.contract,
        embedding_dim=embedding_dim,
        quality=draft.contract.quality | {"projection": report.to_dict()},
    )
    return Draft(model=append_projection(draft.model, weights, shift), contract=contract), report


def _check(draft: Draft, embedding_dim: int, full: int, *, fitted: int, count: int) -> None:
    """Raise UsageError where no projection to `embedding_dim` numbers can be fitted."""
    if not 1 <= embedding_dim <= full:
        raise UsageError(
            f"embedding_dim {embedding_dim} must lie between 1 and the {full} features"
        )
    if draft.contract.fit_digest or draft.contract.embedding_dim != draft.contract.feature_dim:
        raise UsageError("the encoder's embeddings are projected already: start from its run")
    if fitted <= embedding_dim:
        raise UsageError(
            f"{count} pictures are too few to fit {embedding_dim} directions: give at least "
            f"{EVERY * (embedding_dim + 1) // (EVERY - 1) + 1}"
        )


def _check_rank(basis: Basis, width: int) -> None:
    """Raise UsageError where whitening would divide by the variance of rounding noise."""
    rank = int((basis.variances > LEAST_VARIANCE * basis.variances[0]).sum())
    if width > rank:
        raise UsageError(
            f"embedding_dim {width} with whitening: the features of these pictures have rank "
            f"{rank}, and the other directions are rounding noise; take at most {rank}, give more "
            f"varied pictures, or leave whitening out"
        )


def _explained(basis: Basis, width: int) -> float:
    return float(basis.variances[:width].sum() / basis.variances.sum())


def _scores(
    basis: Basis, rows: Wide, labels: NDArray[np.integer[Any]], requested: int, *, whiten: bool
) -> list[WidthScore]:
    full = rows.shape[1]
    widths = sorted({requested, *(width for width in WIDTHS if width < full)}, reverse=True)
    whole = rows.astype(np.float32)
    scores = [_score(full, 1.0, whole, whole, labels)]
    for width in widths:
        weights, shift = basis.projection(width, whiten=whiten)
        short = (rows @ weights + shift).astype(np.float32)
        scores.append(_score(width, _explained(basis, width), short, whole, labels))
    return scores


def _score(
    width: int,
    explained: float,
    short: NDArray[np.float32],
    whole: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
) -> WidthScore:
    _, counts = np.unique(labels[labels != NO_LABEL], return_counts=True)
    retrieval = retrieval_scores(short, labels, ks=(1,)) if (counts > 1).any() else None
    return WidthScore(
        width=width,
        explained=explained,
        overlap=neighbor_overlap(short, whole, NEIGHBORS) if len(whole) > 1 else 1.0,
        map_at_r=None if retrieval is None else retrieval.map_at_r,
        recall_at_1=None if retrieval is None else retrieval.recall[1],
    )

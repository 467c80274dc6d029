"""The checks of `verify`: is it the same encoder, does it compute the same, is the file sound?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from export.encoder_file.batches import encode_in_batches
from export.encoder_file.contract import EMBEDDINGS, FEATURES
from export.verify.measures import NEIGHBORS, cosines, neighbor_overlap, relative_error

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from export.encoder_file.encoder_file import Encoder, EncoderContract
    from training.run_folder.checkpoint import TrainedEncoder

    Vectors = NDArray[np.float32]  # [N, D]

SINGLY = 16  # images that are also encoded one by one
NORM_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The deviations up to which two encoders count as the same."""

    max_relative_error: float = 1e-4
    min_cosine: float = 0.99999
    min_overlap: float = 0.99


EXACT = Thresholds()
LOSSY = Thresholds(max_relative_error=float("inf"), min_cosine=0.99, min_overlap=0.90)
"""For int8 and fp16: the mean cosine counts, not the least one."""
LOSSY_BATCH = 0.02  # a value on the edge between two of 256 steps may fall to either side


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison: what was measured, what was required, and whether it holds."""

    name: str
    value: str | float
    requirement: str
    passed: bool

    @property
    def shown_value(self) -> str:
        """The value, short enough for a table."""
        return self.value if isinstance(self.value, str) else f"{self.value:.7g}"

    def to_dict(self) -> dict[str, Any]:
        """Return the check, ready for JSON."""
        return {
            "name": self.name,
            "found": self.value,
            "wanted": self.requirement,
            "passed": self.passed,
        }


def identity_checks(encoder: Encoder, trained: TrainedEncoder) -> list[Check]:
    """Check that the file names this run as its origin and has the run's dimensions."""
    contract = encoder.contract
    pairs = {
        "checkpoint": (contract.source_sha256, trained.sha256),
        "preprocessing": (  # a scaled decode is an option of the export
            replace(contract.preprocess, scaled_decode=None).digest,
            replace(trained.preprocess, scaled_decode=None).digest,
        ),
        FEATURES: (str(contract.feature_dim), str(trained.module.feature_dim)),
        EMBEDDINGS: (str(contract.embedding_dim), str(_promised_width(contract, trained))),
    }
    return [
        Check(name=name, value=own[:12], requirement=expected[:12], passed=own == expected)
        for name, (own, expected) in pairs.items()
    ]


def _promised_width(contract: EncoderContract, trained: TrainedEncoder) -> int:
    """Return E: all features, or the width of the projection that was appended."""
    projection = contract.quality.get("projection")
    width = projection.get("embedding_dim") if isinstance(projection, dict) else None
    return width if isinstance(width, int) else trained.module.feature_dim


def parity_checks(
    features: Vectors,
    embeddings: Vectors,
    expected: Vectors,
    limits: Thresholds,
    expected_embeddings: Vectors | None = None,
    *,
    of: str = "",
) -> list[Check]:
    """Compare features and embeddings with the expected ones.

    Args:
        features: [N,D].
        embeddings: [N,E].
        expected: features [N,D].
        limits: what counts as the same; without a bound on the error the least cosine has none.
        expected_embeddings: [N,E]; default: the expected features, whose length does not matter.
        of: what is compared, for the names of the checks.
    """
    directions = expected if expected_embeddings is None else expected_embeddings
    cosine = cosines(embeddings, directions)
    checks = [at_least(f"mean cosine{of}", cosine.mean(), limits.min_cosine)]
    if np.isfinite(limits.max_relative_error):
        error = relative_error(features, expected)
        checks.append(_at_most("relative error", error, limits.max_relative_error))
        checks.append(at_least(f"least cosine{of}", cosine, limits.min_cosine))
    if len(features) > 1:
        overlap = neighbor_overlap(embeddings, directions, NEIGHBORS)
        checks.append(at_least(f"overlap@{NEIGHBORS}{of}", overlap, limits.min_overlap))
    return checks


def file_checks(
    encoder: Encoder,
    images: NDArray[np.uint8],
    features: Vectors,
    embeddings: Vectors,
    limits: Thresholds,
) -> list[Check]:
    """Check what a file promises by itself: rows that do not depend on their batch, length 1."""
    singly, _ = encode_in_batches(encoder.encode_with_features, images[:SINGLY], 1)
    error = relative_error(singly, features[:SINGLY])
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    off = np.abs(lengths - 1)
    empty = ~features.any(axis=1)  # no features: length 0, or 1 behind a projection's shift
    off = np.where(empty, np.minimum(off, lengths), off)
    return [
        _at_most("batch", error, min(limits.max_relative_error, LOSSY_BATCH)),
        _at_most("length", off, NORM_TOLERANCE),
    ]


def _at_most(name: str, values: ArrayLike, bound: float) -> Check:
    worst = float(np.max(values))
    return Check(name=name, value=worst, requirement=f"<= {bound:g}", passed=worst <= bound)


def at_least(name: str, values: ArrayLike, bound: float) -> Check:
    """Check that no value is below the bound."""
    worst = float(np.min(values))
    return Check(name=name, value=worst, requirement=f">= {bound:g}", passed=worst >= bound)

"""Is an encoder file still the encoder that was trained?

Two ways from the same uint8 images to vectors are compared: torch (/ 255, - mean, / std, the
run's module, h, L2), and the file in ONNX Runtime. What is compared, over N images:

    relative error   of features: max |actual - expected| / max |expected|, per image
    cosine           of embeddings, actual to expected, per image: least and mean
    overlap@10       share of each image's 10 nearest others that both ways agree on
    batch            relative error of images encoded one by one against the same in a batch
    length           of embeddings: | |e| - 1 |

Where one file projects its embeddings and the other does not, or by another fit (the contract has
its digest; the width may be the same), features are compared instead; the overlap of the embeddings
is shown but not checked: a projection gives some of it up.

NaN fails. So does a file that names another checkpoint, however close its vectors are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.encoder_file.batches import encode_in_batches
from export.encoder_file.contract import EMBEDDINGS, FEATURES
from export.encoder_file.encoder_file import open_encoder
from export.verify.checks import (
    EXACT,
    LOSSY,
    Check,
    Thresholds,
    at_least,
    file_checks,
    identity_checks,
    parity_checks,
)
from export.verify.compare import OVERLAP, PROJECTED, figures, speeds
from export.verify.generated_images import generated_images
from export.verify.measures import NEIGHBORS, neighbor_overlap
from training.data.cache import decode_source
from training.models.features import encode
from training.run_folder.checkpoint import load_encoder

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from base.progress import Progress
    from export.encoder_file.encoder_file import Encoder
    from images.items import RefusedImage
    from images.pixels.preprocess import PreprocessSpec
    from images.sources.sources import Source
    from training.run_folder.checkpoint import TrainedEncoder

    Vectors = NDArray[np.float32]  # [N, D]

GENERATED = 64
BATCH = 32
_WIDTHS = (FEATURES, EMBEDDINGS)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The outcome of `verify`."""

    encoder: str
    run: str | None
    compared_on: str
    count: int
    checks: tuple[Check, ...]
    refused: tuple[RefusedImage, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)
    speed: dict[str, dict[str, float]] = field(default_factory=dict)  # images per second

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome, ready for JSON; `refused` is a count."""
        return {
            "encoder": self.encoder,
            "run": self.run,
            "pictures": self.compared_on,
            "count": self.count,
            "checks": [check.to_dict() for check in self.checks],
            "refused": len(self.refused),
            "figures": self.figures,
            "speed": self.speed,
            "passed": self.passed,
        }


def verify(
    encoder_path: str | os.PathLike[str],
    run: str | os.PathLike[str] | None = None,
    source: Source | None = None,
    *,
    thresholds: Thresholds | None = None,
    overrides: Mapping[str, float] | None = None,
    limit: int = 256,
    progress: Progress | None = None,
) -> Verification:
    """Compare an encoder file with the run it was made from, or with another encoder file.

    Args:
        encoder_path: the encoder file.
        run: run folder or encoder file; without one only the file itself is checked.
        source: images to compare on; without one, images are drawn.
        thresholds: what counts as the same; default: `EXACT`, and `LOSSY` where a file is not in
            fp32.
        overrides: thresholds by name, in place of those.
        limit: compare on that many images, evenly spread over the source.
        progress: shows how far the decoding is.

    Raises:
        ArtifactError: the file or the run folder is missing, damaged or not ours.
        SourceError: no image of the source can be used.
    """
    encoder = open_encoder(encoder_path, provider="cpu")
    other = open_encoder(run, provider="cpu") if run is not None and Path(run).is_file() else None
    trained = None if run is None or other else load_encoder(Path(run))
    precisions = {one.contract.precision for one in (encoder, other) if one}
    limits = thresholds or (EXACT if precisions == {"fp32"} else LOSSY)
    limits = replace(limits, **(overrides or {}))
    sample = _sample(source, encoder.preprocess, limit, progress)
    if other:
        return _against_file(encoder, other, sample, limits)
    outcome = _against_run(encoder, trained, sample, limits)
    return replace(outcome, encoder=str(encoder_path), run=None if run is None else str(run))


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Images to compare on, uint8 [N,S,S,C], and those of their source that were refused."""

    name: str
    images: NDArray[np.uint8]
    refused: tuple[RefusedImage, ...] = ()


def _sample(
    source: Source | None, spec: PreprocessSpec, limit: int, progress: Progress | None
) -> _Sample:
    if source is None:
        drawn = generated_images(GENERATED, spec.size, channels=spec.channels)
        return _Sample(name="generated pictures", images=drawn)
    decoded = decode_source(source, spec, limit=limit, progress=progress)
    name = f"pictures of {source.name}"
    return _Sample(name=name, images=decoded.images, refused=decoded.refused)


def _against_run(
    encoder: Encoder, trained: TrainedEncoder | None, sample: _Sample, limits: Thresholds
) -> Verification:
    """Compare with the torch module of a run; without one, check the file by itself."""
    features, embeddings = _vectors(encoder, sample.images)
    checks = [] if trained is None else identity_checks(encoder, trained)
    measured: dict[str, float] = {}
    if trained and all(check.passed for check in checks if check.name in _WIDTHS):
        expected = encode(trained.module, sample.images, mean=trained.mean, std=trained.std)
        if not encoder.contract.fit_digest and embeddings.shape == expected.shape:
            checks += parity_checks(features, embeddings, expected, limits)
        else:  # projected: its features are the run's, its neighbors need not be
            checks += parity_checks(features, features, expected, limits, of=" of features")
            if len(expected) > 1:
                measured[PROJECTED] = neighbor_overlap(embeddings, expected, NEIGHBORS)
    checks += file_checks(encoder, sample.images, features, embeddings, limits)
    return Verification(
        encoder=str(encoder.path),
        run=None,
        compared_on=sample.name,
        count=len(sample.images),
        checks=tuple(checks),
        refused=sample.refused,
        figures=measured,
    )


def _against_file(
    encoder: Encoder, other: Encoder, sample: _Sample, limits: Thresholds
) -> Verification:
    """Compare with another encoder file, whose vectors are the expected ones."""
    images = sample.images
    vectors = _vectors(encoder, images)
    digest, expected_digest = (one.preprocess.digest for one in (encoder, other))
    checks = [
        Check(
            name="preprocessing",
            value=digest[:12],
            requirement=expected_digest[:12],
            passed=digest == expected_digest,
        )
    ]
    measured: dict[str, float] = {}
    spec = other.preprocess
    if images.shape[1:] == (spec.size, spec.size, spec.channels):
        expected = _vectors(other, images)
        alike = encoder.contract.fit_digest == other.contract.fit_digest
        measured = figures(vectors, expected, alike=alike)
        if vectors[0].shape != expected[0].shape:
            if len(images) > 1:  # only their neighbors can be compared
                overlap = measured[OVERLAP]
                checks.append(at_least(OVERLAP, overlap, limits.min_overlap))
        elif alike and vectors[1].shape == expected[1].shape:
            checks += parity_checks(*vectors, expected[0], limits, expected[1])
        else:  # projected by one of them, or otherwise
            checks += parity_checks(vectors[0], vectors[0], expected[0], limits, of=" of features")
    checks += file_checks(encoder, images, *vectors, limits)
    speed = speeds({str(encoder.path): encoder}, images)
    if measured:
        speed = speeds({str(encoder.path): encoder, str(other.path): other}, images)
    return Verification(
        encoder=str(encoder.path),
        run=str(other.path),
        compared_on=sample.name,
        count=len(images),
        checks=tuple(checks),
        refused=sample.refused,
        figures=measured,
        speed=speed,
    )


def _vectors(encoder: Encoder, images: NDArray[np.uint8]) -> tuple[Vectors, Vectors]:
    """Return features [N,D] and embeddings [N,E] of images."""
    features, embeddings = encode_in_batches(encoder.encode_with_features, images, BATCH)
    return features, embeddings

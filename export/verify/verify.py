"""Is an encoder file still the encoder that was trained?

Two ways from the same uint8 images to vectors are compared: torch (/ 255, - mean, / std, the
run's module, h, L2), and the file in ONNX Runtime. What is compared, over N images:

    relative error   of features: max |found - expected| / max |expected|, per image
    cosine           of embeddings, found to expected, per image: least and mean
    overlap@10       share of each image's 10 nearest others that both ways agree on
    batch            relative error of images encoded one by one against the same in a batch
    length           of embeddings: | |e| - 1 |

Where the embeddings have different widths, since one file projects them, features are compared in
their place; the overlap of the embeddings is shown and is no check: it is what was given up.

Whatever is no number fails. So does a file that names another checkpoint, however near it comes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.encoder_file.encoder_file import open_encoder
from export.verify.checks import (
    EXACT,
    LOSSY,
    NEIGHBORS,
    Check,
    Thresholds,
    at_least,
    file_checks,
    identity_checks,
    parity_checks,
)
from export.verify.compare import OVERLAP, PROJECTED, figures, speeds
from export.verify.generated_images import generated_images
from export.verify.measures import neighbor_overlap
from training.data.cache import decode_source
from training.models.features import encode
from training.run_folder.checkpoint import load_encoder

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from base.progress import Progress
    from export.encoder_file.encoder_file import Encoder
    from images.sources.sources import Source
    from training.data.dataset import RefusedImage

    Vectors = NDArray[np.float32]  # [N, D]

GENERATED = 64
BATCH = 32
_SHAPES = ("features", "embeddings")


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
        """For JSON; `refused` is a count."""
        facts = asdict(self) | {"passed": self.passed, "refused": len(self.refused)}
        return facts | {"pictures": facts.pop("compared_on")}


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
    refused: tuple[RefusedImage, ...] = ()
    if source is None:
        images = generated_images(
            GENERATED, encoder.preprocess.size, channels=encoder.preprocess.channels
        )
        name = "generated pictures"
    else:
        decoded = decode_source(source, encoder.preprocess, limit=limit, progress=progress)
        images, refused = decoded.images, decoded.refused
        name = f"pictures of {source.name}"
    features, embeddings = _in_batches(encoder, images)
    if other:
        return _against_file(
            encoder,
            other,
            images=images,
            found=(features, embeddings),
            limits=limits,
            compared_on=name,
            refused=refused,
        )
    checks = [] if trained is None else identity_checks(encoder, trained)
    measured: dict[str, float] = {}
    if trained and all(check.passed for check in checks if check.name in _SHAPES):
        expected = encode(trained.module, images, mean=trained.mean, std=trained.std)
        if embeddings.shape == expected.shape:
            checks += parity_checks(features, embeddings, expected, limits)
        else:  # projected: its features are the run's; how near its neighbors are is its choice
            checks += parity_checks(features, features, expected, limits, of=" of features")
            if len(images) > 1:
                measured[PROJECTED] = neighbor_overlap(embeddings, expected, NEIGHBORS)
    checks += file_checks(encoder, images, features, embeddings, limits)
    return Verification(
        encoder=str(encoder_path),
        run=None if run is None else str(run),
        compared_on=name,
        count=len(images),
        checks=tuple(checks),
        refused=refused,
        figures=measured,
    )


def _against_file(
    encoder: Encoder,
    other: Encoder,
    *,
    images: NDArray[np.uint8],
    found: tuple[Vectors, Vectors],
    limits: Thresholds,
    compared_on: str,
    refused: tuple[RefusedImage, ...],
) -> Verification:
    same, wanted = (one.preprocess.digest for one in (encoder, other))
    checks = [
        Check(name="preprocessing", found=same[:12], wanted=wanted[:12], passed=same == wanted)
    ]
    measured: dict[str, float] = {}
    spec = other.preprocess
    if images.shape[1:] == (spec.size, spec.size, spec.channels):
        expected = _in_batches(other, images)
        measured = figures(found, expected)
        if found[0].shape != expected[0].shape:
            if len(images) > 1:  # only their neighbors can be compared
                overlap = measured[OVERLAP]
                checks.append(at_least(OVERLAP, overlap, limits.min_overlap))
        elif found[1].shape == expected[1].shape:
            checks += parity_checks(*found, expected[0], limits, expected[1])
        else:  # one is projected
            checks += parity_checks(found[0], found[0], expected[0], limits, of=" of features")
    checks += file_checks(encoder, images, *found, limits)
    speed = speeds({str(encoder.path): encoder}, images)
    if measured:
        speed = speeds({str(encoder.path): encoder, str(other.path): other}, images)
    return Verification(
        encoder=str(encoder.path),
        run=str(other.path),
        compared_on=compared_on,
        count=len(images),
        checks=tuple(checks),
        refused=refused,
        figures=measured,
        speed=speed,
    )


def _in_batches(encoder: Encoder, images: NDArray[np.uint8]) -> tuple[Vectors, Vectors]:
    parts = [
        encoder.encode_with_features(images[start : start + BATCH])
        for start in range(0, len(images), BATCH)
    ]
    features, embeddings = (np.concatenate(column) for column in zip(*parts, strict=True))
    return features, embeddings

"""Is an encoder file still the encoder that was trained?

Two ways from the same uint8 pictures to vectors are compared: torch (/ 255, - mean, / std, the
run's module, h, L2), and the file in ONNX Runtime. What is compared, over N pictures:

    relative error   of features: max |found - expected| / max |expected|, per picture
    cosine           of embeddings, found to expected, per picture: least and mean
    overlap@10       share of each picture's 10 nearest others that both ways agree on
    batch            relative error of pictures encoded one by one against the same in a batch
    length           of embeddings: | |e| - 1 |

Whatever is no number fails. So does a file that names another checkpoint, however near it comes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.compare import figures, speeds
from export.encoder_file import open_encoder
from export.generated_pictures import generated_pictures
from export.measures import cosines, neighbour_overlap, relative_error
from training.cache import decode_source
from training.checkpoint import load_encoder
from training.features import encode

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from export.encoder_file import Encoder, EncoderContract
    from images.sources import Source
    from training.checkpoint import TrainedEncoder
    from training.pictures import Refusal
    from training.progress import Reporter

    Vectors = NDArray[np.float32]  # [N, D]

GENERATED = 64
SINGLY = 16  # pictures that are also encoded one by one
BATCH = 32
NEIGHBOURS = 10
NORM_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What is still the same encoder."""

    max_relative_error: float = 1e-4
    min_cosine: float = 0.99999
    min_overlap: float = 0.99


EXACT = Thresholds()
LOSSY = Thresholds(max_relative_error=float("inf"), min_cosine=0.99, min_overlap=0.90)
"""For int8 and fp16: the mean cosine counts, not the least one."""
LOSSY_BATCH = 0.02  # a value on the edge between two of 256 steps may fall to either side


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison: what was found, what it had to be, and whether it is."""

    name: str
    found: str | float
    wanted: str
    passed: bool

    @property
    def found_words(self) -> str:
        """What was found, short enough for a table."""
        return self.found if isinstance(self.found, str) else f"{self.found:.7g}"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The outcome of `verify`."""

    encoder: str
    run: str | None
    pictures: str
    count: int
    checks: tuple[Check, ...]
    refused: tuple[Refusal, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)
    speed: dict[str, dict[str, float]] = field(default_factory=dict)  # pictures per second

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `refused` is a count."""
        return asdict(self) | {"passed": self.passed, "refused": len(self.refused)}


def verify(
    encoder_path: str | os.PathLike[str],
    run: str | os.PathLike[str] | None = None,
    source: Source | None = None,
    *,
    thresholds: Thresholds | None = None,
    overrides: Mapping[str, float] | None = None,
    limit: int = 256,
    reporter: Reporter | None = None,
) -> Verification:
    """Compares an encoder file with the run it was made from, or with another encoder file.

    Args:
        encoder_path: the encoder file.
        run: run folder or encoder file; without one only the file itself is checked.
        source: pictures to compare on; without one, pictures are drawn.
        thresholds: what counts as the same; default: `EXACT`, and `LOSSY` where a file is not in
            fp32.
        overrides: thresholds by name, in place of those.
        limit: compare on that many pictures, evenly spread over the source.
        reporter: told about the decoding.

    Raises:
        ArtefactError: the file or the run folder is missing, damaged or not ours.
        SourceError: no picture of the source can be used.
    """
    encoder = open_encoder(encoder_path, provider="cpu")
    other = open_encoder(run, provider="cpu") if run is not None and Path(run).is_file() else None
    trained = None if run is None or other else load_encoder(Path(run))
    precisions = {one.contract.precision for one in (encoder, other) if one}
    limits = thresholds or (EXACT if precisions == {"fp32"} else LOSSY)
    limits = replace(limits, **(overrides or {}))
    refused: tuple[Refusal, ...] = ()
    if source is None:
        images = generated_pictures(
            GENERATED, encoder.preprocess.size, channels=encoder.preprocess.channels
        )
        name = "generated pictures"
    else:
        decoded = decode_source(source, encoder.preprocess, limit=limit, reporter=reporter)
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
            pictures=name,
            refused=refused,
        )
    checks = [] if trained is None else identity_checks(encoder, trained)
    if trained and all(check.passed for check in checks if check.name in _SHAPES):
        expected = encode(trained.module, images, mean=trained.mean, std=trained.std)
        if embeddings.shape == expected.shape:
            checks += parity_checks(features, embeddings, expected, limits)
        else:  # projected: its features are the run's, its neighbours nearly
            checks += parity_checks(features, features, expected, limits)
            overlap = neighbour_overlap(embeddings, expected, NEIGHBOURS)
            checks.append(_at_least("overlap projected", overlap, 0.0))
    checks += file_checks(encoder, images, features, embeddings, limits)
    return Verification(
        encoder=str(encoder_path),
        run=None if run is None else str(run),
        pictures=name,
        count=len(images),
        checks=tuple(checks),
        refused=refused,
    )


def _against_file(
    encoder: Encoder,
    other: Encoder,
    *,
    images: NDArray[np.uint8],
    found: tuple[Vectors, Vectors],
    limits: Thresholds,
    pictures: str,
    refused: tuple[Refusal, ...],
) -> Verification:
    same, wanted = (one.preprocess.digest for one in (encoder, other))
    checks = [
        Check(name="preprocessing", found=same[:12], wanted=wanted[:12], passed=same == wanted)
    ]
    measured: dict[str, float] = {}
    if images.shape[1:] == (other.preprocess.size, other.preprocess.size, 3):
        expected = _in_batches(other, images)
        measured = figures(found, expected)
        if found[0].shape == expected[0].shape and found[1].shape == expected[1].shape:
            checks += parity_checks(*found, expected[0], limits, expected[1])
        elif len(images) > 1:  # a shorter embedding: only its neighbours can be compared
            overlap = measured[f"overlap@{NEIGHBOURS}"]
            checks.append(_at_least(f"overlap@{NEIGHBOURS}", overlap, LOSSY.min_overlap))
    checks += file_checks(encoder, images, *found, limits)
    speed = speeds({str(encoder.path): encoder}, images)
    if measured:
        speed = speeds({str(encoder.path): encoder, str(other.path): other}, images)
    return Verification(
        encoder=str(encoder.path),
        run=str(other.path),
        pictures=pictures,
        count=len(images),
        checks=tuple(checks),
        refused=refused,
        figures=measured,
        speed=speed,
    )


# --- the checks ----------------------------------------------------------------------------------

_SHAPES = ("features", "embeddings")


def identity_checks(encoder: Encoder, trained: TrainedEncoder) -> list[Check]:
    """Does the file say that it was made from this run, and does it have the run's dimensions?"""
    contract = encoder.contract
    pairs = {
        "checkpoint": (contract.source_sha256, trained.sha256),
        "preprocessing": (contract.preprocess.digest, trained.preprocess.digest),
        "features": (str(contract.feature_dim), str(trained.module.feature_dim)),
        "embeddings": (str(contract.embedding_dim), str(_promised_width(contract, trained))),
    }
    return [
        Check(name=name, found=found[:12], wanted=wanted[:12], passed=found == wanted)
        for name, (found, wanted) in pairs.items()
    ]


def _promised_width(contract: EncoderContract, trained: TrainedEncoder) -> int:
    """E: all features, or what the projection says that was appended."""
    projection = contract.quality.get("projection")
    width = projection.get("embedding_dim") if isinstance(projection, dict) else None
    return width if isinstance(width, int) else trained.module.feature_dim


def parity_checks(
    features: Vectors,
    embeddings: Vectors,
    expected: Vectors,
    limits: Thresholds,
    expected_embeddings: Vectors | None = None,
) -> list[Check]:
    """Compares features and embeddings with the expected ones.

    Args:
        features: [N,D].
        embeddings: [N,E].
        expected: features [N,D].
        limits: what counts as the same; without a bound on the error the least cosine has none.
        expected_embeddings: [N,E]; default: the expected features, whose length does not matter.
    """
    directions = expected if expected_embeddings is None else expected_embeddings
    cosine = cosines(embeddings, directions)
    checks = [_at_least("mean cosine", cosine.mean(), limits.min_cosine)]
    if np.isfinite(limits.max_relative_error):
        error = relative_error(features, expected)
        checks.append(_at_most("relative error", error, limits.max_relative_error))
        checks.append(_at_least("least cosine", cosine, limits.min_cosine))
    if len(features) > 1:
        overlap = neighbour_overlap(embeddings, directions, NEIGHBOURS)
        checks.append(_at_least(f"overlap@{NEIGHBOURS}", overlap, limits.min_overlap))
    return checks


def file_checks(
    encoder: Encoder,
    images: NDArray[np.uint8],
    features: Vectors,
    embeddings: Vectors,
    limits: Thresholds,
) -> list[Check]:
    """What a file has to keep by itself: rows without regard to their batch, length 1."""
    singly = [
        encoder.encode_with_features(images[i : i + 1])[0] for i in range(len(images))[:SINGLY]
    ]
    error = relative_error(np.concatenate(singly), features[:SINGLY])
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
    return Check(name=name, found=worst, wanted=f"<= {bound:g}", passed=worst <= bound)


def _at_least(name: str, values: ArrayLike, bound: float) -> Check:
    worst = float(np.min(values))
    return Check(name=name, found=worst, wanted=f">= {bound:g}", passed=worst >= bound)


def _in_batches(encoder: Encoder, images: NDArray[np.uint8]) -> tuple[Vectors, Vectors]:
    parts = [
        encoder.encode_with_features(images[start : start + BATCH])
        for start in range(0, len(images), BATCH)
    ]
    features, embeddings = (np.concatenate(column) for column in zip(*parts, strict=True))
    return features, embeddings

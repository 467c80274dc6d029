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

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.encoder_file import open_encoder
from export.generated_pictures import generated_pictures
from export.measures import cosines, neighbour_overlap, relative_error
from training.cache import decode_source
from training.checkpoint import load_encoder
from training.features import encode

if TYPE_CHECKING:
    import os

    from numpy.typing import ArrayLike, NDArray

    from export.encoder_file import Encoder
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
    limit: int = 256,
    reporter: Reporter | None = None,
) -> Verification:
    """Compares an encoder file with the run it was made from.

    Args:
        encoder_path: the encoder file.
        run: the run folder; without one only the file itself is checked.
        source: pictures to compare on; without one, pictures are drawn.
        thresholds: what counts as the same.
        limit: compare on that many pictures, evenly spread over the source.
        reporter: told about the decoding.

    Raises:
        ArtefactError: the file or the run folder is missing, damaged or not ours.
        SourceError: no picture of the source can be used.
    """
    limits = thresholds or Thresholds()
    encoder = open_encoder(encoder_path, provider="cpu")
    trained = None if run is None else load_encoder(Path(run))
    refused: tuple[Refusal, ...] = ()
    if source is None:
        images = generated_pictures(GENERATED, encoder.preprocess.size)
        name = "generated pictures"
    else:
        decoded = decode_source(source, encoder.preprocess, limit=limit, reporter=reporter)
        images, refused = decoded.images, decoded.refused
        name = f"pictures of {source.name}"
    features, embeddings = _in_batches(encoder, images)
    checks = [] if trained is None else identity_checks(encoder, trained)
    if trained is not None and all(check.passed for check in checks if check.name in _SHAPES):
        expected = encode(trained.module, images, mean=trained.mean, std=trained.std)
        checks += parity_checks(features, embeddings, expected, limits)
    checks += file_checks(encoder, images, features, embeddings, limits)
    return Verification(
        encoder=str(encoder_path),
        run=None if run is None else str(run),
        pictures=name,
        count=len(images),
        checks=tuple(checks),
        refused=refused,
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
        "embeddings": (str(contract.embedding_dim), str(trained.module.feature_dim)),
    }
    return [
        Check(name=name, found=found[:12], wanted=wanted[:12], passed=found == wanted)
        for name, (found, wanted) in pairs.items()
    ]


def parity_checks(
    features: Vectors, embeddings: Vectors, expected: Vectors, limits: Thresholds
) -> list[Check]:
    """Compares the file's features and embeddings with torch's features, each [N,D]."""
    cosine = cosines(embeddings, expected)
    checks = [
        _at_most("relative error", relative_error(features, expected), limits.max_relative_error),
        _at_least("least cosine", cosine, limits.min_cosine),
        _at_least("mean cosine", cosine.mean(), limits.min_cosine),
    ]
    if len(features) > 1:
        overlap = neighbour_overlap(embeddings, expected, NEIGHBOURS)
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
    off = np.where(features.any(axis=1), np.abs(lengths - 1), lengths)  # no features: length 0
    return [
        _at_most("batch", error, limits.max_relative_error),
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

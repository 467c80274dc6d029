"""How good are the vectors of a run or an encoder file? The protocols of `training/protocols`.

Queries and gallery are two sources, or one: then `retrieval` lets each picture search among all
others, and `knn` lets every fifth picture ask the other four fifths.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from export.encoder_file import open_encoder
from images.errors import UsageError
from training.cache import decode_source
from training.checkpoint import load_encoder
from training.features import encode
from training.pictures import NO_LABEL
from training.progress import Silent
from training.protocols.knn import knn_accuracy
from training.protocols.retrieval import retrieval_scores

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from numpy.typing import NDArray

    from images.preprocess import PreprocessSpec
    from images.sources import Source
    from training.pictures import Pictures, Refusal
    from training.progress import Reporter

Protocol = Literal["knn", "retrieval"]
PROTOCOLS: tuple[Protocol, ...] = ("knn", "retrieval")
BATCH = 128
EVERY = 5
DEPTHS = (1, 5, 10)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Vectors [N,D] of labelled pictures and the names of their classes [N]."""

    vectors: NDArray[np.float32]
    labels: NDArray[np.str_]

    def take(self, chosen: NDArray[np.bool_]) -> Labelled:
        """The rows where `chosen` [N] is true."""
        return Labelled(vectors=self.vectors[chosen], labels=self.labels[chosen])


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The outcome of `evaluate`; scores are shares in [0,1]."""

    protocol: Protocol
    scores: dict[str, float]
    queries: int
    gallery: int
    refused: tuple[Refusal, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `refused` is a count."""
        return {
            "protocol": self.protocol,
            "scores": self.scores,
            "queries": self.queries,
            "gallery": self.gallery,
            "refused": len(self.refused),
        }


def evaluate(
    subject: str | os.PathLike[str],
    source: Source,
    protocol: Protocol,
    *,
    gallery: Source | None = None,
    k: int = 200,
    limit: int | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Measures a run's features or an encoder file's embeddings on labelled pictures.

    Args:
        subject: run folder or encoder file.
        source: the queries, and the gallery too where none is given.
        protocol: "knn" (weighted vote of the nearest) or "retrieval" (recall, precision, mAP@R).
        gallery: the pictures that are searched.
        k: neighbours that vote in "knn".
        limit: use that many pictures of each source, evenly spread.
        reporter: told about the progress.

    Raises:
        ArtefactError: the subject is missing, damaged or not ours.
        UsageError: pictures without labels, or too few of them.
        SourceError: no picture of a source can be used.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"protocol {protocol!r} is unknown: choose {' or '.join(PROTOCOLS)}")
    for one in (source, gallery):
        if one is not None and not one.classes:
            raise UsageError(
                f"{one.name} has no labels, which {protocol} needs: give one sub-folder per class"
            )
    spec, embed = open_subject(Path(subject))
    refused: list[Refusal] = []

    def vectors_of(source: Source) -> Labelled:
        with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
            pictures = decode_source(
                source, spec, limit=limit, folder=Path(folder), reporter=reporter
            )
            refused.extend(pictures.refused)
            return _vectors(pictures, embed, reporter or Silent())

    queries = vectors_of(source)
    known = None if gallery is None else vectors_of(gallery)
    try:
        if protocol == "knn":
            scores, asked, searched = knn_scores(queries, known, k=k)
        else:
            scores, asked, searched = search_scores(queries, known)
    except ValueError as error:
        raise UsageError(f"{source.name} cannot be evaluated by {protocol}: {error}") from error
    return Evaluation(
        protocol=protocol, scores=scores, queries=asked, gallery=searched, refused=tuple(refused)
    )


def open_subject(
    path: Path,
) -> tuple[PreprocessSpec, Callable[[NDArray[np.uint8]], NDArray[np.float32]]]:
    """How pictures are prepared for a run or an encoder file, and what turns them into vectors."""
    if not path.is_dir():
        encoder = open_encoder(path)
        return encoder.preprocess, encoder.encode
    trained = load_encoder(path)
    return trained.preprocess, lambda images: encode(
        trained.module, images, mean=trained.mean, std=trained.std
    )


def _vectors(
    pictures: Pictures,
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    reporter: Reporter,
) -> Labelled:
    reporter.begin(f"encoding {pictures.name}", len(pictures))
    parts = []
    try:
        for start in range(0, len(pictures), BATCH):
            parts.append(embed(pictures.images[start : start + BATCH]))
            reporter.update(min(start + BATCH, len(pictures)))
    finally:
        reporter.end()
    labelled = pictures.labels != NO_LABEL
    names = np.asarray(pictures.classes)[pictures.labels[labelled]]
    return Labelled(vectors=np.concatenate(parts)[labelled], labels=names)


def _numbered(*sides: Labelled) -> list[NDArray[np.int64]]:
    """The classes' names as numbers, the same in all sides."""
    names = np.unique(np.concatenate([side.labels for side in sides]))
    return [np.searchsorted(names, side.labels) for side in sides]


def knn_scores(
    queries: Labelled, gallery: Labelled | None, *, k: int
) -> tuple[dict[str, float], int, int]:
    """KNN accuracy; returns (scores, number of queries, size of the gallery)."""
    if gallery is None:
        asking = np.arange(len(queries.labels)) % EVERY == 0
        queries, gallery = queries.take(asking), queries.take(~asking)
    asked, known = _numbered(queries, gallery)
    accuracy = knn_accuracy(queries.vectors, asked, gallery.vectors, known, k=k)
    return {"knn_accuracy": accuracy}, len(asked), len(known)


def search_scores(queries: Labelled, gallery: Labelled | None) -> tuple[dict[str, float], int, int]:
    """Recall@k, precision@k, R-precision and mAP@R; returned as by `knn_scores`."""
    if gallery is None:
        (asked,) = _numbered(queries)
        searched = len(asked) - 1
        found = retrieval_scores(queries.vectors, asked, ks=_depths(searched))
    else:
        asked, known = _numbered(queries, gallery)
        searched = len(known)
        found = retrieval_scores(
            queries.vectors, asked, gallery.vectors, known, ks=_depths(searched)
        )
    scores = {f"recall@{depth}": value for depth, value in found.recall.items()}
    scores |= {f"precision@{depth}": value for depth, value in found.precision.items()}
    scores |= {"r_precision": found.r_precision, "map@r": found.map_at_r}
    return scores, found.queries, searched


def _depths(reach: int) -> tuple[int, ...]:
    return tuple(depth for depth in DEPTHS if depth <= reach)

"""What is evaluated: a run or an encoder file, and labeled images as it sees them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from base.errors import ArtifactError, UsageError
from export.encoder_file.batches import encode_in_batches
from export.encoder_file.contract import EMBEDDINGS, FEATURES
from export.encoder_file.encoder_file import open_encoder
from training.compute import choose_device
from training.data.cache import decode_source
from training.data.dataset import NO_LABEL
from training.models.features import encode, imitate
from training.recipes.recipe import Recipe
from training.run_folder.checkpoint import load_checkpoint, used_form, used_model
from training.train import CACHE_IN_MEMORY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from base.progress import Progress
    from images.items import RefusedImage
    from images.pixels.preprocess import PreprocessSpec
    from images.sources.sources import Source
    from training.data.dataset import ImageDataset
    from training.models.simclr import SimCLR

    Vectors = dict[str, NDArray[np.float32]]  # [N,D] by space

BATCH = 128
PROJECTION = "projection"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run's encoder and head, or an encoder file.

    Attributes:
        path: of the run folder or the file.
        preprocess: how its images are prepared.
        spaces: of its vectors. A run has "features" (h) and "projection" (g(h)); a file has
            "embeddings" and, where they are not the same up to their length, "features". The first
            one is what the subject is for.
        embed: uint8 [n,S,S,C] to vectors [n,D], one array per space.
        recipe: of a run.
        build: a run's network, a new copy at each call.
    """

    path: Path
    preprocess: PreprocessSpec
    spaces: tuple[str, ...]
    embed: Callable[[NDArray[np.uint8]], Sequence[NDArray[np.float32]]]
    recipe: Recipe | None
    build: Callable[[], SimCLR] | None


@dataclass(frozen=True, kw_only=True)
class Labeled:
    """Labeled images: their vectors and the names of their classes [N]."""

    vectors: Vectors
    labels: NDArray[np.str_]

    def select(self, mask: NDArray[np.bool_]) -> Labeled:
        """Return the rows where `mask` [N] is true."""
        vectors = {space: rows[mask] for space, rows in self.vectors.items()}
        return Labeled(vectors=vectors, labels=self.labels[mask])


def open_subject(path: Path, device: str = "auto") -> Subject:
    """Open a run folder or an encoder file.

    Raises:
        ArtifactError: it is missing, damaged or not ours.
        UsageError: the device cannot be used.
    """
    target = choose_device(device)
    return _open_run(path, target) if path.is_dir() else _open_file(path, device)


def _open_file(path: Path, device: str) -> Subject:
    encoder = open_encoder(
        path, provider="cuda" if device == "cuda" else "auto" if device == "auto" else "cpu"
    )
    contract = encoder.contract
    same = contract.feature_dim == contract.embedding_dim and not contract.fit_digest

    def embed(images: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        features, embeddings = encoder.encode_with_features(images)
        return (embeddings,) if same else (embeddings, features)

    return Subject(
        path=path,
        preprocess=encoder.preprocess,
        spaces=(EMBEDDINGS,) if same else (EMBEDDINGS, FEATURES),
        embed=embed,
        recipe=None,
        build=None,
    )


def _open_run(path: Path, device: torch.device) -> Subject:
    checkpoint = load_checkpoint(path)
    recipe = Recipe.from_dict(checkpoint.recipe)

    def build() -> SimCLR:
        try:
            return used_model(checkpoint, recipe, device).eval()
        except RuntimeError as error:
            raise ArtifactError(f"{path} is damaged: its weights do not fit its recipe") from error

    model = build()
    mapped, data = used_form(checkpoint, recipe)

    def embed(images: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        features = encode(model.encoder, images, mean=data.mean, std=data.std)
        with torch.inference_mode():
            z = model.head(torch.from_numpy(features).to(device))
        return (imitate(model, features) if mapped else features), z.float().cpu().numpy()

    return Subject(
        path=path,
        preprocess=data.evaluation,
        spaces=(FEATURES, PROJECTION),
        embed=embed,
        recipe=recipe,
        build=build,
    )


def vectors_of(
    subject: Subject,
    source: Source,
    *,
    limit: int | None,
    progress: Progress,
    refused: list[RefusedImage],
) -> Labeled:
    """Decode and embed a source; leave unlabeled images out, add refused ones to `refused`."""
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        dataset = decode_source(
            source,
            subject.preprocess,
            limit=limit,
            folder=Path(folder),
            memory_limit=CACHE_IN_MEMORY,
            progress=progress,
        )
        refused.extend(dataset.refused)
        labeled, names = labels_of(dataset)
        progress.begin(f"encoding {dataset.name}", len(dataset))
        try:
            vectors = encode_in_batches(
                subject.embed, dataset.images, BATCH, lambda done, _: progress.update(done)
            )
        finally:
            progress.end()
    by_space = zip(subject.spaces, vectors, strict=True)
    return Labeled(vectors={space: rows[labeled] for space, rows in by_space}, labels=names)


def labels_of(dataset: ImageDataset) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Return the positions of the labeled images, and their labels."""
    positions = np.flatnonzero(dataset.labels != NO_LABEL)
    return positions, np.asarray(dataset.classes)[dataset.labels[positions]]


def check_labels(source: Source, protocol: str) -> None:
    """Raise UsageError where a source has no labels."""
    if not source.classes:
        raise UsageError(
            f"{source.name} has no labels, which {protocol} needs: give one sub-folder per class"
        )

"""What is evaluated: a run or an encoder file, and labeled images as it sees them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from base.errors import ArtifactError, UsageError
from export.encoder_file.encoder_file import open_encoder
from training.compute import choose_device
from training.data.cache import decode_source
from training.data.dataset import NO_LABEL
from training.models.features import encode
from training.models.simclr import SimCLR
from training.recipes.build_model import build_model
from training.recipes.recipe import Recipe
from training.run_folder.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from base.progress import Progress
    from images.pixels.preprocess import PreprocessSpec
    from images.sources.sources import Source
    from training.data.dataset import ImageDataset, RefusedImage

    Vectors = dict[str, NDArray[np.float32]]  # [N,D] by space

BATCH = 128
IN_MEMORY = 2 * 2**30  # bytes of decoded images; more than that are a memory-mapped file
FEATURES, PROJECTION, EMBEDDINGS = "features", "projection", "embeddings"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run's encoder and head, or an encoder file.

    A run has the spaces "features" (h) and "projection" (g(h)); a file has "embeddings" and, where
    they are not the same up to their length, "features". The first is what the subject is for.
    """

    path: Path
    preprocess: PreprocessSpec
    embed: Callable[[NDArray[np.uint8]], Vectors]
    recipe: Recipe | None  # of a run
    build: Callable[[], SimCLR] | None  # a run's network, a new copy at each call


@dataclass(frozen=True, kw_only=True)
class Labeled:
    """Labeled images: their vectors and the names of their classes [N]."""

    vectors: Vectors
    labels: NDArray[np.str_]

    def take(self, chosen: NDArray[np.bool_]) -> Labeled:
        """Return the rows where `chosen` [N] is true."""
        vectors = {space: rows[chosen] for space, rows in self.vectors.items()}
        return Labeled(vectors=vectors, labels=self.labels[chosen])


def open_subject(path: Path, device: str = "auto") -> Subject:
    """Open a run folder or an encoder file.

    Raises:
        ArtifactError: it is missing, damaged or not ours.
        UsageError: the device cannot be used.
    """
    target = choose_device(device)
    if not path.is_dir():
        encoder = open_encoder(
            path, provider="cuda" if device == "cuda" else "auto" if device == "auto" else "cpu"
        )

        def embed_by_file(images: NDArray[np.uint8]) -> Vectors:
            features, embeddings = encoder.encode_with_features(images)
            same = features.shape[1] == embeddings.shape[1]
            return {EMBEDDINGS: embeddings} | ({} if same else {FEATURES: features})

        return Subject(
            path=path, preprocess=encoder.preprocess, embed=embed_by_file, recipe=None, build=None
        )
    checkpoint = load_checkpoint(path)
    recipe = Recipe.from_dict(checkpoint.recipe)

    def build() -> SimCLR:
        model = build_model(recipe, target)
        try:
            model.encoder.load_state_dict(checkpoint.encoder)
            model.head.load_state_dict(checkpoint.head)
        except RuntimeError as error:
            raise ArtifactError(f"{path} is damaged: its weights do not fit its recipe") from error
        return model.eval()

    model, data = build(), recipe.data

    def embed_by_run(images: NDArray[np.uint8]) -> Vectors:
        features = encode(model.encoder, images, mean=data.mean, std=data.std)
        with torch.inference_mode():
            z = model.head(torch.from_numpy(features).to(target))
        return {FEATURES: features, PROJECTION: z.float().cpu().numpy()}

    return Subject(
        path=path, preprocess=data.evaluation, embed=embed_by_run, recipe=recipe, build=build
    )


def vectors_of(
    subject: Subject,
    source: Source,
    *,
    limit: int | None,
    progress: Progress,
    refused: list[RefusedImage],
) -> Labeled:
    """Decode and embeds a source; unlabeled images are left out, refused ones noted."""
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        dataset = decode_source(
            source,
            subject.preprocess,
            limit=limit,
            folder=Path(folder),
            memory_limit=IN_MEMORY,
            progress=progress,
        )
        refused.extend(dataset.refused)
        labeled, names = labels_of(dataset)
        parts: dict[str, list[NDArray[np.float32]]] = {}
        progress.begin(f"encoding {dataset.name}", len(dataset))
        try:
            for start in range(0, len(dataset), BATCH):
                for space, rows in subject.embed(dataset.images[start : start + BATCH]).items():
                    parts.setdefault(space, []).append(rows)
                progress.update(min(start + BATCH, len(dataset)))
        finally:
            progress.end()
    vectors = {space: np.concatenate(rows)[labeled] for space, rows in parts.items()}
    return Labeled(vectors=vectors, labels=names)


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

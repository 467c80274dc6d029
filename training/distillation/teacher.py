"""The teacher's embeddings of the training images, computed once and kept with the run.

    cache/teacher-<key>.npy    float32 [N,D], a row for each training image, in their order

The key is a digest of images and teacher. The file is written whole or not at all and may be
deleted any time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from base.errors import ArtifactError, ImageRefused, LookalikeError, UsageError
from base.files import atomic_write, sha256_bytes
from training.data.cache import Form, decode_in_order, select_items

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from base.progress import Progress
    from images.pixels.preprocess import PreprocessSpec
    from images.sources.sources import Item, Source
    from training.data.training_data import TrainingData
    from training.distillation.settings import TeacherSettings

BATCH = 32  # images


class Teacher(Protocol):
    """An open encoder, such as `export.encoder_file` opens."""

    @property
    def digest(self) -> str:
        """SHA-256 of its file."""

    @property
    def embedding_dim(self) -> int:
        """D, the length of an embedding."""

    @property
    def preprocess(self) -> PreprocessSpec:
        """How an image becomes a row of `encode`'s argument."""

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Uint8 [N,S,S,C] -> unit rows [N,D]."""


def with_teacher(settings: TeacherSettings, teacher: Teacher | None) -> TeacherSettings:
    """Return the settings with the teacher's SHA-256 and no more dimensions than it has.

    Raises:
        UsageError: they name a teacher and there is none, or the other way round.
        ArtifactError: it is not the file that the settings name by its SHA-256.
    """
    if (teacher is None) != (settings.encoder is None):
        raise UsageError("teacher.encoder and the teacher go together: give both or neither")
    if teacher is None:
        return settings
    if settings.sha256 not in (None, teacher.digest):
        raise ArtifactError(
            f"{settings.encoder} is not the teacher of this recipe: its SHA-256 is "
            f"{teacher.digest[:12]}, teacher.sha256 is {str(settings.sha256)[:12]}"
        )
    width = min(settings.embedding_dim, teacher.embedding_dim)
    return replace(settings, sha256=teacher.digest, embedding_dim=width)


def teacher_embeddings(
    teacher: Teacher,
    source: Source,
    dataset: TrainingData,
    *,
    limit: int | None,
    folder: Path,
    progress: Progress,
) -> NDArray[np.float32]:
    """Return the teacher's embedding of each training image, [N,D], memory-mapped.

    Args:
        teacher: embeds images as it was made for, whatever size the student sees.
        source: of the training images; read again.
        dataset: the training images, which say what is usable.
        limit: as the images were read with.
        folder: where the embeddings are kept.
        progress: shows how far the work is.

    Raises:
        LookalikeError: the source has changed since it was read for training, or the disk is full.
    """
    key = sha256_bytes(f"{dataset.digest} {teacher.digest}".encode())[:16]
    path = folder / f"teacher-{key}.npy"
    if not path.is_file():
        refused = {refusal.key for refusal in dataset.refused}
        items = [item for item in select_items(source, limit) if item.key not in refused]
        if len(items) != len(dataset):
            raise LookalikeError(
                f"{source.name} has {len(items)} usable pictures for the teacher and had "
                f"{len(dataset)} before: it was changed meanwhile; start the run again"
            )
        _write(path, _embed_all(teacher, items, progress))
    rows: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return rows


def _write(path: Path, rows: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        np.save(file, rows)


def _embed_all(teacher: Teacher, items: list[Item], progress: Progress) -> NDArray[np.float32]:
    """Embed all images; one that cannot be used, which a stream meets, has its successor's row."""
    progress.begin("teacher's embeddings", len(items))
    blocks: list[NDArray[np.float32]] = []
    unusable: list[int] = []
    done = 0
    try:
        for batch in _batches(teacher.preprocess, items):
            usable = [image for image in batch if not isinstance(image, ImageRefused)]
            unusable += [
                done + i for i, image in enumerate(batch) if isinstance(image, ImageRefused)
            ]
            if usable:
                blocks.append(teacher.encode(np.stack(usable)))
            done += len(batch)
            progress.update(done)
    finally:
        progress.end()
    if not blocks:
        raise LookalikeError("the teacher can read none of the pictures")
    rows = np.concatenate(blocks)
    if not unusable:
        return rows
    usable_rows = np.setdiff1d(np.arange(len(items)), unusable)
    successor = np.searchsorted(usable_rows, np.arange(len(items))) % len(usable_rows)
    return rows[successor]


def _batches(
    spec: PreprocessSpec, items: list[Item]
) -> Iterator[list[NDArray[np.uint8] | ImageRefused]]:
    batch: list[NDArray[np.uint8] | ImageRefused] = []
    for _, image in decode_in_order(items, Form(spec=spec)):
        batch.append(image)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch

"""What a student learns: its teacher's embeddings of the training images, and targets from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from base.errors import UsageError
from training.distillation.targets import student_targets
from training.distillation.teacher import teacher_embeddings, with_teacher
from training.recipes.build_model import encoder_of
from training.weights.start_teacher import StartTeacher, learns_from_start, with_teacher_size

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from base.progress import Progress
    from images.sources.sources import Source
    from training.data.training_data import TrainingData
    from training.distillation.teacher import Teacher
    from training.parallel.ranks import Ranks
    from training.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A teacher and what it says.

    Attributes:
        teacher: embeds more images where they are to be measured on.
        embeddings: of the training images, [N,D].
        targets: what a student should say of them, unit rows [N,E].
    """

    teacher: Teacher
    embeddings: NDArray[np.float32]
    targets: NDArray[np.float32]


def taught_recipe(recipe: Recipe, teacher: Teacher | None) -> Recipe:
    """Return the recipe with what is known of its teacher, so that a resumed run has the same one.

    Raises:
        UsageError: a teacher without `teacher.encoder`, or the other way round.
        ArtifactError: it is not the file that the recipe names by its SHA-256.
    """
    if learns_from_start(recipe) and teacher is None:
        recipe = with_teacher_size(recipe)
        width = min(recipe.teacher.embedding_dim, encoder_of(recipe).feature_dim)
        return replace(recipe, teacher=replace(recipe.teacher, embedding_dim=width))
    return replace(recipe, teacher=with_teacher(recipe.teacher, teacher))


def prepare_lesson(
    recipe: Recipe,
    teacher: Teacher | None,
    source: Source,
    dataset: TrainingData,
    held_out: NDArray[np.int64],
    *,
    device: torch.device,
    ranks: Ranks,
    limit: int | None,
    folder: Path,
    progress: Progress,
) -> Lesson | None:
    """Let the teacher see the training images, or read what it said before; None: no teacher.

    Args:
        recipe: of `taught_recipe`.
        teacher: the open encoder that it names; None where it is the start, which is read here.
        source: of the training images.
        dataset: the training images.
        held_out: positions of images that nothing is fitted to.
        device: where the start embeds.
        ranks: the processes that train together; one of each machine embeds.
        limit: as the training images were read with.
        folder: for the embeddings.
        progress: shows how far the work is.
    """
    if learns_from_start(recipe) and teacher is None:
        teacher = StartTeacher(recipe, device)
    if teacher is None:
        return None
    settled = teacher
    embeddings = ranks.in_turn(
        lambda: teacher_embeddings(
            settled, source, dataset, limit=limit, folder=folder, progress=progress
        )
    )
    targets = student_targets(
        embeddings,
        embedding_dim=recipe.teacher.embedding_dim,
        neighbors=recipe.teacher.neighbors,
        fitted=np.setdiff1d(np.arange(len(dataset)), held_out),
        labels=_labels(dataset, recipe),
    )
    return Lesson(teacher=teacher, embeddings=embeddings, targets=targets)


def _labels(dataset: TrainingData, recipe: Recipe) -> NDArray[np.int64] | None:
    """Return the labels that the targets use.

    Raises:
        UsageError: they are to be used and there are not two of them.
    """
    if not recipe.teacher.labels:
        return None
    if len(np.unique(dataset.labels[dataset.labels >= 0])) < 2:
        raise UsageError(
            f"--fine-tune: {dataset.name} has no two labels to learn from; give --labels FILE.csv "
            "with a key or path and a label for some of the pictures"
        )
    return dataset.labels

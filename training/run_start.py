"""What the first process does before the first step: checks, the run folder, what to measure on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from base.errors import UsageError
from base.files import write_bytes_atomic
from training.data.cache import decode_source
from training.distillation.teacher import teacher_embeddings
from training.loop import Leader
from training.recipes.recipe_files import save_recipe
from training.report.monitor import QUERIES, Monitor
from training.run_folder.checkpoint import remove_leftovers
from training.run_folder.previous_run import check_images, describe_dataset
from training.weights.start_teacher import learns_from_start

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from base.progress import Progress
    from images.items import RefusedImage
    from images.sources.sources import Source
    from training.data.dataset import ImageDataset
    from training.data.training_data import TrainingData
    from training.lesson import Lesson
    from training.recipes.recipe import Recipe
    from training.run_folder.checkpoint import Checkpoint


def prepare_run(
    run: Path,
    recipe: Recipe,
    dataset: TrainingData,
    *,
    evaluation: Source | None,
    held_out: NDArray[np.int64],
    lesson: Lesson | None,
    previous: Checkpoint | None,
    progress: Progress,
) -> Leader:
    """Check the images against the run, begin its folder and look forward to measuring.

    Args:
        run: the run folder.
        recipe: with all that is settled when a run starts.
        dataset: the training images.
        evaluation: labeled images to measure on.
        held_out: positions of training images to measure on instead.
        lesson: of a student.
        previous: the state to resume from.
        progress: gets what is decided, as messages.

    Raises:
        UsageError: the folder cannot be made, or `evaluation` has no label in common.
        ArtifactError: the run to resume had other images.
    """
    against = None
    if evaluation is not None:
        against = decode_source(
            evaluation, recipe.data.evaluation, limit=QUERIES, progress=progress
        )
    check_images(run, previous, dataset, against)
    monitor = _monitor(recipe, dataset, against, held_out, progress)
    if lesson is not None and learns_from_start(recipe):
        rows = None
        if evaluation is not None and against is not None:
            rows = teacher_embeddings(
                lesson.teacher,
                evaluation,
                against,
                limit=QUERIES,
                folder=run / "cache",
                progress=progress,
            )
        monitor.compare_with_start(lesson.embeddings, rows)
    if previous is not None:
        remove_leftovers(run)
    else:
        _start_run(run, recipe, dataset)
    about = {
        "source": describe_dataset(dataset),
        "evaluation": describe_dataset(against) if against else None,
    }
    return Leader(monitor, about)


def _monitor(
    recipe: Recipe,
    dataset: TrainingData,
    evaluation: ImageDataset | None,
    held_out: NDArray[np.int64],
    progress: Progress,
) -> Monitor:
    monitor = Monitor(recipe, dataset, evaluation, held_out)
    if not monitor.labeled and evaluation is not None:
        raise UsageError(
            f"--eval {evaluation.name} and {dataset.name} have no two labels in common: kNN needs "
            "pictures in sub-folders of the same names in both"
        )
    if not monitor.labeled:
        progress.message("the pictures have no labels: kNN accuracy is not measured, RankMe is")
    return monitor


def _start_run(run: Path, recipe: Recipe, dataset: TrainingData) -> None:
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the run folder {run}: {error.strerror}") from error
    save_recipe(run / "recipe.toml", recipe)
    list_refused(run, dataset.refusals())


def list_refused(run: Path, refused: Iterable[RefusedImage]) -> None:
    """Write what was refused, those of a stopped run as well: a stream meets others each time."""
    file = run / "refused.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    entries = [{"key": one.key, "reason": one.reason, "message": one.message} for one in refused]
    lines += [json.dumps(entry, ensure_ascii=False) for entry in entries]
    if lines:
        write_bytes_atomic(file, ("\n".join(dict.fromkeys(lines)) + "\n").encode())

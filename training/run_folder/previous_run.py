"""What a folder holds before a run writes to it, and whether the run may be resumed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from base.errors import ArtifactError, UsageError
from training.recipes.recipe import Recipe
from training.run_folder.checkpoint import Checkpoint, has_run, load_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from training.data.dataset import ImageDataset
    from training.data.training_data import TrainingData


def open_run(run: Path, recipe: Recipe, *, resume: bool) -> tuple[Recipe, Checkpoint | None]:
    """Return the recipe and the state to resume from, None for a new run.

    Where the recipe leaves the precision to be settled, it is the one that the run was started in.

    Raises:
        UsageError: the folder holds a run and `resume` is false, nothing to resume, or something
            else.
        ArtifactError: the run had another recipe, or is damaged.
    """
    if not resume:
        if has_run(run):
            raise UsageError(f"{run} already holds a run: add --resume to go on, or another --out")
        if run.exists() and (not run.is_dir() or (any(run.iterdir()) and not _begun(run))):
            raise UsageError(f"{run} exists and is not a run folder: give another --out")
        return recipe, None
    if not has_run(run):
        raise UsageError(f"{run} holds no run to resume: drop --resume to start one")
    previous = load_checkpoint(run)
    # by value: a run of an older version lacks keys that came since and so has another digest
    started_recipe = Recipe.from_dict(previous.recipe)
    started, precision = started_recipe.digest, started_recipe.training.precision
    if recipe.training.precision == "auto":
        recipe = replace(recipe, training=replace(recipe.training, precision=precision))
    if started != recipe.digest:
        raise ArtifactError(
            f"{run} was started with another recipe ({started[:12]}, this one is "
            f"{recipe.digest[:12]}): resume without --recipe and --set, or give another --out"
        )
    return recipe, previous


def _begun(run: Path) -> bool:
    """Whether the folder is ours, from a run that was killed before its first checkpoint."""
    return (run / "recipe.toml").exists() or (run / "cache").is_dir()


def check_images(
    run: Path,
    previous: Checkpoint | None,
    dataset: TrainingData,
    evaluation: ImageDataset | None,
) -> None:
    """Refuse to resume with other images than those of the run.

    Raises:
        ArtifactError: they are others.
    """
    if previous is None:
        return
    pairs = ((previous.source, dataset, "SOURCE"), (previous.evaluation, evaluation, "--eval"))
    for before, now, argument in pairs:
        if (before and before["digest"]) != (now and now.digest):
            had = f"{before['pictures']} of {before['name']}" if before else "none"
            has = f"{len(now)} of {now.name}" if now else "none"
            raise ArtifactError(
                f"{run} was started with other pictures as {argument} ({had}, now {has}): give the "
                "same ones and the same --limit, or another --out"
            )


def describe_dataset(dataset: TrainingData) -> dict[str, Any]:
    """Return the checkpoint's "source" or "evaluation"."""
    return {
        "name": dataset.name,
        "pictures": len(dataset),
        "refused": len(dataset.refused),
        "classes": list(dataset.classes),
        "digest": dataset.digest,
    }

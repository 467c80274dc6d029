"""SimCLR pretraining: images and a recipe to a run folder (Chen et al. 2020, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from base.cpus import available_cpus
from base.progress import Progress, Silent
from training.compute import choose_device
from training.data.sampling import hold_out
from training.data.training_data import check_enough, open_training_data
from training.data.value_range import describe_values, resolve_range
from training.lesson import prepare_lesson, taught_recipe
from training.loop import Leader, Loop
from training.parallel.launch import launch_of
from training.parallel.ranks import device_of, process_group
from training.precision import settle_precision
from training.run_folder.previous_run import open_run
from training.run_start import list_refused, prepare_run
from training.trainer import Trainer
from training.weights.start_weights import pinned, read_start_weights

if TYPE_CHECKING:
    from pathlib import Path

    from images.items import RefusedImage
    from images.sources.sources import Source
    from training.data.training_data import TrainingData
    from training.distillation.teacher import Teacher
    from training.parallel.ranks import Ranks
    from training.protocols.verdict import Verdict
    from training.recipes.recipe import Recipe
    from training.run_folder.checkpoint import Checkpoint

CACHE_IN_MEMORY = 2 * 2**30  # bytes of decoded images; more than that are a memory-mapped file


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a call of `train` came to."""

    run: Path
    recipe: Recipe  # as it was trained: with range, precision and the digest of start weights
    step: int
    steps: int
    images: int
    refused: tuple[RefusedImage, ...]
    elapsed_s: float  # of training, over all calls
    quality: dict[str, float]  # the last of each figure in metrics.jsonl but speeds
    measured_at: dict[str, int]  # the step of each
    verdict: Verdict | None  # what came of it; None: begun by an earlier version

    @property
    def finished(self) -> bool:
        """False where Ctrl-C stopped the run; it can be resumed."""
        return self.step >= self.steps


def train(
    source: Source,
    recipe: Recipe,
    run: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    evaluation: Source | None = None,
    teacher: Teacher | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train an encoder, or resume a run; uses all available CPUs.

    Under torchrun the processes train together on the same global batches; the first one decides
    on the recipe, measures and writes.

    The same recipe, images, device and number of threads give the same weights bit for bit on a
    CPU, however often the run was stopped and resumed. A precision of "auto" is settled by time
    when a run starts; the recipe in its folder says how. SIGINT and SIGTERM end the run after the
    step at hand with a checkpoint.

    Args:
        source: the images; labels are only used to measure kNN accuracy.
        recipe: from `recipe_files.load_recipe`; weights it starts from are pinned by their SHA-256.
        run: folder to write; see `checkpoint.py` for its content.
        resume: continue the run in that folder; a finished run is left as it is.
        device: "auto" takes CUDA where it works, "cpu", "cuda".
        evaluation: labeled images whose nearest training images are asked for their label;
            `monitor.QUERIES` of them are used.
        teacher: the open encoder that `recipe.teacher.encoder` names, whose embeddings are learned.
        limit: train on that many images, evenly spread over the source.
        progress: shows how far the work is.

    Raises:
        UsageError: the folder holds a run and `resume` is false, or nothing to resume, or the
            source has less than one batch, or `evaluation` no label in common with it.
        ArtifactError: the run to resume had another recipe or other images, or is damaged.
        TrainingDivergedError: the loss is no longer finite; the last good checkpoint is kept.
    """
    launch = launch_of()
    progress = (progress if launch.leads else None) or Silent()
    target = device_of(choose_device(device), launch)
    torch.set_num_threads(max(1, available_cpus() // launch.local_world))
    with process_group(target) as ranks:
        recipe, previous = ranks.from_leader(
            lambda: _begin(run, recipe, source, teacher, target, resume=resume, progress=progress)
        )
        for line in describe_values(recipe.data, recipe.augmentation):
            progress.message(line)
        dataset = _decode(ranks, source, recipe, run, limit=limit, progress=progress)

        share = 0.0 if evaluation is not None else recipe.training.held_out
        held_out = hold_out(dataset.labels, share, recipe.training.batch_size)

        check_enough(dataset, recipe.training.batch_size)
        lesson = prepare_lesson(
            recipe,
            teacher,
            source,
            dataset,
            held_out,
            device=target,
            ranks=ranks,
            limit=limit,
            folder=run / "cache",
            progress=progress,
        )

        def prepare() -> Leader | None:
            if not ranks.leads:
                return None
            return prepare_run(
                run,
                recipe,
                dataset,
                evaluation=evaluation,
                held_out=held_out,
                lesson=lesson,
                previous=previous,
                progress=progress,
            )

        leader, _ = ranks.attempt(prepare)
        trainer = Trainer(
            recipe,
            dataset,
            target,
            ranks,
            held_out=held_out,
            targets=None if lesson is None else lesson.targets,
        )
        if previous is not None:
            trainer.restore(previous)
        elif recipe.encoder.weights is not None:
            trainer.load_start(recipe)
        loop = Loop(
            run,
            recipe,
            trainer,
            ranks=ranks,
            leader=leader,
            progress=progress,
            previous=previous,
        )
        if trainer.step < trainer.steps:
            without = f" ({len(held_out)} of them held out of training)" if len(held_out) else ""
            progress.message(f"{len(dataset)} pictures{without}, {trainer.describe()}")
            loop.work()
        # of a stream each process meets others
        refused = tuple(
            {r: None for share in ranks.gather_objects(dataset.refusals()) for r in share}
        )
        if ranks.leads:
            list_refused(run, refused)
    return TrainResult(
        run=run,
        recipe=recipe,
        step=trainer.step,
        steps=trainer.steps,
        images=len(dataset),
        refused=refused,
        elapsed_s=loop.elapsed_s,
        quality=loop.quality,
        measured_at=loop.measured_at,
        verdict=loop.verdict,
    )


def _decode(
    ranks: Ranks,
    source: Source,
    recipe: Recipe,
    run: Path,
    *,
    limit: int | None,
    progress: Progress,
) -> TrainingData:
    """Return the training images; several processes share one file of them per disk."""
    dataset = ranks.in_turn(
        lambda: open_training_data(
            source,
            recipe.data,
            limit=limit,
            folder=run / "cache",
            memory_limit=CACHE_IN_MEMORY if ranks.world == 1 else 0,
            progress=progress,
        )
    )
    ranks.check_same(dataset.digest, f"SOURCE ({len(dataset)} of {dataset.name})")
    return dataset


def _begin(
    run: Path,
    recipe: Recipe,
    source: Source,
    teacher: Teacher | None,
    device: torch.device,
    *,
    resume: bool,
    progress: Progress,
) -> tuple[Recipe, Checkpoint | None]:
    """Return the recipe with range, weights and precision settled, and the state to resume from."""
    recipe = taught_recipe(recipe, teacher)
    recipe = replace(recipe, data=resolve_range(recipe.data, source))
    recipe, previous = open_run(run, recipe, resume=resume)
    if previous is None:
        recipe = settle_precision(recipe, device, progress)
    if recipe.encoder.weights is not None and recipe.encoder.weights_sha256 is None:
        recipe = pinned(recipe, read_start_weights(recipe))
    return recipe, previous

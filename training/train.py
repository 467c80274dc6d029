"""SimCLR pretraining: pictures and a recipe to a run folder (Chen et al. 2020, algorithm 1)."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch

from images.cpus import available_cpus
from images.errors import ArtefactError, UsageError
from images.files import write_bytes_atomic
from training.cache import decode_source
from training.checkpoint import Checkpoint, has_run, load_checkpoint, save_checkpoint
from training.compute import choose_device
from training.metrics import Metrics
from training.monitor import KnnMonitor
from training.progress import Reporter, Silent
from training.recipe_files import save_recipe
from training.stopping import StopOnSignal
from training.trainer import Trainer

if TYPE_CHECKING:
    from pathlib import Path

    from images.sources import Source
    from training.pictures import Pictures, Refusal
    from training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a call of `train` came to."""

    run: Path
    step: int
    steps: int
    pictures: int
    refused: tuple[Refusal, ...]
    elapsed_s: float  # of training, over all calls
    quality: dict[str, float]  # "loss" and, with labels, "knn_accuracy"

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
    limit: int | None = None,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Trains an encoder, or goes on with a run; uses all available CPUs.

    The same recipe, pictures, device and number of threads give the same weights bit for bit on a
    CPU, however often the run was stopped and resumed. SIGINT and SIGTERM end the run after the
    step at hand with a checkpoint.

    Args:
        source: the pictures; labels are only used to measure kNN accuracy.
        recipe: from `recipe_files.load_recipe`.
        run: folder to write; see `checkpoint.py` for its content.
        resume: go on with the run in that folder; a finished run is left as it is.
        device: "auto" takes CUDA where it works.
        evaluation: labelled pictures whose nearest training pictures are asked for their label.
        limit: train on that many pictures, evenly spread over the source.
        reporter: told about the progress.

    Raises:
        UsageError: the folder holds a run and `resume` is false, or nothing to resume, or the
            source has less than one batch.
        ArtefactError: the run to resume had another recipe or other pictures, or is damaged.
        TrainingDivergedError: the loss is no longer finite; the last good checkpoint is kept.
    """
    reporter = reporter or Silent()
    target = choose_device(device)
    torch.set_num_threads(available_cpus())
    previous = _open_run(run, recipe, resume=resume)
    run.mkdir(parents=True, exist_ok=True)
    pictures = decode_source(
        source, recipe.data.stored, limit=limit, folder=run / "cache", reporter=reporter
    )
    against = None
    if evaluation is not None:
        against = decode_source(evaluation, recipe.data.evaluation, reporter=reporter)
    _check_pictures(run, recipe, pictures, against, previous)
    trainer = Trainer(recipe, pictures, target)
    if previous is not None:
        trainer.restore(previous)
    else:
        save_recipe(run / "recipe.toml", recipe)
        _save_refused(run, pictures)
    job = _Run(
        run,
        recipe,
        trainer,
        pictures=pictures,
        evaluation=against,
        reporter=reporter,
        previous=previous,
    )
    if trainer.step < trainer.steps:
        job.work()
    return TrainResult(
        run=run,
        step=trainer.step,
        steps=trainer.steps,
        pictures=len(pictures),
        refused=pictures.refused,
        elapsed_s=job.elapsed_s,
        quality=job.quality,
    )


def _open_run(run: Path, recipe: Recipe, *, resume: bool) -> Checkpoint | None:
    """Returns the state to go on from; refuses to touch a folder that is something else."""
    if not resume:
        if has_run(run):
            raise UsageError(f"{run} already holds a run: add --resume to go on, or another --out")
        if run.exists() and (not run.is_dir() or (any(run.iterdir()) and not _begun(run))):
            raise UsageError(f"{run} exists and is no run folder: give another --out")
        return None
    if not has_run(run):
        raise UsageError(f"{run} holds no run to resume: drop --resume to start one")
    previous = load_checkpoint(run)
    if previous.recipe_digest != recipe.digest:
        raise ArtefactError(
            f"{run} was started with another recipe ({previous.recipe_digest[:12]}, this one is "
            f"{recipe.digest[:12]}): resume without --recipe and --set, or give another --out"
        )
    return previous


def _begun(run: Path) -> bool:
    """Whether the folder is ours, from a run that was killed before its first checkpoint."""
    return (run / "recipe.toml").exists() or (run / "cache").is_dir()


def _check_pictures(
    run: Path,
    recipe: Recipe,
    pictures: Pictures,
    evaluation: Pictures | None,
    previous: Checkpoint | None,
) -> None:
    if len(pictures) < recipe.training.batch_size:
        raise UsageError(
            f"{pictures.name} has {len(pictures)} usable pictures, less than one batch of "
            f"{recipe.training.batch_size}: add pictures or --set training.batch_size="
            f"{max(2, len(pictures) // 2)}"
        )
    if previous is None:
        return
    pairs = ((previous.source, pictures, "SOURCE"), (previous.evaluation, evaluation, "--eval"))
    for before, now, argument in pairs:
        if (before and before["digest"]) != (now and now.digest):
            had = f"{before['pictures']} of {before['name']}" if before else "none"
            has = f"{len(now)} of {now.name}" if now else "none"
            raise ArtefactError(
                f"{run} was started with other pictures as {argument} ({had}, now {has}): give the "
                "same ones and the same --limit, or another --out"
            )


def _save_refused(run: Path, pictures: Pictures) -> None:
    lines = [json.dumps(asdict(refusal), ensure_ascii=False) for refusal in pictures.refused]
    if lines:
        write_bytes_atomic(run / "refused.jsonl", ("\n".join(lines) + "\n").encode())


def _about(pictures: Pictures) -> dict[str, Any]:
    return {
        "name": pictures.name,
        "pictures": len(pictures),
        "refused": len(pictures.refused),
        "classes": list(pictures.classes),
        "digest": pictures.digest,
    }


class _Run:
    """The loop around the trainer: figures, measurements, checkpoints, Ctrl-C."""

    def __init__(
        self,
        run: Path,
        recipe: Recipe,
        trainer: Trainer,
        *,
        pictures: Pictures,
        evaluation: Pictures | None,
        reporter: Reporter,
        previous: Checkpoint | None,
    ) -> None:
        self._run, self._recipe, self._trainer, self._reporter = run, recipe, trainer, reporter
        self._fresh = previous is None
        self._source = _about(pictures)
        self._evaluation = _about(evaluation) if evaluation else None
        self._monitor = KnnMonitor(recipe.data, pictures, evaluation)
        self.quality: dict[str, float] = dict(previous.quality) if previous else {}
        self._elapsed_before = previous.elapsed_s if previous else 0.0
        self._began = self._window = time.monotonic()
        self._window_step = trainer.step

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, over all calls."""
        return self._elapsed_before + time.monotonic() - self._began

    def work(self) -> None:
        """Trains to the end or to a signal; a checkpoint stands at either."""
        trainer, settings = self._trainer, self._recipe.training
        due = self._knn_steps()
        self._began = self._window = saved = time.monotonic()
        self._reporter.begin("training", trainer.steps, trainer.step)
        with StopOnSignal() as stop, Metrics(self._run, trainer.step) as metrics:
            try:
                if self._fresh:
                    self._measure(metrics, due)
                    self._save()
                while trainer.step < trainer.steps and not stop.requested:
                    trainer.advance()
                    if trainer.step % settings.log_every == 0 or trainer.step == trainer.steps:
                        self._log(metrics)
                    self._measure(metrics, due)
                    if time.monotonic() - saved >= 60 * settings.checkpoint_minutes:
                        self._save()
                        saved = time.monotonic()
                self._save()
            finally:
                self._reporter.end()

    def _log(self, metrics: Metrics) -> None:
        trainer, now = self._trainer, time.monotonic()
        loss = trainer.take_loss()
        rate = float(trainer.learning_rates[trainer.step - 1])
        batch = self._recipe.training.batch_size
        speed = (trainer.step - self._window_step) * batch / max(now - self._window, 1e-9)
        metrics.write(
            trainer.step,
            trainer.step * batch,
            epoch=trainer.epoch,
            loss=loss,
            learning_rate=rate,
            samples_per_s=round(speed, 1),
            elapsed_s=round(self.elapsed_s, 3),
        )
        self.quality["loss"] = loss
        knn = self.quality.get("knn_accuracy")
        figures = f"loss {loss:.3f}  lr {rate:.2e}  {speed:.0f} samples/s"
        self._reporter.update(trainer.step, figures + (f"  kNN {knn:.1%}" if knn else ""))
        self._restart_window()

    def _knn_steps(self) -> set[int]:
        """Step 0 (the untrained encoder) and `evaluations` steps up to the last one."""
        count, steps = self._recipe.training.evaluations, self._trainer.steps
        if not count or not self._monitor.possible:
            return set()
        return {0, *(round(steps * (i + 1) / count) for i in range(count))}

    def _measure(self, metrics: Metrics, due: set[int]) -> None:
        trainer = self._trainer
        if trainer.step in due:
            accuracy = self._monitor.accuracy(trainer.model)
            self.quality["knn_accuracy"] = accuracy
            samples = trainer.step * self._recipe.training.batch_size
            metrics.write(trainer.step, samples, knn_accuracy=accuracy)
            self._restart_window()

    def _restart_window(self) -> None:
        """samples/s is the speed of steps; measuring and saving do not count."""
        self._window, self._window_step = time.monotonic(), self._trainer.step

    def _save(self) -> None:
        self._trainer.check_finite()
        save_checkpoint(
            self._run,
            Checkpoint(
                **self._trainer.state(),
                elapsed_s=self.elapsed_s,
                recipe=self._recipe.to_dict(),
                recipe_digest=self._recipe.digest,
                source=self._source,
                evaluation=self._evaluation,
                quality=dict(self.quality),
                versions={p: metadata.version(p) for p in ("torch", "torchvision", "lookalike")},
            ),
        )
        self._restart_window()

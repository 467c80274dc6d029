"""The loop around the steps: figures, measurements, checkpoints, Ctrl-C."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

from base.figures import share_done
from training.kept_weights import update_kept
from training.parallel.ranks import OtherProcessError
from training.protocols.verdict import evidence_of, judge
from training.report.page import State, write_report
from training.run_folder.checkpoint import Checkpoint, save_checkpoint
from training.run_folder.metrics import Metrics
from training.stopping import StopOnSignal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from base.progress import Progress
    from training.kept_weights import Kept
    from training.parallel.ranks import Ranks
    from training.protocols.verdict import Verdict
    from training.recipes.recipe import Recipe
    from training.report.monitor import Measurement, Monitor
    from training.trainer import Trainer


class Leader(NamedTuple):
    """What only the first of several processes has."""

    monitor: Monitor
    about: dict[str, Any]  # the checkpoint's keys "source" and "evaluation"


class Loop:
    """Moves a trainer to the end of its run or to the first signal.

    At each step, in this order: update, metrics line, measurement, checkpoint. So a checkpoint of
    step s has all lines of `metrics.jsonl` up to s before it. Of several processes the first one
    alone measures and writes; between any two steps they agree to continue, or all stop there.
    """

    def __init__(
        self,
        run: Path,
        recipe: Recipe,
        trainer: Trainer,
        *,
        ranks: Ranks,
        leader: Leader | None,
        progress: Progress,
        previous: Checkpoint | None,
    ) -> None:
        """`leader` is None in all processes but the first."""
        self._run, self._recipe, self._trainer = run, recipe, trainer
        self._ranks, self._leader, self._progress = ranks, leader, progress
        self._due = self._due_steps()
        self._fresh = previous is None
        self.quality: dict[str, float] = dict(previous.quality) if previous else {}
        self.measured_at: dict[str, int] = dict(previous.measured_at) if previous else {}
        self.baselines: dict[str, Any] = dict(previous.baselines) if previous else {}
        self.kept: Kept | None = previous.kept if previous else None
        self.elapsed_s = previous.elapsed_s if previous else 0.0  # of training, over all calls
        self._clock = self._window = self._saved = time.monotonic()
        self._window_step = trainer.step
        self._measured: Measurement | None = None

    def work(self) -> None:
        """Train; a checkpoint stands at the end, wherever that is.

        Raises:
            OtherProcessError: another process failed between two steps; the last step that all
                have finished is saved.
        """
        trainer = self._trainer
        self._clock = self._window = self._saved = time.monotonic()
        self._progress.begin("training", trainer.steps, trainer.step)
        with ExitStack() as stack:
            stack.callback(self._progress.end)
            stop = stack.enter_context(StopOnSignal(patient=self._ranks.world > 1))
            metrics, _ = self._ranks.attempt(self._open_metrics)
            if metrics is not None:
                stack.enter_context(metrics)
            going = self._between_steps(partial(self._begin, metrics), stop)
            while going:
                trainer.advance()
                going = self._between_steps(partial(self._after_step, metrics), stop)
            self._ranks.attempt(self._finish)

    def _open_metrics(self) -> Metrics | None:
        return Metrics(self._run, self._trainer.step) if self._leader else None

    def _between_steps(self, work: Callable[[], None], stop: StopOnSignal) -> bool:
        """Do what is due, read the next batch and return whether there is a next step."""
        trainer = self._trainer

        def all_of_it() -> None:
            work()
            if trainer.step < trainer.steps:
                trainer.fetch()

        try:
            _, stopped = self._ranks.attempt(all_of_it, stop=lambda: stop.requested)
        except OtherProcessError:
            self._save()
            raise
        return trainer.step < trainer.steps and not stopped

    def _begin(self, metrics: Metrics | None) -> None:
        if self._fresh:
            self._measure(metrics)
            self._save()

    def _finish(self) -> None:
        if self.kept is not None and self._trainer.step >= self._trainer.steps:
            figures = self.kept["figures"]
            self.quality |= figures
            self.measured_at |= dict.fromkeys(figures, self.kept["step"])
        self._save()
        self._report(running=False)

    def _after_step(self, metrics: Metrics | None) -> None:
        trainer, settings = self._trainer, self._recipe.training
        if trainer.step % settings.log_every == 0 or trainer.step == trainer.steps:
            self._log(metrics)
        self._measure(metrics)
        if time.monotonic() - self._saved >= 60 * settings.checkpoint_minutes:
            self._save()
            self._saved = time.monotonic()

    def _log(self, metrics: Metrics | None) -> None:
        trainer, batch = self._trainer, self._recipe.training.batch_size
        loss = self.quality["loss"] = trainer.take_loss()
        self.measured_at["loss"] = trainer.step
        if metrics is None:
            return
        seconds = max(time.monotonic() - self._window, 1e-9)
        speed = (trainer.step - self._window_step) * batch / seconds
        rate = float(trainer.learning_rates[trainer.step - 1])
        metrics.write(
            trainer.step,
            trainer.step * batch,
            epoch=trainer.epoch,
            loss=loss,
            learning_rate=rate,
            samples_per_s=round(speed, 1),
            elapsed_s=round(self._tick(), 3),
        )
        figures = f"loss {loss:.3f}  lr {rate:.2e}  {speed:.0f} samples/s"
        self._progress.update(trainer.step, figures + self._quality_summary())
        self._restart_window()

    def _quality_summary(self) -> str:
        """Return the last measurement for the progress line: kNN accuracy, else without labels."""
        quality = self.quality
        if knn := quality.get("knn_accuracy"):
            return f"  kNN {knn:.1%}  rank {quality.get('rankme', 0):.0f}"
        if "rankme" in quality:
            return f"  rank {quality['rankme']:.0f}  uniformity {quality['uniformity']:.2f}"
        return ""

    @property
    def verdict(self) -> Verdict | None:
        """What came of the run so far; None where an earlier version kept no baselines."""
        if not self.baselines:
            return None
        return judge(
            evidence_of(
                self._recipe,
                self._trainer.step,
                self._trainer.steps,
                figures=self.quality,
                measured_at=self.measured_at,
                baselines=self.baselines,
                kept_step=self.kept["step"] if self.kept else None,
            )
        )

    def _shown_verdict(self, *, running: bool) -> Verdict | None:
        """Return the verdict for the report: a run that is not over was not stopped either."""
        verdict, trainer = self.verdict, self._trainer
        if verdict is None or not running:
            return verdict
        return replace(verdict, verdict=f"at {share_done(trainer.step, trainer.steps)}", hint="")

    def _due_steps(self) -> set[int]:
        """Step 0 (the untrained encoder) and `evaluations` steps up to the last one."""
        count, steps = self._recipe.training.evaluations, self._trainer.steps
        if not count:
            return set()
        return {0, *(round(steps * (i + 1) / count) for i in range(count))}

    def _measure(self, metrics: Metrics | None) -> None:
        trainer = self._trainer
        if self._leader is not None and metrics is not None and trainer.step in self._due:
            trainer.check_finite()
            monitor = self._leader.monitor
            look = monitor.measure if trainer.step else monitor.measure_start
            seen = self._measured = look(trainer.used)
            if self._recipe.adaptation.keep_best:
                self.kept = update_kept(self.kept, trainer.used, seen, trainer.step)
            self.quality |= seen.figures
            self.measured_at |= dict.fromkeys(seen.figures, trainer.step)
            if trainer.step == 0:
                self.baselines = monitor.baselines() | {"start": seen.figures}
            samples = trainer.step * self._recipe.training.batch_size
            metrics.write(trainer.step, samples, **seen.figures)
            if seen.alarm and trainer.step:
                self._progress.message(f"step {trainer.step}: {seen.alarm}")
            self._report(running=trainer.step < trainer.steps)
            self._restart_window()

    def _report(self, *, running: bool) -> None:
        trainer, leader = self._trainer, self._leader
        if leader is None:
            return
        if self._measured is None and self._due:  # resumed, and stopped before the next one
            self._measured = leader.monitor.measure(trainer.used)
        state = State(
            step=trainer.step,
            steps=trainer.steps,
            elapsed_s=self._tick(),
            describes=trainer.describe(),
            verdict=self._shown_verdict(running=running) if trainer.step else None,
            baselines=self.baselines,
        )
        recipe, watched = self._recipe.to_dict(), leader.monitor.watched
        write_report(self._run, recipe, leader.about, watched, measured=self._measured, state=state)

    def _restart_window(self) -> None:
        """samples/s is the speed of steps; measuring and saving do not count."""
        self._window, self._window_step = time.monotonic(), self._trainer.step

    def _tick(self) -> float:
        now = time.monotonic()
        self.elapsed_s += now - self._clock
        self._clock = now
        return self.elapsed_s

    def _save(self) -> None:
        if self._leader is None:
            return
        self._trainer.check_finite()
        save_checkpoint(
            self._run,
            Checkpoint(
                **self._trainer.state(),
                **self._leader.about,
                elapsed_s=self._tick(),
                recipe=self._recipe.to_dict(),
                recipe_digest=self._recipe.digest,
                quality=dict(self.quality),
                measured_at=dict(self.measured_at),
                baselines=dict(self.baselines),
                kept=self.kept,
                versions={p: metadata.version(p) for p in ("torch", "torchvision", "lookalike")},
            ),
        )
        self._restart_window()

"""What `lookalike train` says: lists, refused images, the sweep of learning rates, the end."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from base.figures import figures_by_step, seen_of_planned
from training.models.backbones import torchvision_names
from training.models.encoders import RESNETS
from training.recipes.recipe_files import FOLDER, recipe_names
from training.tuning.lr_plot import save_plot, text_plot

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from training.train import TrainResult
    from training.tuning.lr_finder import Finding

SHOWN_REFUSALS = 10
SHOWN_RATES = 10


def say(console: Console, line: str) -> None:
    """One line as it is: a file's name may hold brackets, which rich would take for a style."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def list_choices() -> str:
    """Return the recipes and encoders there are, for people."""
    lines = ["recipes (--recipe NAME):"]
    for name in recipe_names():
        first = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
        lines.append(f"  {name:<18} {first.removeprefix('# ')}")
    theirs = [name for name in torchvision_names() if name not in RESNETS]
    lines += ["", "encoders (--set encoder.name=NAME):"]
    lines.append(f"  of any width       {', '.join(RESNETS)}")
    lines += [
        f"  {'of torchvision' if n == 0 else '':<18} {row}" for n, row in enumerate(_rows(theirs))
    ]
    lines.append('  of timm            "timm:NAME", where timm is installed: its list_models()')
    return "\n".join(lines)


def _rows(names: list[str], width: int = 78) -> list[str]:
    rows = [""]
    for name in names:
        if len(rows[-1]) + len(name) > width:
            rows.append("")
        rows[-1] += f"{name}, "
    return [*(row.rstrip() for row in rows[:-1]), rows[-1].removesuffix(", ")]


def show_refused(result: TrainResult, console: Console) -> None:
    """Show a table of the first refused images."""
    if not result.refused:
        return
    table = Table("picture", "refused because", title=f"{len(result.refused)} pictures refused")
    for refusal in result.refused[:SHOWN_REFUSALS]:
        table.add_row(Text(refusal.key), Text(refusal.message))
    console.print(table)
    if len(result.refused) > SHOWN_REFUSALS:
        say(console, f"all of them: {result.run / 'refused.jsonl'}")


def show_rates(finding: Finding, plot: Path | None, console: Console, *, as_json: bool) -> None:
    """Show the sweep as table, plot and numbers; the suggestion as a --set to copy."""
    table = Table("learning rate", "loss", "smoothed", title=f"{len(finding.sweep.rates)} steps")
    last = len(finding.sweep.rates) - 1
    for position in sorted({round(n * last / (SHOWN_RATES - 1)) for n in range(SHOWN_RATES)}):
        rate, loss = finding.sweep.rates[position], finding.sweep.losses[position]
        table.add_row(f"{rate:.2e}", f"{loss:.3f}", f"{finding.sweep.smoothed[position]:.3f}")
    console.print(table)
    say(console, text_plot(finding))
    if plot is not None:
        save_plot(finding, plot)
        say(console, f"plot: {plot}")
    typer.echo(
        f"learning rate {finding.suggested:.2g} at batches of {finding.batch_size} (steepest fall; "
        f"a tenth of the minimum's is {finding.minimum_tenth:.2g})"
    )
    typer.echo(f"next: --set schedule.learning_rate={finding.learning_rate:.2g}")
    if as_json:
        typer.echo(json.dumps(finding.to_dict()))


def print_result(result: TrainResult, resume: str, *, as_json: bool) -> None:
    """Print where the run is and what comes next; `resume` is the command that continues it."""
    recipe = result.recipe
    planned = recipe.training.samples or result.steps * recipe.training.batch_size
    samples = result.step * recipe.training.batch_size
    seen = seen_of_planned(samples, planned, result.step, result.steps)
    typer.echo(
        f"run: {result.run} (step {result.step} of {result.steps}, {result.images} pictures, "
        f"{seen} samples, {result.elapsed_s:.0f} s)"
    )
    if measured := figures_by_step(dict(sorted(result.quality.items())), result.measured_at):
        typer.echo(f"measured: {measured}")
    if result.verdict:
        typer.echo(f"verdict: {result.verdict}")
    export = f"lookalike export {shlex.quote(str(result.run))} --out encoder.onnx"
    typer.echo(f"next: {export}" if result.finished else f"stopped; resume with: {resume}")
    if as_json:
        report = {
            "run": str(result.run),
            "recipe": recipe.name,
            "recipe_digest": recipe.digest,
            "finished": result.finished,
            "step": result.step,
            "steps": result.steps,
            "samples": samples,
            "samples_planned": max(samples, planned),
            "pictures": result.images,
            "refused": len(result.refused),
            "elapsed_s": round(result.elapsed_s, 3),
            "quality": result.quality,
            "measured_at": result.measured_at,
            "verdict": result.verdict and asdict(result.verdict),
        }
        typer.echo(json.dumps(report))

"""The command `lookalike train`."""

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from images.sources import Source
    from training.recipe import Recipe
    from training.train import TrainResult

app = typer.Typer(no_args_is_help=True)

INTERRUPTED = 130
SHOWN_REFUSALS = 10
FEWEST = 8  # pictures; with fewer there is nothing to contrast


@app.callback()
def training() -> None:
    """Training commands."""


@app.command()
def train(
    source: Annotated[
        str, typer.Argument(help="Pictures: folder, archive, array file, list, URL, name.")
    ],
    *,
    recipe: Annotated[
        str | None, typer.Option(help="A recipe's name or a .toml file; default: by the pictures.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; default: runs/SOURCE-RECIPE.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="table.key=value, over the recipe; may be repeated."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Train on N pictures, evenly spread.")
    ] = None,
    evaluation: Annotated[
        str | None, typer.Option("--eval", help="Labelled SOURCE for kNN while training.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV of keys or paths with labels for SOURCE.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object.")] = False,
) -> None:
    """Train an encoder on pictures, without labels.

    Writes a run folder. Ctrl-C leaves a run that --resume goes on with.

    Example: lookalike train photos/ --out runs/photos
    """
    from training import process

    process.prepare()  # before torch is loaded

    from rich.console import Console

    from images.sources import open_source
    from training.launch import launch_of
    from training.progress import reporter_for
    from training.recipe_files import load_recipe
    from training.train import train as train_run

    leads = launch_of().leads  # of several processes one speaks
    console = Console(stderr=True, quiet=not leads)
    pictures = open_source(source, labels=labels)
    name, run = _plan(pictures, source, recipe, out, resume=resume, console=console)
    chosen = load_recipe(name, settings or [])
    chosen = _fit_batch(chosen, min(len(pictures), limit or len(pictures)), settings or [], console)
    result = train_run(
        pictures,
        chosen,
        run,
        resume=resume,
        device=device,
        evaluation=None if evaluation is None else open_source(evaluation),
        limit=limit,
        reporter=reporter_for(console),
    )
    _show_refused(result, console)
    again = ["lookalike", "train", source, "--out", str(run)]
    again += ["--limit", str(limit)] if limit else []
    again += ["--eval", evaluation] if evaluation else []
    again += ["--labels", str(labels)] if labels else []
    if leads:
        _tell(result, chosen, shlex.join([*again, "--resume"]), as_json=as_json)
    if not result.finished:
        raise typer.Exit(INTERRUPTED)
    if result.refused:
        raise typer.Exit(1)


def _plan(
    pictures: "Source",
    source: str,
    recipe: str | None,
    out: Path | None,
    *,
    resume: bool,
    console: "Console",
) -> tuple[str, Path]:
    """Returns the recipe to read and the run folder.

    A run that is resumed keeps its recipe; else, where none is named, the pictures decide.
    """
    from training.choice import choose_recipe
    from training.recipe_files import recipe_names

    if recipe is not None:
        return recipe, out or _default_run(source, Path(recipe).stem)
    if resume and out is not None and (out / "recipe.toml").is_file():
        return str(out / "recipe.toml"), out
    name, reason = choose_recipe(pictures)
    run = out or _default_run(source, name)
    if resume and (run / "recipe.toml").is_file():
        return str(run / "recipe.toml"), run
    others = ", ".join(other for other in recipe_names() if other != name)
    _say(console, f"recipe {name}: {reason} (--recipe for another: {others})")
    return name, run


def _fit_batch(
    recipe: "Recipe", pictures: int, settings: list[str], console: "Console"
) -> "Recipe":
    """Halves the batch of a recipe that was made for more pictures than there are."""
    from dataclasses import replace

    batch = recipe.training.batch_size
    asked = any(setting.replace(" ", "").startswith("training.batch_size=") for setting in settings)
    if asked or pictures >= batch or pictures < FEWEST:
        return recipe
    while batch > pictures // 2:
        batch //= 2
    instead = f"batches of {batch} instead of {recipe.training.batch_size}"
    _say(console, f"{instead}: there are {pictures} pictures")
    return replace(recipe, training=replace(recipe.training, batch_size=batch))


def _default_run(source: str, recipe: str) -> Path:
    return Path("runs") / f"{_slug(source)}-{_slug(recipe)}"


def _say(console: "Console", line: str) -> None:
    """One line as it is: a file's name may hold brackets, which rich would take for a style."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _slug(text: str) -> str:
    """A source or recipe as a part of a folder's name."""
    return re.sub(r"[^\w.-]+", "-", Path(text).name).strip("-.") or "pictures"


def _show_refused(result: "TrainResult", console: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    if not result.refused:
        return
    table = Table("picture", "refused because", title=f"{len(result.refused)} pictures refused")
    for refusal in result.refused[:SHOWN_REFUSALS]:
        table.add_row(Text(refusal.key), Text(refusal.message))
    console.print(table)
    if len(result.refused) > SHOWN_REFUSALS:
        _say(console, f"all of them: {result.run / 'refused.jsonl'}")


def _tell(result: "TrainResult", recipe: "Recipe", resumed: str, *, as_json: bool) -> None:
    """Says where the run is and what comes next."""
    quality = "".join(f", {name} {value:.4g}" for name, value in sorted(result.quality.items()))
    typer.echo(
        f"run: {result.run} (step {result.step} of {result.steps}, {result.pictures} pictures, "
        f"{result.elapsed_s:.0f} s{quality})"
    )
    export = f"lookalike export {shlex.quote(str(result.run))} --out encoder.onnx"
    typer.echo(f"next: {export}" if result.finished else f"stopped; go on with: {resumed}")
    if as_json:
        report = {
            "run": str(result.run),
            "recipe": recipe.name,
            "recipe_digest": recipe.digest,
            "finished": result.finished,
            "step": result.step,
            "steps": result.steps,
            "samples": result.step * recipe.training.batch_size,
            "pictures": result.pictures,
            "refused": len(result.refused),
            "elapsed_s": round(result.elapsed_s, 3),
            "quality": result.quality,
        }
        typer.echo(json.dumps(report))

"""The command `lookalike train`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

INTERRUPTED = 130
WHAT, HOW, TUNE = "What to train on", "How to train", "Before training"


@app.callback()
def training() -> None:
    """Training commands."""


def _list(*, requested: bool) -> None:
    """List recipes and encoders, before SOURCE is missed."""
    if requested:
        from training.cli.cli_report import list_choices

        typer.echo(list_choices())
        raise typer.Exit


@app.command()
def train(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="Pictures: folder, archive, array file, list, URL, name.")
    ],
    *,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Use N pictures, evenly spread.", rich_help_panel=WHAT),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV of keys or paths with labels for SOURCE.", rich_help_panel=WHAT),
    ] = None,
    label_from: Annotated[
        str | None,
        typer.Option(
            metavar="first|last|N|none",
            help="The folder that is the label.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    image_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of Parquet: which column holds images or their paths.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of Parquet: which column holds labels.", rich_help_panel=WHAT
        ),
    ] = None,
    key_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of Parquet: which column holds keys.", rich_help_panel=WHAT
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Leave out files or folders of this name; may be repeated.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option("--eval", help="Labeled SOURCE for kNN accuracy.", rich_help_panel=WHAT),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Name or .toml file; default: by the pictures.", rich_help_panel=HOW),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="TABLE.KEY=VALUE",
            help="Change a value of the recipe; may be repeated.",
            rich_help_panel=HOW,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|RUN|torchvision",
            help="Start from these weights, not from random ones.",
            rich_help_panel=HOW,
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="ENCODER",
            help="Learn the embeddings of this encoder file: a smaller, faster copy.",
            rich_help_panel=HOW,
        ),
    ] = None,
    fine_tune: Annotated[
        bool,
        typer.Option(
            "--fine-tune",
            help="With --weights: learn from the labels, too, few as they may be.",
            rich_help_panel=HOW,
        ),
    ] = False,
    batch_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Pictures a step; auto: the most that memory takes.",
            rich_help_panel=HOW,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=HOW)] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Run folder; default: runs/SOURCE-RECIPE.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")] = False,
    find_lr: Annotated[
        bool,
        typer.Option(
            "--find-lr",
            help="Try learning rates and suggest one; no run is written.",
            rich_help_panel=TUNE,
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="With --find-lr: its curve.", rich_help_panel=TUNE),
    ] = None,
    _listed: Annotated[
        bool,
        typer.Option(
            "--list",
            is_eager=True,
            callback=lambda requested: _list(requested=requested),
            help="List recipes and encoders.",
            rich_help_panel=TUNE,
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object.")] = False,
) -> None:
    """Train an encoder on pictures, without labels.

    Writes a run folder. Ctrl-C leaves a run that --resume continues.

    Example: lookalike train photos/ --out runs/photos
    """
    from training import cpu_tuning

    cpu_tuning.prepare()  # before torch is loaded

    from rich.console import Console

    from base.errors import UsageError
    from base.progress import progress_for
    from images.sources.parquet_columns import ColumnNames
    from images.sources.passed_over import passed_over
    from images.sources.sources import open_source
    from training.cli import cli_plan
    from training.cli.cli_report import print_result, show_refused
    from training.parallel.launch import launch_of
    from training.train import train as train_run

    if plot is not None and not find_lr:
        raise UsageError("--plot is for --find-lr: add it, or leave --plot out")
    leads = launch_of().leads  # of several processes one speaks
    console = Console(stderr=True, quiet=not leads)
    progress = progress_for(console)
    columns = ColumnNames(image=image_column, label=label_column, key=key_column)
    images = open_source(
        source, labels=labels, exclude=exclude or (), label_from=label_from, columns=columns
    )
    if passed := passed_over(images).summary():
        console.print(passed, markup=False)
    name, run = cli_plan.plan(
        images, source, recipe, out, resume=resume, weights=weights, progress=progress
    )
    count = min(len(images), limit or len(images))
    overrides = cli_plan.all_overrides(settings, weights, batch_size, teacher, fine_tune=fine_tune)
    if resume:
        planned = cli_plan.resumed_recipe(name, overrides, count)
    else:
        planned = cli_plan.new_recipe(
            name,
            overrides,
            count,
            auto_batch=batch_size == cli_plan.AUTO,
            device=device,
            progress=progress,
        )
    taught_by = cli_plan.open_teacher(planned, context.obj)
    if find_lr:
        from training.cli.cli_report import show_rates
        from training.tuning.lr_finder import find_learning_rate

        finding = find_learning_rate(images, planned, device=device, limit=limit, progress=progress)
        show_rates(finding, plot, console, as_json=as_json)
        return
    result = train_run(
        images,
        planned,
        run,
        resume=resume,
        device=device,
        evaluation=None if evaluation is None else open_source(evaluation),
        teacher=taught_by,
        limit=limit,
        progress=progress,
    )
    show_refused(result, console)
    again = ["lookalike", "train", source, "--out", str(run)]
    again += ["--limit", str(limit)] if limit else []
    again += ["--eval", evaluation] if evaluation else []
    again += ["--labels", str(labels)] if labels else []
    again += ["--label-from", label_from] if label_from else []
    for kind, column in (("image", image_column), ("label", label_column), ("key", key_column)):
        again += [f"--{kind}-column", column] if column else []
    again += [text for pattern in exclude or () for text in ("--exclude", pattern)]
    if leads:
        print_result(result, shlex.join([*again, "--resume"]), as_json=as_json)
    if not result.finished:
        raise typer.Exit(INTERRUPTED)
    if result.refused:
        raise typer.Exit(1)

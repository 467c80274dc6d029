"""The command `lookalike evaluate`."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Protocol(StrEnum):
    """What `evaluate` can measure."""

    KNN = "knn"
    LINEAR = "linear"
    FINETUNE = "finetune"
    RETRIEVAL = "retrieval"


class Solver(StrEnum):
    """How the linear probe is found."""

    LBFGS = "lbfgs"
    SGD = "sgd"


def evaluate(
    subject: Annotated[Path, typer.Argument(help="Run folder or encoder file.")],
    source: Annotated[str, typer.Argument(help="Labeled pictures to test.")],
    *,
    protocol: Annotated[Protocol, typer.Option(help="What to measure.")] = Protocol.KNN,
    train: Annotated[
        str | None,
        typer.Option(
            "--train",
            "--gallery",
            help="Labeled pictures to learn from, or to search; default: a part of SOURCE.",
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            "-k",
            "--k",
            help="knn: neighbors that vote; default: as in the smallest class, 5 to 200.",
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="knn: a vote weighs exp(cosine / temperature).")
    ] = 0.1,
    solver: Annotated[
        Solver,
        typer.Option(help="linear: lbfgs over 45 strengths of L2, or sgd with crops and flips."),
    ] = Solver.LBFGS,
    label_fraction: Annotated[
        float | None,
        typer.Option(help="Learn from this share of the labels, class-balanced; finetune: 0.01."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Average over N draws of the labels.")] = 1,
    epochs: Annotated[
        int | None, typer.Option(help="sgd: 90; finetune: 60 up to 3 % of the labels, else 30.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="sgd and finetune.")] = 256,
    from_head: Annotated[
        bool, typer.Option("--from-head", help="finetune: from the head's first layer (v2).")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use N pictures of each source, evenly spread.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV of keys or paths with labels for SOURCE.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Write the JSON object to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object.")] = False,
) -> None:
    """Measure what a run or an encoder file is worth on labeled images.

    knn: the vote of the nearest; linear: a classifier on frozen features; finetune: all weights, on
    a few labels; retrieval: recall, precision and mAP@R. Without --train a fifth of SOURCE is
    tested and the rest learned from; in retrieval each image searches among all others.

    Example: lookalike evaluate encoder.onnx photos/ --protocol retrieval
    """
    from rich.console import Console

    from base.files import write_json_atomic
    from base.progress import progress_for
    from export.cli.cli_report import show_refused, show_scores
    from export.evaluate.evaluate import evaluate as measure
    from export.evaluate.evaluation import Settings
    from images.sources.sources import open_source

    console = Console(stderr=True)
    settings = Settings(
        k=k,
        temperature=temperature,
        solver=solver.value,
        label_fraction=label_fraction,
        seeds=seeds,
        epochs=epochs,
        batch_size=batch_size,
        from_head=from_head,
    )
    outcome = measure(
        subject,
        open_source(source, labels=labels),
        protocol.value,
        train=None if train is None else open_source(train),
        settings=settings,
        limit=limit,
        device=device,
        progress=progress_for(console),
    )
    show_scores(outcome, console)
    show_refused(outcome.refused, console)
    report = {"subject": str(subject), "source": source, "train": train} | outcome.to_dict()
    if out is not None:
        write_json_atomic(out, report)
    if as_json:
        typer.echo(json.dumps(report))
    if outcome.refused:
        raise typer.Exit(1)

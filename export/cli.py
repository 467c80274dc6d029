"""The commands `lookalike export`, `lookalike verify` and `lookalike evaluate`."""

import json
import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from export.evaluation import Evaluation
    from export.verify import Verification
    from training.pictures import Refusal

app = typer.Typer(no_args_is_help=True)

SHOWN_REFUSALS = 10
COLUMNS = {"features": "features h", "projection": "projection g(h)"}
Json = Annotated[bool, typer.Option("--json", help="End with one JSON object.")]


class Precision(StrEnum):
    """What an encoder computes in."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Int8Target(StrEnum):
    """CPUs that int8 is made for: with wide products of bytes, or with those that saturate."""

    AUTO = "auto"
    VNNI = "vnni"
    AVX2 = "avx2"


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


class Axes(StrEnum):
    """Order of the axes of an ONNX file's input."""

    NCHW = "nchw"
    NHWC = "nhwc"


@app.callback()
def exporting() -> None:
    """Commands from a run folder to a checked encoder file."""


@app.command()
def export(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN|WEIGHTS",
            help="Run folder of lookalike train, or somebody's checkpoint: .pt, .pth, .ckpt, "
            ".safetensors, .npz.",
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("encoder.onnx"),
    opset: Annotated[
        int | None, typer.Option(help="ONNX operator set, 18 to 23; default: 20.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="What the file shall say about its weights' licence.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="WEIGHTS: which encoder; default: found from the shapes.")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="WEIGHTS: what stands before the encoder's names.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="WEIGHTS, --onnx: side of the pictures in pixels.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(help="WEIGHTS, --onnx: of pictures in [0,1], as 0.485,0.456,0.406."),
    ] = None,
    std: Annotated[str | None, typer.Option(help="WEIGHTS, --onnx: likewise.")] = None,
    onnx: Annotated[
        Path | None, typer.Option(help="Instead of RUN: an image encoder already in ONNX.")
    ] = None,
    layout: Annotated[
        Axes | None, typer.Option(help="--onnx: nchw or nhwc; default: what its input shows.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="--onnx: the tensor of features; default: its output.")
    ] = None,
    divide: Annotated[
        float | None,
        typer.Option(help="--onnx: what pixels of 0 to 255 are divided by first; default: 255."),
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="int8: for CPUs, fp16: for GPUs.")
    ] = Precision.FP32,
    calibrate: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="int8: pictures like those to be searched.")
    ] = None,
    int8_target: Annotated[
        Int8Target, typer.Option(help="int8: the CPU that it is for; auto: one like this one.")
    ] = Int8Target.AUTO,
    min_cosine: Annotated[float, typer.Option(help="int8: least mean cosine to fp32.")] = 0.99,
    min_overlap: Annotated[float, typer.Option(help="int8: least overlap of 10 neighbours.")] = 0.9,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="int8: write it even so.")
    ] = False,
    embedding_dim: Annotated[
        int | None, typer.Option(help="Project embeddings to E numbers by PCA.")
    ] = None,
    fit: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Pictures that the PCA is fitted on.")
    ] = None,
    whiten: Annotated[bool, typer.Option("--whiten", help="PCA: weigh directions alike.")] = False,
    as_json: Json = False,
) -> None:
    """Write an encoder, without its projection head, as one ONNX file.

    Its source is a run folder, a checkpoint of lightly, solo-learn, torchvision, timm and others,
    or with --onnx an encoder already in ONNX.

    Example: lookalike export runs/photos --out encoder.onnx

    Example: lookalike export runs/photos --out small.onnx --precision int8 --calibrate photos/
    """
    from rich.console import Console

    from export.encoder_file import check_target, describe
    from export.finish import Finish
    from export.finish_report import finishing
    from export.onnx_graph import NO_LICENCE, OPSET, export_run
    from export.quantize import Gate
    from export.weights import WeightOptions, draft_weights, rgb
    from images.errors import UsageError
    from images.sources import open_source

    licence = licence or NO_LICENCE
    check_target(out)
    shift, scale = rgb(mean, "mean"), rgb(std, "std")
    known = WeightOptions(
        encoder=encoder, prefix=prefix, image_size=image_size, mean=shift, std=scale
    )
    if (run is None) == (onnx is None):
        raise UsageError("give one to export: a run folder, a file of weights, or --onnx FILE")
    torch_only: dict[str, object] = {"--encoder": encoder, "--prefix": prefix, "--opset": opset}
    onnx_only: dict[str, object] = {"--layout": layout, "--output": output, "--divide": divide}
    _refuse_unused(onnx_only if onnx is None else torch_only, onnx or run)
    opset = opset or OPSET
    todo = Finish(
        precision=precision.value,
        calibrate=None if calibrate is None else open_source(calibrate),
        target=int8_target.value,
        gate=Gate(min_cosine=min_cosine, min_overlap=min_overlap),
        allow_loss=allow_loss,
        embedding_dim=embedding_dim,
        fit=None if fit is None else open_source(fit),
        whiten=whiten,
    )
    console = Console(stderr=True)
    with finishing(out, todo, console) as (target, done):
        if onnx is not None:
            from export.onnx_shows import OnnxOptions
            from export.wrap_onnx import draft_onnx

            graph = OnnxOptions(
                layout=None if layout is None else layout.value,
                image_size=image_size,
                output=output,
                mean=shift,
                std=scale,
                divide=255.0 if divide is None else divide,
            )
            draft, wrapped = draft_onnx(onnx, options=graph, licence_note=licence)
            draft.write(target)
            typer.echo(wrapped.words, err=True)
        elif run is not None and run.is_file():
            draft, found = draft_weights(run, options=known, opset=opset, licence_note=licence)
            draft.write(target)
            typer.echo(found.words, err=True)
        elif known.given:
            raise UsageError(f"{', '.join(known.given)}: for files of weights; {run} knows its own")
        elif run is not None:
            export_run(run, target, opset=opset, licence_note=licence)
    facts = describe(out)
    contract = facts["contract"]
    side = contract["preprocess"]["size"]
    typer.echo(
        f"encoder: {out} ({facts['bytes'] / 1e6:.1f} MB, {side} x {side} px to "
        f"{contract['embedding_dim']} numbers, opset {facts['opset']})"
    )
    against = f" {shlex.quote(str(run))}" if run is not None and run.is_dir() else ""
    typer.echo(f"next: lookalike verify {shlex.quote(str(out))}{against}")
    if as_json:
        typer.echo(json.dumps(facts))
    for finished in done:
        _show_refused(finished.refused, console)
        if finished.refused:
            raise typer.Exit(1)


@app.command()
def verify(
    encoder: Annotated[Path, typer.Argument(help="Encoder file.")],
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN|ENCODER]",
            help="The run it was made from, or another encoder file; without: the file by itself.",
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Argument(help="Pictures to compare on; without: drawn ones.")
    ] = None,
    *,
    limit: Annotated[int, typer.Option(min=1, help="Compare on N pictures, evenly spread.")] = 256,
    max_error: Annotated[
        float | None, typer.Option(help="Largest relative error of features; fp32: 1e-4.")
    ] = None,
    min_cosine: Annotated[
        float | None, typer.Option(help="Least cosine; fp32: 0.99999, else 0.99 in the mean.")
    ] = None,
    min_overlap: Annotated[
        float | None, typer.Option(help="Least overlap of 10 neighbours; fp32: 0.99, else 0.9.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that an encoder file computes what its run computes; exit code 3 if it does not.

    Two files are compared likewise, int8 with fp32 say, and their speed is measured.

    Example: lookalike verify encoder.onnx runs/photos photos/

    Example: lookalike verify int8.onnx encoder.onnx photos/
    """
    from rich.console import Console

    from export.verify import verify as verify_file
    from images.sources import open_source
    from training.progress import reporter_for

    console = Console(stderr=True)
    given = {
        "max_relative_error": max_error,
        "min_cosine": min_cosine,
        "min_overlap": min_overlap,
    }
    outcome = verify_file(
        encoder,
        run,
        None if source is None else open_source(source),
        overrides={name: value for name, value in given.items() if value is not None},
        limit=limit,
        reporter=reporter_for(console),
    )
    _show_checks(outcome, console)
    _show_refused(outcome.refused, console)
    if as_json:
        typer.echo(json.dumps(outcome.to_dict()))
    _end(outcome, as_json=as_json)


@app.command()
def evaluate(
    subject: Annotated[Path, typer.Argument(help="Run folder or encoder file.")],
    source: Annotated[str, typer.Argument(help="Labelled pictures to test.")],
    *,
    protocol: Annotated[Protocol, typer.Option(help="What to measure.")] = Protocol.KNN,
    train: Annotated[
        str | None,
        typer.Option(
            "--train",
            "--gallery",
            help="Labelled pictures to learn from, or to search; default: a part of SOURCE.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", help="knn: neighbours that vote.")] = 200,
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
    as_json: Json = False,
) -> None:
    """Measure what a run or an encoder file is worth on labelled pictures.

    knn: the vote of the nearest; linear: a classifier on frozen features; finetune: all weights, on
    a few labels; retrieval: recall, precision and mAP@R. Without --train a fifth of SOURCE is
    tested and the rest learned from; in retrieval each picture searches among all others.

    Example: lookalike evaluate encoder.onnx photos/ --protocol retrieval
    """
    from rich.console import Console

    from export.evaluate import evaluate as measure
    from export.evaluation import Settings
    from images.files import write_json_atomic
    from images.sources import open_source
    from training.progress import reporter_for

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
        reporter=reporter_for(console),
    )
    _show_scores(outcome, console)
    _show_refused(outcome.refused, console)
    report = {"subject": str(subject), "source": source, "train": train} | outcome.to_dict()
    if out is not None:
        write_json_atomic(out, report)
    if as_json:
        typer.echo(json.dumps(report))
    if outcome.refused:
        raise typer.Exit(1)


def _show_scores(outcome: "Evaluation", console: "Console") -> None:
    """One line per score, a column per space: percent with the 95 % interval."""
    from rich.table import Table

    known = "to search" if outcome.protocol == "retrieval" else "to learn from"
    console.print(f"{outcome.protocol}: {outcome.queries} tested, {outcome.gallery} {known}")
    table = Table("score, %")
    for space in outcome.spaces:
        table.add_column(COLUMNS.get(space, space), justify="right")
    for name in outcome.scores:
        cells = []
        for scores in outcome.spaces.values():
            low, high = scores[name].interval
            cells.append(f"{100 * scores[name].value:.1f} ({100 * low:.1f}-{100 * high:.1f})")
        table.add_row(name.replace("_", " "), *cells)
    console.print(table)
    console.print("in brackets: the 95 % confidence interval")


def _refuse_unused(options: dict[str, object], subject: Path | None) -> None:
    """Refuses options that nobody would look at."""
    from images.errors import UsageError

    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{', '.join(given)}: not used for {subject}; leave it out")


def _show_checks(outcome: "Verification", console: "Console") -> None:
    from rich.table import Table

    console.print(
        f"{outcome.encoder} on {outcome.count} {outcome.pictures}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    table = Table("check", "found", "wanted", "")
    for check in outcome.checks:
        verdict = "[green]ok[/]" if check.passed else "[bold red]FAILED[/]"
        table.add_row(check.name, check.found_words, check.wanted, verdict)
    console.print(table)
    for title, columns, rows in _measured(outcome):
        measured = Table(*columns, title=title)
        for row in rows:
            measured.add_row(*row)
        console.print(measured)
    if outcome.run is None:
        console.print("No RUN was given: only the file itself was checked.")


def _measured(
    outcome: "Verification",
) -> "Iterator[tuple[str, list[str], list[list[str]]]]":
    """Title, columns and rows of what was measured beside the checks."""
    if outcome.figures:
        rows = [[name, f"{value:.6g}"] for name, value in outcome.figures.items()]
        yield f"against {outcome.run}", ["figure", "found"], rows
    if outcome.speed:
        columns = ["pictures per second", *next(iter(outcome.speed.values()))]
        rows = [
            [name, *(f"{rate:.1f}" for rate in rates.values())]
            for name, rates in outcome.speed.items()
        ]
        yield "speed here", columns, rows


def _end(outcome: "Verification", *, as_json: bool) -> None:
    """Says the verdict, beside JSON on stderr, and ends with the exit code."""
    from images.errors import LookalikeError

    if not outcome.passed:
        failures = ", ".join(
            f"{check.name} {check.found_words} (must be {check.wanted})"
            for check in outcome.checks
            if not check.passed
        )
        against = f"does NOT match {outcome.run}" if outcome.run else "is NOT sound"
        raise LookalikeError(f"{outcome.encoder} {against}: {failures}; export the run again")
    typer.echo(f"verified: {outcome.encoder} on {outcome.count} {outcome.pictures}", err=as_json)
    if outcome.refused:
        raise typer.Exit(1)


def _show_refused(refused: "tuple[Refusal, ...]", console: "Console") -> None:
    from rich.markup import escape
    from rich.table import Table

    if not refused:
        return
    table = Table("picture", "refused because", title=f"{len(refused)} pictures refused")
    for refusal in refused[:SHOWN_REFUSALS]:
        table.add_row(escape(refusal.key), escape(refusal.message))
    console.print(table)
    if len(refused) > SHOWN_REFUSALS:
        console.print(f"and {len(refused) - SHOWN_REFUSALS} more")

"""The commands `lookalike export`, `lookalike verify` and `lookalike evaluate`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from export.cli.choices import Axes, Filter, Int8Target, Precision, Projection, Token
from export.cli.cli_evaluate import evaluate

if TYPE_CHECKING:
    from export.verify.verify import Verification

app = typer.Typer(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="End with one JSON object.")]


@app.callback()
def exporting() -> None:
    """Commands from a run folder to a checked encoder file."""


@app.command()
def export(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN|WEIGHTS",
            help="Run folder of lookalike train, or another library's checkpoint: .pt, .pth, "
            ".ckpt, .safetensors, .npz.",
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("encoder.onnx"),
    opset: Annotated[
        int | None, typer.Option(help="ONNX operator set, 18 to 23; default: 20.")
    ] = None,
    license_note: Annotated[
        str | None,
        typer.Option(
            "--license", "--licence", help="What the file shall say about its weights' license."
        ),
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
    resize_to: Annotated[
        int | None, typer.Option(help="WEIGHTS, --onnx: short side before the center crop.")
    ] = None,
    resample: Annotated[
        Filter | None, typer.Option(help="WEIGHTS, --onnx: filter that resizes pictures.")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(help="Instead of RUN: an image encoder already in ONNX.")
    ] = None,
    layout: Annotated[
        Axes | None, typer.Option(help="--onnx: nchw or nhwc; default: what its input shows.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="--onnx: the tensor of features; default: its output.")
    ] = None,
    token: Annotated[
        Token | None,
        typer.Option(help="--onnx: of outputs [N, T, D] the first token or the mean."),
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
    min_overlap: Annotated[float, typer.Option(help="int8: least overlap of 10 neighbors.")] = 0.9,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="int8: write it even so.")
    ] = False,
    embedding_dim: Annotated[
        int | None, typer.Option(help="Project embeddings to E numbers, by PCA.")
    ] = None,
    fit: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Pictures that a projection is fitted on.")
    ] = None,
    projection: Annotated[
        Projection,
        typer.Option(
            help="--fit: auto compares them by labels, without labels it centers; neighbors: good "
            "for finding the same kind, worse for near-duplicates."
        ),
    ] = Projection.AUTO,
    whiten: Annotated[bool, typer.Option("--whiten", help="PCA: weigh directions alike.")] = False,
    scaled_decode: Annotated[
        bool, typer.Option("--scaled-decode", help="Decode large JPEGs small: faster, 0.999 alike.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write an encoder, without its projection head, as one ONNX file.

    Its source is a run folder, a checkpoint of lightly, solo-learn, torchvision, timm and others,
    or with --onnx an encoder already in ONNX.

    Example: lookalike export runs/photos --out encoder.onnx

    Example: lookalike export runs/photos --out small.onnx --precision int8 --calibrate photos/
    """
    from rich.console import Console

    from export.cli.cli_plan import Origin
    from export.cli.cli_report import show_refused
    from export.cli.finish_report import finishing
    from export.convert.onnx_inspect import OnnxOptions
    from export.convert.weights import WeightOptions, rgb
    from export.encoder_file.encoder_file import check_target
    from export.shrink.finish import Finish
    from export.shrink.quantize import QualityGate
    from images.sources.sources import open_source

    check_target(out)
    shift, scale = rgb(mean, "mean"), rgb(std, "std")
    origin = Origin(
        run=run,
        onnx=onnx,
        opset=opset,
        license_note=license_note,
        weights=WeightOptions(
            encoder=encoder,
            prefix=prefix,
            image_size=image_size,
            mean=shift,
            std=scale,
            resize_to=resize_to,
            resample=None if resample is None else resample.value,
        ),
        graph=OnnxOptions(
            layout=None if layout is None else layout.value,
            image_size=image_size,
            output=output,
            token=None if token is None else token.value,
            mean=shift,
            std=scale,
            divide=divide,
            resize_to=resize_to,
            resample=None if resample is None else resample.value,
        ),
    )
    todo = Finish(
        precision=precision.value,
        calibrate=None if calibrate is None else open_source(calibrate),
        target=int8_target.value,
        gate=QualityGate(min_cosine=min_cosine, min_overlap=min_overlap),
        allow_loss=allow_loss,
        embedding_dim=embedding_dim,
        fit=None if fit is None else open_source(fit),
        whiten=whiten,
        projection=projection.value,
        scaled_decode=scaled_decode,
    )
    console = Console(stderr=True)
    with finishing(out, todo, console) as (target, done):
        summary = origin.write(target)
        if summary:
            typer.echo(summary, err=True)
    _show_written(out, run, calibrate or fit, as_json=as_json)
    for finished in done:
        show_refused(finished.refused, console)
        if finished.refused:
            raise typer.Exit(1)


def _show_written(out: Path, run: Path | None, source: str | None, *, as_json: bool) -> None:
    """Show what the file is, and the command that checks it, on images of `source`."""
    from base.figures import share_done
    from export.encoder_file.encoder_file import describe

    facts = describe(out)
    contract = facts["contract"]
    side, precision = contract["preprocess"]["size"], contract["precision"]
    shown = "" if precision == "fp32" else f"{precision}, "
    typer.echo(
        f"encoder: {out} ({facts['bytes'] / 1e6:.1f} MB, {side} x {side} px to "
        f"{contract['embedding_dim']} numbers, {shown}opset {facts['opset']})"
    )
    state = contract.get("training") or {}
    if state and not state["finished"]:
        share = share_done(state["step"], state["steps"])
        typer.echo(
            f"warning: the run is not finished: stopped at step {state['step']} of "
            f"{state['steps']} ({share}); resume it and export again for the whole training",
            err=True,
        )
    check = ["lookalike", "verify", str(out)]
    if run is not None and run.is_dir():
        check += [str(run)] if source is None else [str(run), source]
    typer.echo(f"next: {shlex.join(check)}")
    if as_json:
        typer.echo(json.dumps(facts))


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
        float | None, typer.Option(help="Least overlap of 10 neighbors; fp32: 0.99, else 0.9.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that an encoder file computes what its run computes; exit code 3 if it does not.

    Two files are compared likewise, int8 with fp32 say, and their speed is measured.

    Example: lookalike verify encoder.onnx runs/photos photos/

    Example: lookalike verify int8.onnx encoder.onnx photos/
    """
    from rich.console import Console

    from base.progress import progress_for
    from export.cli.cli_report import show_checks, show_refused
    from export.verify.verify import verify as verify_file
    from images.sources.sources import open_source

    console = Console(stderr=True)
    overrides = {
        "max_relative_error": max_error,
        "min_cosine": min_cosine,
        "min_overlap": min_overlap,
    }
    outcome = verify_file(
        encoder,
        run,
        None if source is None else open_source(source),
        overrides={name: value for name, value in overrides.items() if value is not None},
        limit=limit,
        progress=progress_for(console),
    )
    show_checks(outcome, console)
    show_refused(outcome.refused, console)
    if as_json:
        typer.echo(json.dumps(outcome.to_dict()))
    _conclude(outcome, as_json=as_json)


def _conclude(outcome: Verification, *, as_json: bool) -> None:
    """Print the verdict, on stderr where stdout has JSON, and end with the exit code."""
    from base.errors import LookalikeError

    if not outcome.passed:
        failures = ", ".join(
            f"{check.name} {check.shown_value} (must be {check.requirement})"
            for check in outcome.checks
            if not check.passed
        )
        against = f"does NOT match {outcome.run}" if outcome.run else "is NOT sound"
        raise LookalikeError(f"{outcome.encoder} {against}: {failures}; export the run again")
    typer.echo(f"verified: {outcome.encoder} on {outcome.count} {outcome.compared_on}", err=as_json)
    if outcome.refused:
        raise typer.Exit(1)


app.command()(evaluate)

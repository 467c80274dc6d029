"""The commands of the serving room: extract, collection, search, serve."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli import collection_cli, maintenance_cli, search_cli
from serving.cli.options import (
    Dtype,
    EncoderFile,
    Exclude,
    Json,
    Limit,
    hint_when_stopped,
    print_json,
)

if TYPE_CHECKING:
    from export.encoder_file.encoder_file import Encoder
    from images.items import Source
    from serving.extraction.report import ExtractReport

MAX_PIXELS = 100_000_000  # as `images.pixels.decode` has it, which is imported only where needed

app = typer.Typer(no_args_is_help=True)
maintenance_cli.register(collection_cli.app)
collection_cli.app.command()(search_cli.search)
collection_cli.app.command()(search_cli.label)
app.add_typer(collection_cli.app, name="collection")
app.command()(search_cli.search)


class EngineName(StrEnum):
    """Where a source is embedded."""

    LOCAL = "local"
    RAY = "ray"


@app.command()
def extract(
    *,
    encoder: EncoderFile,
    source: Annotated[
        str, typer.Argument(help="Images: folder, archive, array file, list, URL, name.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    update: Annotated[
        bool,
        typer.Option("--update", help="Do what is new or changed, take out what is gone."),
    ] = False,
    max_errors: Annotated[
        int | None, typer.Option(min=0, help="Stop when more images than these are refused.")
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Refuse images of more pixels, width x height.")
    ] = MAX_PIXELS,
    isolate: Annotated[
        bool,
        typer.Option("--isolate", help="Decode in other processes: a crash costs one image."),
    ] = False,
    dtype: Annotated[
        Dtype | None, typer.Option(help="How embeddings are stored; default: float32.")
    ] = None,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Also keep small pictures, as WebP.")
    ] = False,
    npy: Annotated[
        bool, typer.Option("--npy", help="Also write embeddings.npy and keys.parquet.")
    ] = False,
    collection: Annotated[
        str | None,
        typer.Option("--into", help="Also add the images to this collection, shard by shard."),
    ] = None,
    limit: Limit = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images the encoder gets at once.")] = 32,
    labels: Annotated[
        Path | None, typer.Option(help="CSV of keys or paths with labels for SOURCE.")
    ] = None,
    label_from: Annotated[
        str | None,
        typer.Option(metavar="first|last|N|none", help="The folder that is the label."),
    ] = None,
    image_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of Parquet: which column holds images or their paths."),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of Parquet: which column holds labels."),
    ] = None,
    key_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of Parquet: which column holds keys."),
    ] = None,
    exclude: Exclude = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: every n-th image from the i-th on, for job arrays.")
    ] = None,
    engine: Annotated[
        EngineName, typer.Option(help="local: this machine. ray: a Ray cluster.")
    ] = EngineName.LOCAL,
    ray_address: Annotated[
        str | None,
        typer.Option(help="The cluster, host:port; default: RAY_ADDRESS, or Ray on this machine."),
    ] = None,
    actors: Annotated[
        int | None, typer.Option(min=1, help="Ray: encoders at once; default: all that fit.")
    ] = None,
    actor_cpus: Annotated[int, typer.Option(min=1, help="Ray: CPUs of an encoder.")] = 1,
    actor_gpus: Annotated[int, typer.Option(min=0, help="Ray: GPUs of an encoder.")] = 0,
    as_json: Json = False,
) -> None:
    """Embed all images of a source into Parquet files.

    Can be stopped at any time and continued with --resume. Images that cannot be used are listed
    in the folder's errors table; then the exit code is 1.

    Example: lookalike extract encoder.onnx photos/ --out features/

    Every night: lookalike extract encoder.onnx photos/ --out features/ --update

    On a cluster: lookalike extract encoder.onnx s3://photos --out features/ --engine ray
    """
    from export.encoder_file.encoder_file import open_encoder
    from images.sources.parquet_columns import ColumnNames
    from images.sources.sources import open_source

    if update and shard is not None:
        message = "--update does not go with --shard: a new image would move others to other shards"
        raise typer.BadParameter(message)
    remote = None
    if engine is EngineName.RAY:
        if isolate or thumbnails:
            raise typer.BadParameter("--isolate and --thumbnails do not go with --engine ray")
        if max_pixels != MAX_PIXELS:
            raise typer.BadParameter("--max-pixels does not go with --engine ray")
        from serving.extraction.ray_engine import RayEngine

        remote = RayEngine(address=ray_address, actors=actors, cpus=actor_cpus, gpus=actor_gpus)
    # A session of one thread: each core encodes by itself what it has decoded.
    opened = open_encoder(encoder, threads=1)
    images = open_source(
        source,
        labels=labels,
        exclude=exclude or (),
        shard=shard,
        label_from=label_from,
        columns=ColumnNames(image=image_column, label=label_column, key=key_column),
    )
    with ExitStack() as stack:
        target = None
        if collection is not None:
            from serving.collection import open_collection

            target = stack.enter_context(open_collection(collection, load_index=False))
        report = _extract(
            opened,
            images,
            out,
            thumbnails=thumbnails,
            npy=npy,
            collection=target,
            resume=resume,
            update=update,
            limit=limit,
            batch_size=batch_size,
            dtype=dtype,
            max_errors=max_errors,
            max_pixels=max_pixels,
            isolate=isolate,
            engine=remote,
        )
    if as_json:
        print_json(report.to_dict())
    if report.refused:
        raise typer.Exit(1)


def _extract(encoder: Encoder, images: Source, out: Path, **options: Any) -> ExtractReport:
    """Run an extraction with a progress bar, and print a summary on stderr."""
    from base.progress import progress_bar
    from serving.cli.tables import print_extracted, print_refused
    from serving.extraction.extract import extract as run
    from serving.extraction.report import TooManyRefused

    option = "--update" if options["update"] else "--resume"
    hint = f"what is finished stays in {out}; continue with {option}"
    try:
        with hint_when_stopped(hint), progress_bar("extracting") as on_progress:
            report = run(encoder, images, out, on_progress=on_progress, **options)
    except TooManyRefused as error:
        print_refused(error.count, error.first)
        raise
    print_extracted(report)
    if report.refused:
        print_refused(report.refused, report.first_refused, f"{out}/errors/*.parquet")
    return report


@app.command()
def serve(
    *,
    encoder: EncoderFile,
    collection: Annotated[
        str | None,
        typer.Argument(
            help="A collection: a folder or milvus:// URL; without one, only embeddings are served."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 3000,
    api_key: Annotated[
        str | None,
        typer.Option(help="Key that every request must carry. Shown by ps: better in a file."),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File of such keys, one a line; read again when it changes.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen on a public address without a key.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that share the work; default: 1.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of each worker's encoder; default: its share of CPUs."),
    ] = None,
) -> None:
    """Serve embeddings and search over HTTP, with a web page.

    Example: lookalike serve encoder.onnx shop/
    """
    from base.errors import UsageError
    from serving.collection.contract.locations import location_of
    from serving.http.server.server import serve as run

    if encoder.is_dir() and collection is not None and Path(collection).is_file():
        raise UsageError(
            f"the encoder file comes first, the collection second: "
            f"lookalike serve {collection} {encoder}"
        )
    run(
        encoder,
        None if collection is None else location_of(collection),
        host=host,
        port=port,
        api_key=api_key,
        api_key_file=api_key_file,
        insecure=insecure,
        workers=workers,
        threads=threads,
    )

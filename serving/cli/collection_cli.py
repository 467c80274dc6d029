"""The commands that make and fill a collection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli.options import (
    AnyLocation,
    Directory,
    Dtype,
    IndexKind,
    Json,
    Latency,
    Limit,
    Memory,
    OnDuplicate,
    OwnEncoder,
    hint_when_stopped,
    index_limits,
    print_json,
)

if TYPE_CHECKING:
    from serving.collect import CollectReport
    from serving.collection import AnyCollection

app = typer.Typer(
    no_args_is_help=True, help="Make, fill and search a collection: items kept safe on the disk."
)


@app.command()
def create(
    *,
    directory: Annotated[
        str,
        typer.Argument(
            metavar="COLLECTION",
            help="A folder that is new or empty, or milvus://host:19530/name.",
        ),
    ],
    encoder: Annotated[Path, typer.Option(help="The encoder whose embeddings it will hold.")],
    recall: Annotated[
        float, typer.Option(help="Share of the 10 nearest that searches must find; 1: all, always.")
    ] = 0.99,
    memory: Memory = None,
    latency: Latency = None,
    index: IndexKind = None,
    dtype: Annotated[
        Dtype, typer.Option(help="How vectors are stored; float16 takes half the space.")
    ] = Dtype.FLOAT32,
    as_json: Json = False,
) -> None:
    """Make an empty collection, bound to an encoder.

    Example: lookalike collection create shop/ --encoder encoder.onnx
    """
    from export.encoder_file.encoder_file import describe
    from serving.cli.tables import print_facts
    from serving.collection import create_collection

    facts = describe(encoder)
    dim = facts["contract"]["embedding_dim"]
    limits = index_limits(memory, latency, index)
    with create_collection(
        directory,
        facts["sha256"],
        dim,
        encoder_path=encoder,
        recall=recall,
        dtype=dtype.value,
        **limits,
    ) as collection:
        stats = collection.stats()
    if as_json:
        print_json(stats)
    else:
        print_facts(stats)


@app.command()
def add(
    *,
    directory: AnyLocation,
    source: Annotated[str, typer.Argument(help="A feature folder, an export, or images to embed.")],
    encoder: OwnEncoder = None,
    on_duplicate: Annotated[
        OnDuplicate, typer.Option(help="If a key is there already.")
    ] = OnDuplicate.REFUSE,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Add the items of a feature folder, or of images that are embedded on the way.

    Example: lookalike collection add shop/ features/
    """
    from base.progress import progress_bar
    from serving.cli.tables import print_added, print_refused
    from serving.collection import open_collection

    with (
        open_collection(directory, load_index=False) as collection,
        hint_when_stopped("what was added stays; add again with --on-duplicate replace"),
        progress_bar("adding") as on_progress,
    ):
        options: dict[str, Any] = {"on_duplicate": on_duplicate.value, "on_progress": on_progress}
        report = _add(collection, source, encoder=encoder, limit=limit, **options)
        items = len(collection)
    if as_json:
        print_json({**report.to_dict(), "items": items})
    else:
        print_added(report, items)
    if report.refused:
        print_refused(report.refused, report.first_refused)
        raise typer.Exit(1)


def _add(
    collection: AnyCollection,
    source: str,
    *,
    encoder: Path | None,
    limit: int | None,
    **options: Any,
) -> CollectReport:
    """Add a feature folder, an export or a source of images, whichever `source` is."""
    from serving.collect import add_export, add_features, add_source
    from serving.collection.exporting import is_export
    from serving.features.shards import is_feature_folder

    if is_feature_folder(source):
        from serving.features.reader import open_features

        if limit is not None:
            raise typer.BadParameter("--limit is for images; features are added as a whole")
        return add_features(collection, open_features(source), **options)
    if is_export(source):
        if limit is not None:
            raise typer.BadParameter("--limit is for images; an export is added as a whole")
        return add_export(collection, source, **options)
    from images.sources.sources import open_source
    from serving.cli.query_files import encoder_of

    images = open_source(source)
    opened = encoder_of(collection, encoder)
    return add_source(collection, opened, images, limit=limit, **options)


@app.command()
def copy(
    original: Annotated[
        str, typer.Argument(metavar="FROM", help="A folder, or milvus://host:19530/name.")
    ],
    target: Annotated[
        str,
        typer.Argument(metavar="TO", help="A new location, or that of an interrupted copy."),
    ],
    recall: Annotated[
        float | None,
        typer.Option(help="What a new TO promises; by default what FROM does. 1: always exact."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Copy a collection, from a folder to Milvus or the other way; the encoder stays bound to it.

    Stopped, the same command resumes. A TO with items that FROM does not have is refused.

    Example: lookalike collection copy shop/ milvus://host:19530/shop
    """
    from base.progress import progress_bar
    from serving.cli.tables import print_copied
    from serving.collection import open_collection
    from serving.copying import copy as run
    from serving.copying import open_target

    with (
        open_collection(original, load_index=False) as opened,
        open_target(opened, target, recall) as copied,
        hint_when_stopped("what was copied stays; the same command copies the rest"),
        progress_bar("copying") as on_progress,
    ):
        report = run(opened, copied, on_progress=on_progress)
    if as_json:
        print_json(report.to_dict())
    else:
        print_copied(report)


@app.command()
def remove(
    directory: AnyLocation,
    keys: Annotated[list[str], typer.Argument(help="Keys of the items.")],
    as_json: Json = False,
) -> None:
    """Remove items by their keys; if some were not there, the exit code is 1.

    Example: lookalike collection remove shop/ shirts/0001.jpg
    """
    from serving.collection import open_collection

    with open_collection(directory, load_index=False) as collection:
        removed = collection.remove(keys)
        items = len(collection)
    missing = [key for key in dict.fromkeys(keys) if key not in set(removed)]
    if as_json:
        print_json({"removed": removed, "missing": missing, "items": items})
    else:
        typer.echo(f"removed {len(removed)}; {items} items are left")
    if missing:
        typer.echo(f"not in the collection: {', '.join(missing)}", err=True)
        raise typer.Exit(1)


@app.command()
def tune(
    *,
    directory: Directory,
    recall: Annotated[
        float | None,
        typer.Option(help="Promise this recall@10 from now on; 1: every search is exact."),
    ] = None,
    memory: Memory = None,
    latency: Latency = None,
    index: IndexKind = None,
    as_json: Json = False,
) -> None:
    """Build the fastest index that keeps what is promised, measure it on held-out items, save it.

    Small collections are searched exactly, whatever they promise. `lookalike serve` tunes by
    itself; others can search meanwhile.

    Example: lookalike collection tune shop/ --recall 0.995
    """
    from base.progress import progress_bar
    from serving.cli.tables import print_facts
    from serving.collection import open_collection

    with open_collection(directory) as collection:
        with progress_bar("building") as on_progress:
            limits = index_limits(memory, latency, index)
            described = collection.tune(recall, on_progress=on_progress, **limits)
        facts = {"promise": collection.stats()["promise"], **described}
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)


@app.command()
def stats(directory: AnyLocation, as_json: Json = False) -> None:
    """Show what a collection holds and which encoder it belongs to.

    Example: lookalike collection stats shop/
    """
    from serving.cli.tables import print_facts
    from serving.collection import describe

    facts = describe(directory)
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)

"""The commands that maintain a collection: verify, compact, backup and others."""

import csv
import io
import sys
from pathlib import Path
from typing import Annotated, TextIO

import typer

from serving.cli.options import AnyLocation, Directory, Json, hint_when_stopped, print_json

DAMAGED = 3
DUPLICATE = 0.99


def register(app: typer.Typer) -> None:
    """Register these commands with `lookalike collection`."""
    for command in (verify, compact, backup, export, duplicates, rebuild):
        app.command()(command)


def verify(directory: Directory, as_json: Json = False) -> None:
    """Prove that a collection is whole and that its index holds what its ledger holds.

    Reads everything; others may search and write meanwhile. The exit code is 3 if there are faults;
    they are named, and so is what to do.

    Example: lookalike collection verify shop/
    """
    from base.progress import progress_bar
    from serving.collection.verification import verify as run

    with progress_bar("verifying") as on_progress:
        verification = run(directory, on_progress=on_progress)
    if as_json:
        print_json(verification.to_dict())
    elif not verification.faults:
        index = "no index is kept" if verification.snapshot == "none" else "the index agrees"
        typer.echo(f"whole: {verification.items} items, {index}")
    else:
        for fault in verification.messages:
            typer.echo(fault)
        typer.echo(f"{verification.faults} faults; {verification.remedy}", err=True)
    if verification.faults:
        raise typer.Exit(DAMAGED)


def compact(directory: Directory, as_json: Json = False) -> None:
    """Free the space of removed items, and rebuild the index without them.

    Example: lookalike collection compact shop/
    """
    from base.progress import progress_bar
    from serving.collection import open_collection

    with open_collection(directory) as collection, progress_bar("building") as on_progress:
        report = collection.compact(on_progress=on_progress)
    if as_json:
        print_json(report)
    else:
        before, after = (report[name] / 2**20 for name in ("before", "after"))
        typer.echo(f"{before:.1f} MiB before, {after:.1f} MiB now")


def backup(
    directory: Directory,
    destination: Annotated[Path, typer.Argument(help="A folder that is new or empty.")],
    as_json: Json = False,
) -> None:
    """Copy a collection as it is now, while others search and write; then verify the copy.

    The copy is a collection like any other; it makes its index when it is tuned or served.

    Example: lookalike collection backup shop/ /mnt/backup/shop-monday
    """
    from serving.collection import open_collection
    from serving.collection.verification import verify as check

    with open_collection(directory, load_index=False) as collection:
        collection.back_up(destination)
    verification = check(destination)
    if as_json:
        print_json({"destination": str(destination), **verification.to_dict()})
    else:
        state = (
            "whole"
            if not verification.faults
            else f"{verification.faults} faults: {verification.messages[0]}"
        )
        typer.echo(f"{verification.items} items in {destination}, {state}")
    if verification.faults:
        raise typer.Exit(DAMAGED)


def export(
    directory: AnyLocation,
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    as_json: Json = False,
) -> None:
    """Write all items with their embeddings to a Parquet file; `collection add` takes it back.

    Example: lookalike collection export shop/ --out shop.parquet
    """
    from base.progress import progress_bar
    from serving.collection import open_collection
    from serving.collection.exporting import export_parquet

    with (
        open_collection(directory, load_index=False) as collection,
        progress_bar("exporting") as on_progress,
    ):
        items = export_parquet(collection, out, on_progress=on_progress)
    if as_json:
        print_json({"out": str(out), "items": items})
    else:
        typer.echo(f"{items} items in {out}")


def duplicates(
    directory: AnyLocation,
    threshold: Annotated[
        float, typer.Option(help="Cosine similarity from which two items are the same picture.")
    ] = DUPLICATE,
    out: Annotated[
        Path | None, typer.Option(help="Write a CSV file: keep, duplicate, score, uri.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find groups of near-duplicates: the same image resized, recompressed, slightly cropped.

    Nothing is removed. Of each group the largest image is to be kept. What a threshold means
    depends on the encoder: look at some groups, then raise or lower it.

    Example: lookalike collection duplicates shop/ --out duplicates.csv
    """
    from base.progress import progress_bar
    from serving.collection import open_collection
    from serving.collection.duplicates import find_duplicates

    with (
        open_collection(directory) as collection,
        hint_when_stopped("nothing was changed"),
        progress_bar("comparing") as on_progress,
    ):
        groups = find_duplicates(collection, threshold, on_progress=on_progress)
    superfluous = sum(len(group.duplicates) for group in groups)
    rows = [
        (group.key, item.key, item.score, item.uri) for group in groups for item in group.duplicates
    ]
    if as_json:
        print_json({"threshold": threshold, "groups": [group.to_dict() for group in groups]})
    elif out is None:
        _write_rows(sys.stdout, rows)
    if out is not None:
        from base.files import write_bytes_atomic

        text = io.StringIO(newline="")
        _write_rows(text, rows)
        write_bytes_atomic(out, text.getvalue().encode())
    typer.echo(f"{superfluous} duplicates in {len(groups)} groups", err=True)


def rebuild(
    directory: Directory,
    encoder: Annotated[Path, typer.Option(help="The new encoder file.")],
    drop_unreadable: Annotated[
        bool, typer.Option("--drop-unreadable", help="Remove items whose picture cannot be read.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Switch a collection to another encoder: embed the image of every item again.

    Searches use the old vectors until all new ones are there; interrupted, the same command
    resumes. If images cannot be read, nothing is switched, unless --drop-unreadable is given.

    Example: lookalike collection rebuild shop/ --encoder better.onnx
    """
    from base.progress import progress_bar
    from export.encoder_file.encoder_file import open_encoder
    from serving.cli.tables import print_refused
    from serving.rebuild import rebuild as run

    with (
        hint_when_stopped("what is embedded stays; continue with the same command"),
        progress_bar("embedding") as on_progress,
    ):
        report = run(
            directory,
            open_encoder(encoder),
            drop_unreadable=drop_unreadable,
            on_progress=on_progress,
        )
    if as_json:
        print_json(report.to_dict())
    elif report.done:
        typer.echo(f"{report.items - report.refused} items are of {encoder} now")
    if report.refused:
        print_refused(report.refused, report.first_refused)
        if not report.done:
            typer.echo("nothing was switched over; remove them, or use --drop-unreadable", err=True)
        raise typer.Exit(1)


def _write_rows(file: TextIO, rows: list[tuple[str, str, float, str]]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("keep", "duplicate", "score", "uri"))
    writer.writerows(rows)

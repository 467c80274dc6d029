"""`lookalike demo`: from images to a served search, in minutes on two CPU cores.

Trains an encoder on the 60,000 training images of Fashion-MNIST without looking at a label,
exports and verifies it, puts 10,000 of the images into a collection, and measures what the
encoder is worth: every test image is a query for its own kind, once as it is and once as a user's
camera would have taken it. Each stage is the command a user would type, shown before it runs, in a
process of its own. `report.json` says what is done: a second run resumes where the first ended.
"""

from __future__ import annotations

import json
import resource
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from base.errors import LookalikeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]  # [N,S,S,3]
    Labels = NDArray[np.int64]  # [N]
    Vectors = NDArray[np.float32]  # [N,D]
    Report = dict[str, Any]

GALLERY, QUERIES = "fashion-mnist:train", "fashion-mnist:test"
TRAINING_OPTIONS = ("--recipe", "grey-cpu")
COLLECTION_SIZE = 10_000
VOTERS = 20  # of the kNN accuracy: the collection holds about 1,000 images of each kind
PRECISION_AT = 10
BATCH_SIZE = 500  # images embedded at once
DRAWN = 6  # neighbors of a query in the image
TRAINED, UNTRAINED, PIXELS = "trained", "untrained", "raw pixels"

app = typer.Typer()


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("demo-run"),
    serve: Annotated[bool, typer.Option(help="Stay and serve the web page at the end.")] = True,
    host: Annotated[str, typer.Option(help="Address the page is served on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port the page is served on.")] = 3000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON too.")] = False,
) -> None:
    """Train, export, extract, collect, search and serve on real images.

    Example: lookalike demo --no-serve
    """
    report = read_report(out)
    for name, command in stages(out).items():
        if name not in report["seconds"]:
            with timed(report, out, name):
                run_command(command)
    if not report["quality"]:
        with timed(report, out, "measure"):
            report["quality"] = measure(out)
    print_report(report, out)
    if as_json:
        typer.echo(json.dumps(report))
    if serve:
        address = ["--host", host, "--port", str(port)]
        run_command(["serve", f"{out / 'encoder.onnx'}", f"{out / 'collection'}", *address])


# --- the stages ----------------------------------------------------------------------------------


def stages(out: Path) -> dict[str, list[str]]:
    """Return the command of every stage by its name; interrupted work is resumed."""
    run, encoder, features = f"{out / 'run'}", f"{out / 'encoder.onnx'}", f"{out / 'features'}"
    collection, limit = f"{out / 'collection'}", ["--limit", str(COLLECTION_SIZE)]
    commands = {
        "train": ["train", GALLERY, *TRAINING_OPTIONS, "--out", run],
        "export": ["export", run, "--out", encoder],
        "verify": ["verify", encoder, run, QUERIES],
        "extract": ["extract", encoder, GALLERY, "--out", features, *limit],
        "create": ["collection", "create", collection, "--encoder", encoder],
        "add": ["collection", "add", collection, features, "--on-duplicate", "replace"],
    }
    if (out / "run" / "checkpoint.pt").exists():
        commands["train"].append("--resume")
    if (out / "features").exists():
        commands["extract"].append("--resume")
    if (out / "collection" / "ledger.db").exists():
        del commands["create"]
    return commands


def run_command(arguments: list[str]) -> None:
    """Show a command and run it in a process of its own, which prints on this terminal.

    Ctrl-C reaches that process from the terminal, and SIGTERM is handed on: it ends in its own
    time, with its work kept.

    Raises:
        typer.Exit: it failed or was stopped, with its exit code; it has said why itself.
    """
    print(f"\n$ lookalike {shlex.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "lookalike", *arguments]
    with subprocess.Popen(command) as process:  # noqa: S603 - our own command line
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        while process.poll() is None:
            with suppress(KeyboardInterrupt):
                process.wait()
        signal.signal(signal.SIGTERM, before)
    if process.returncode:
        raise typer.Exit(process.returncode)


@contextmanager
def timed(report: Report, out: Path, name: str) -> Iterator[None]:
    """Write to disk that a stage is done, and how many seconds and how much memory it took."""
    from base.files import write_json_atomic

    started = time.perf_counter()
    yield
    report["seconds"][name] = round(time.perf_counter() - started, 1)
    processes = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    peak = max(resource.getrusage(which).ru_maxrss for which in processes)
    report["peak_memory_mib"] = max(report["peak_memory_mib"], peak // 1024)
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomic(out / "report.json", report)


def read_report(out: Path) -> Report:
    """Read what an earlier run has done; an empty report if there was none."""
    path = out / "report.json"
    if not path.exists():
        return {"seconds": {}, "quality": {}, "peak_memory_mib": 0}
    try:
        report: Report = json.loads(path.read_bytes())
    except ValueError as error:
        raise LookalikeError(f"{path} is damaged; remove {out} and start again") from error
    return report


# --- what the encoder is worth -------------------------------------------------------------------


def measure(out: Path) -> dict[str, dict[str, float]]:
    """Measure three ways to compare images on plain and camera queries, and draw neighbors.

    Returns:
        Percentages by way of comparing; every test image is a query, the collection the gallery.
    """
    import numpy as np

    from images.pixels.contact_sheet import Block, draw_neighbors
    from training.protocols.camera import camera_queries
    from training.protocols.knn import knn_accuracy
    from training.protocols.retrieval import precision_at_k

    gallery, gallery_labels, classes = load(GALLERY, COLLECTION_SIZE)
    plain, labels, _ = load(QUERIES)
    queries = {"plain": plain, "camera": camera_queries(plain)}
    drawn = [int(np.flatnonzero(labels == kind)[0]) for kind in range(len(classes))]
    blocks: dict[str, Block] = {}
    quality: dict[str, dict[str, float]] = {}
    for name, embed in embedders(out).items():
        gallery_vectors, quality[name] = embed(gallery), {}
        for kind, images in queries.items():
            vectors = embed(images)
            sides = (vectors, labels, gallery_vectors, gallery_labels)
            quality[name][f"knn_{kind}"] = 100 * knn_accuracy(*sides, k=VOTERS)
            quality[name][f"precision_{kind}"] = 100 * precision_at_k(*sides, k=PRECISION_AT)
            if name == TRAINED:
                nearest = (-vectors[drawn] @ gallery_vectors.T).argsort(axis=1)[:, :DRAWN]
                same = gallery_labels[nearest] == labels[drawn, None]
                blocks[f"{kind} query"] = (images[drawn], gallery[nearest], same)
    draw_neighbors(out / "neighbours.png", classes, blocks)
    return quality


def embedders(out: Path) -> dict[str, Callable[[Pixels], Vectors]]:
    """Return the ways to turn images into vectors of length 1, by name."""
    import torch

    from export.encoder_file.batches import encode_in_batches
    from export.encoder_file.encoder_file import open_encoder
    from training.models.features import encode
    from training.recipes.build_model import build_model
    from training.recipes.recipe_files import load_recipe

    trained = open_encoder(out / "encoder.onnx")
    recipe = load_recipe(out / "run" / "recipe.toml")
    untrained = build_model(recipe, torch.device("cpu")).encoder
    mean, std = recipe.data.mean, recipe.data.std
    return {
        TRAINED: lambda images: encode_in_batches(
            lambda batch: (trained.encode(batch),), images, BATCH_SIZE
        )[0],
        UNTRAINED: lambda images: unit(encode(untrained, images, mean=mean, std=std)),
        # gray images: the channels are equal
        PIXELS: lambda images: unit(images[..., 0].reshape(len(images), -1)),
    }


def unit(vectors: NDArray[Any]) -> Vectors:
    """Scale each row to length 1; a row of zeros stays."""
    import numpy as np

    lengths = np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)
    return (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def load(source: str, limit: int | None = None) -> tuple[Pixels, Labels, tuple[str, ...]]:
    """Read the images of a labeled source.

    Returns:
        uint8 [N,S,S,3]; int64 [N], indices into the classes; the classes' names.
    """
    import numpy as np

    from images.pixels.preprocess import PreprocessSpec, load_image
    from images.sources.sources import open_source

    opened = open_source(source)
    items = list(islice(opened, limit))
    as_stored = PreprocessSpec(size=28)
    images = np.stack([load_image(item.read(), as_stored)[0] for item in items])
    labels = np.array([opened.classes.index(item.label or "") for item in items])
    return images, labels, opened.classes


# --- what is shown -------------------------------------------------------------------------------


def print_report(report: Report, out: Path) -> None:
    """Print the seconds of each stage and the quality table."""
    from rich.console import Console
    from rich.table import Table

    seconds = Table(title="Seconds per step")
    seconds.add_column("step")
    seconds.add_column("seconds", justify="right")
    for name, value in report["seconds"].items():
        seconds.add_row(name, f"{value:.1f}")
    seconds.add_row("together", f"{sum(report['seconds'].values()):.1f}", style="bold")

    quality = Table(title=f"Queries among {COLLECTION_SIZE:,} pictures, percent of the same kind")
    quality.add_column("compared by")
    for measured in ("kNN", f"P@{PRECISION_AT}"):
        for kind in ("plain", "camera"):
            quality.add_column(f"{measured} {kind}", justify="right")
    for name, figures in report["quality"].items():
        columns = ("knn_plain", "knn_camera", "precision_plain", "precision_camera")
        quality.add_row(name, *(f"{figures[column]:.1f}" for column in columns))
    console = Console()
    console.print()
    console.print(seconds)
    console.print(quality)
    console.print(
        "Every test picture is a query: plain, and as a camera would take it (shifted,\n"
        f"zoomed, turned, mirrored, re-lit). kNN: the {VOTERS} nearest vote; "
        f"P@{PRECISION_AT}: of the {PRECISION_AT} nearest."
    )
    console.print(f"Peak memory of a step: {report['peak_memory_mib']:,} MiB")
    console.print(f"Queries and their neighbors: {out / 'neighbours.png'}")

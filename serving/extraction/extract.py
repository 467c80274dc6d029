"""Batch extraction: a whole source to a feature folder, every item exactly once.

The source is cut into shards by the items' numbers alone. So a run that was killed knows from the
manifest which shards are finished, passes over their items without reading them, and makes the
others; the result is the one an unbroken run would have made. The manifest's digest over each
shard's keys and uris proves that the source still lists what it listed.

A folder may later be brought up to date with a source that has changed (`update_plan`).
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime
import PIL
import pyarrow as pa

from base.cpus import available_cpus
from base.errors import LookalikeError, UsageError
from base.files import fsync_directory
from base.locks import Locked, folder_lock
from base.text import printable
from images.pixels.decode import DEFAULT_MAX_PIXELS
from images.pixels.isolated import Isolated
from images.pixels.preprocess import load_image
from serving.collection.thumbnails import kept_thumbnail
from serving.embedding.embed import BATCH_SIZE
from serving.extraction.engine import LocalEngine
from serving.extraction.extraction import Extraction
from serving.extraction.prepare import prepare_folder
from serving.features.manifest import DTYPES, Manifest, SourceNote

if TYPE_CHECKING:
    from base.progress import OnProgress
    from export.encoder_file.encoder_file import Encoder
    from images.items import Source
    from serving.collection import AnyCollection
    from serving.extraction.collection_sink import CollectionSink
    from serving.extraction.engine import ExtractionEngine
    from serving.extraction.report import ExtractReport

SHARD_ITEMS = 4096
_URL = re.compile(r"[A-Za-z][A-Za-z0-9.+-]+:/")  # a Path has made one slash of two


def extract(
    encoder: Encoder,
    source: Source,
    out: str | Path,
    *,
    resume: bool = False,
    update: bool = False,
    limit: int | None = None,
    batch_size: int = BATCH_SIZE,
    shard_items: int = SHARD_ITEMS,
    dtype: str | None = None,
    max_errors: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    isolate: bool = False,
    thumbnails: bool = False,
    npy: bool = False,
    collection: AnyCollection | None = None,
    engine: ExtractionEngine | None = None,
    on_progress: OnProgress | None = None,
) -> ExtractReport:
    """Embed a source's images into a feature folder.

    Interrupted by Ctrl-C, kill -9, a full disk or a power cut, it can be continued with `resume`,
    an update with `update`.

    Args:
        encoder: an open encoder.
        source: the images.
        out: the feature folder; new or empty, unless `resume` or `update`.
        resume: keep what an earlier run finished; also fine where there was none.
        update: also do again what has changed since, add what is new, and take out what is gone.
        limit: take only the first items.
        batch_size: images the encoder gets at once.
        shard_items: items of a shard; a folder keeps what its first run had.
        dtype: of the embeddings, "float32" or "float16"; None takes the folder's, or float32.
        max_errors: stop when more images than these are refused.
        max_pixels: the largest width x height of an image.
        isolate: decode in processes of their own (`images.pixels.isolated`).
        thumbnails: also keep small images of the images.
        npy: also write all embeddings as one array (`features.arrays`).
        collection: also add the images to this collection, shard by shard.
        engine: embeds the images; None is this machine, `ray_engine.RayEngine` a cluster.
        on_progress: called with the items done and all items.

    Raises:
        UsageError: the folder holds something or is a URL, a number is unusable, or `isolate` or
            `thumbnails` are to be done on other machines.
        ArtifactError: what is to be resumed is of another encoder or source, or not a feature
            folder.
        TooManyRefused: more than `max_errors`; what is finished is kept.
        LookalikeError: another process works on the folder, or the disk fails.
    """
    _check_numbers(
        {"limit": limit, "batch size": batch_size, "shard": shard_items, "max pixels": max_pixels}
    )
    if dtype not in (None, *DTYPES):
        raise UsageError(f"dtype is {dtype}; choose {' or '.join(DTYPES)}")
    if engine is not None and engine.remote and (isolate or thumbnails):
        raise UsageError("isolate and thumbnails need images that are read on this machine")
    if _URL.match(str(out)):
        raise UsageError(
            f"--out {out} is a URL; extract into a folder of this machine, then copy it there, as "
            "with aws s3 cp --recursive, gsutil cp -r or fsspec"
        )
    folder = _made_folder(Path(out))
    fresh = Manifest(
        encoder_sha256=encoder.digest,
        preprocess_sha256=encoder.preprocess.digest,
        embedding_dim=encoder.embedding_dim,
        source=_note(source, limit),
        shard_items=shard_items,
        created_with=_versions(),
        dtype=dtype or DTYPES[0],
        thumbnails=thumbnails,
    )
    try:
        with folder_lock(folder), ExitStack() as stack:
            sink = None if collection is None else _sink(collection, folder, encoder)
            manifest = prepare_folder(folder, fresh, dtype, resume=resume, update=update)
            if sink is not None:
                sink.begin((item.key for item in islice(source, limit)), update=update)
            if isolate:
                isolated = stack.enter_context(
                    Isolated(encoder.preprocess, available_cpus(), max_pixels=max_pixels)
                )
                engine = LocalEngine(load=isolated.load)
            extraction = Extraction(
                encoder=encoder,
                source=source,
                folder=folder,
                manifest=manifest,
                engine=engine or LocalEngine(load=partial(load_image, max_pixels=max_pixels)),
                batch_size=batch_size,
                npy=npy,
                sink=sink,
                thumbnailer=(
                    partial(kept_thumbnail, spec=encoder.preprocess, max_pixels=max_pixels)
                    if manifest.thumbnails
                    else None
                ),
                max_errors=max_errors,
                on_progress=on_progress or (lambda _done, _total: None),
            )
            return extraction.run(fresh, update=update)
    except Locked as locked:
        raise LookalikeError(
            f"process {locked.holder or '?'} is extracting into {folder}; give another folder, or "
            "wait until it is done"
        ) from locked


def _check_numbers(numbers: dict[str, int | None]) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise UsageError(f"{name} is {number}; at least 1 is needed")


def _made_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fsync_directory(folder.parent)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error
    return folder


def _note(source: Source, limit: int | None) -> SourceNote:
    items = len(source) if limit is None else min(len(source), limit)
    return SourceNote(name=printable(source.name), items=items, limit=limit)


def _sink(collection: AnyCollection, folder: Path, encoder: Encoder) -> CollectionSink:
    from serving.extraction.collection_sink import CollectionSink  # imports the collections' index

    return CollectionSink(collection, folder, encoder.digest)


def _versions() -> dict[str, str]:
    packages = {"onnxruntime": onnxruntime, "pyarrow": pa, "pillow": PIL}
    return {
        "lookalike": version("lookalike"),
        **{name: str(module.__version__) for name, module in packages.items()},
    }

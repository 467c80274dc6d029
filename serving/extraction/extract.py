"""Batch extraction: a whole source to a feature folder, every item exactly once.

The source is cut into shards by the items' numbers alone. So a run that was killed knows from the
manifest which shards are finished, passes over their items without reading them, and makes the
others; the result is the one an unbroken run would have made. The manifest's digest over each
shard's keys and uris proves that the source still lists what it listed.

A folder may later be brought up to date with a source that has changed (`update`).
"""

from __future__ import annotations

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
from images.pixels.isolated import Isolated
from images.sources.paths import printable
from serving.collection.thumbnails import kept_thumbnail
from serving.embedding.embed import BATCH_SIZE, embed
from serving.extraction.begin import begin
from serving.extraction.work import ExtractReport, Work
from serving.features.manifest import DTYPES, Manifest, SourceNote

if TYPE_CHECKING:
    from export.encoder_file.encoder_file import Encoder
    from images.items import Source
    from serving.collection import AnyCollection
    from serving.extraction.collection_sink import Into
    from serving.extraction.run import Engine, Progress

SHARD_ITEMS = 4096


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
    isolate: bool = False,
    thumbnails: bool = False,
    npy: bool = False,
    into: AnyCollection | None = None,
    engine: Engine = embed,
    progress: Progress | None = None,
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
        isolate: decode in processes of their own (`images.pixels.isolated`).
        thumbnails: also keep small images of the images.
        npy: also write all embeddings as one array (`arrays`).
        into: also add the images to this collection, shard by shard.
        engine: does the work; `ray_engine.ray_embed` on a cluster.
        progress: is told how far the work is.

    Raises:
        UsageError: the folder holds something, or a number is unusable.
        ArtifactError: what is to be resumed is of another encoder or source, or no feature folder.
        TooManyRefused: more than `max_errors`; what is finished is kept.
        LookalikeError: another process works on the folder, or the disk fails.
    """
    for name, number in {"limit": limit, "batch size": batch_size, "shard": shard_items}.items():
        if number is not None and number < 1:
            raise UsageError(f"{name} is {number}; at least 1 is needed")
    if dtype not in (None, *DTYPES):
        raise UsageError(f"dtype is {dtype}; choose {' or '.join(DTYPES)}")
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fsync_directory(folder.parent)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error
    items = len(source) if limit is None else min(len(source), limit)
    wanted = Manifest(
        encoder_sha256=encoder.digest,
        preprocess_sha256=encoder.preprocess.digest,
        embedding_dim=encoder.embedding_dim,
        source=SourceNote(name=printable(source.name), items=items, limit=limit),
        shard_items=shard_items,
        created_with=_versions(),
        dtype=dtype or DTYPES[0],
        thumbnails=thumbnails,
    )
    try:
        with folder_lock(folder), ExitStack() as stack:
            target = None if into is None else _open_into(into, folder, encoder)
            manifest = begin(folder, wanted, dtype, resume=resume, update=update)
            if target is not None:
                target.begin((item.key for item in islice(source, limit)), update=update)
            elsewhere = engine is not embed
            if isolate:
                apart = stack.enter_context(Isolated(encoder.preprocess, available_cpus()))
                engine = partial(engine, load=apart.load)
            shown = None
            if manifest.thumbnails:
                shown = partial(kept_thumbnail, spec=encoder.preprocess)
            work = Work(
                encoder, source, folder, wanted, engine, elsewhere, batch_size, npy, target, shown
            )
            return work.run(manifest, update=update, max_errors=max_errors, progress=progress)
    except Locked as locked:
        raise LookalikeError(
            f"process {locked.holder or '?'} is extracting into {folder}; give another folder, or "
            "wait until it is done"
        ) from locked


def _open_into(collection: AnyCollection, folder: Path, encoder: Encoder) -> Into:
    from serving.extraction.collection_sink import Into  # which brings the collections' index along

    return Into(collection, folder, encoder.digest)


def _versions() -> dict[str, str]:
    packages = {"onnxruntime": onnxruntime, "pyarrow": pa, "pillow": PIL}
    return {
        "lookalike": version("lookalike"),
        **{name: str(module.__version__) for name, module in packages.items()},
    }

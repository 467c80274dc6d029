"""Batch extraction: a whole source to a feature folder, every item exactly once.

The source is cut into shards by the items' numbers alone. So a run that was killed knows from the
manifest which shards are finished, passes over their items without reading them, and makes the
others; the result is the one an unbroken run would have made. The manifest's digest over each
shard's keys and uris proves that the source still lists what it listed.

A folder may later be brought up to date with a source that has changed (``update``).
"""

import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime
import PIL
import pyarrow as pa

from export.encoder_file import Encoder
from images.cpus import available_cpus
from images.errors import ArtefactError, LookalikeError, UsageError
from images.files import fsync_directory
from images.isolated import Isolated
from images.items import Source
from images.paths import printable
from serving.arrays import arrays_are_whole, write_arrays
from serving.embed import BATCH_SIZE, Seconds, embed
from serving.extract_begin import begin
from serving.extract_run import FIRST_REFUSED, Engine, Progress, Run, Task
from serving.feature_manifest import DTYPES, FORMAT_VERSION, Manifest, Shard, SourceNote
from serving.feature_shards import items_digest, write_shard
from serving.features import Features
from serving.kept_thumbnails import kept_thumbnail
from serving.locks import Locked, folder_lock
from serving.outcomes import Outcome, Refused
from serving.tracked import Stamper, Thumbnailer, Tracked
from serving.update import Changes, Update

if TYPE_CHECKING:
    from serving.collection import AnyCollection
    from serving.into import Collected, Into

SHARD_ITEMS = 4096


@dataclass(frozen=True, kw_only=True)
class ExtractReport:
    """What a run did.

    Attributes:
        out: the feature folder.
        items: items of the source.
        rows: images with an embedding, of this run and earlier ones.
        refused: images without one.
        resumed: items that an earlier run had finished, or that an update did not look at.
        elapsed: seconds by the clock.
        images_per_second: items of this run over ``elapsed``.
        seconds: where the time went.
        changes: what an update found; None where there was none.
        collected: what went into a collection; None where none was given.
        first_refused: the first of the refused.
    """

    out: Path
    items: int
    rows: int
    refused: int
    resumed: int
    elapsed: float
    images_per_second: float
    seconds: Seconds
    changes: Changes | None = None
    collected: "Collected | None" = None
    first_refused: list[Refused] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The report, ready for JSON."""
        return {**asdict(self), "out": str(self.out)}


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
    into: "AnyCollection | None" = None,
    engine: Engine = embed,
    progress: Progress | None = None,
) -> ExtractReport:
    """Embed a source's images into a feature folder.

    Interrupted by Ctrl-C, kill -9, a full disk or a power cut, it can be continued with ``resume``,
    an update with ``update``.

    Args:
        encoder: an open encoder.
        source: the images.
        out: the feature folder; new or empty, unless ``resume`` or ``update``.
        resume: keep what an earlier run finished; also fine where there was none.
        update: also do again what has changed since, add what is new, and take out what is gone.
        limit: take only the first items.
        batch_size: images the encoder gets at once.
        shard_items: items of a shard; a folder keeps what its first run had.
        dtype: of the embeddings, "float32" or "float16"; None takes the folder's, or float32.
        max_errors: stop when more images than these are refused.
        isolate: decode in processes of their own (``images.isolated``).
        thumbnails: also keep small pictures of the images.
        npy: also write all embeddings as one array (``arrays``).
        into: also add the images to this collection, shard by shard.
        engine: does the work; ``ray_engine.ray_embed`` on a cluster.
        progress: is told how far the work is.

    Raises:
        UsageError: the folder holds something, or a number is unusable.
        ArtefactError: what is to be resumed is of another encoder or source, or no feature folder.
        TooManyRefused: more than ``max_errors``; what is finished is kept.
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
            work = _Work(
                encoder, source, folder, wanted, engine, elsewhere, batch_size, npy, target, shown
            )
            return work.run(manifest, update=update, max_errors=max_errors, progress=progress)
    except Locked as locked:
        raise LookalikeError(
            f"process {locked.holder or '?'} is extracting into {folder}; give another folder, or "
            "wait until it is done"
        ) from locked


def _open_into(collection: "AnyCollection", folder: Path, encoder: Encoder) -> "Into":
    from serving.into import Into  # which brings the collections' index along

    return Into(collection, folder, encoder.digest)


def _versions() -> dict[str, str]:
    packages = {"onnxruntime": onnxruntime, "pyarrow": pa, "pillow": PIL}
    return {
        "lookalike": version("lookalike"),
        **{name: str(module.__version__) for name, module in packages.items()},
    }


@dataclass(frozen=True)
class _Work:
    """What is embedded, and where to."""

    encoder: Encoder
    source: Source
    folder: Path
    wanted: Manifest
    engine: Engine
    elsewhere: bool  # the engine reads on other machines, and tells no stamps
    batch_size: int
    npy: bool
    into: "Into | None"
    thumbnail: Thumbnailer | None

    def run(
        self,
        manifest: Manifest,
        *,
        update: bool,
        max_errors: int | None,
        progress: Progress | None,
    ) -> ExtractReport:
        """Finish a folder and say what was done."""
        start = time.perf_counter()
        plan = self._plan(manifest) if update else None
        if plan is not None and plan.needed:
            manifest = replace(
                manifest,
                version=FORMAT_VERSION,
                source=replace(self.wanted.source, items=plan.items),
                created_with=self.wanted.created_with,
                updates=manifest.updates + (not manifest.updating),
                updating=True,
            )
            manifest.write(self.folder)
        done = resumed = sum(shard.items for shard in manifest.shards)
        total = manifest.source.items
        refused = manifest.errors
        tasks = self._unfinished(manifest)
        if plan is not None:
            done, resumed = plan.unread, plan.changes.kept
            total, refused = plan.items, plan.refused
            tasks = plan.tasks()
        run = Run(
            self.encoder,
            self.folder,
            manifest,
            engine=self.engine,
            refused=refused,
            max_errors=max_errors,
            listener=None if self.into is None else self.into.take,
            progress=progress,
        )
        with closing(tasks):
            run.carry_out(tasks, self.batch_size, done=done, total=total)
        manifest = self._finished(run.manifest)
        return self._report(start, manifest, run, resumed, plan.changes if plan else None)

    def _finished(self, manifest: Manifest) -> Manifest:
        """What is made of the shards once they are all there."""
        done = replace(manifest, updating=False)
        wanted = self.npy or manifest.arrays is not None
        if wanted and (manifest.updating or not arrays_are_whole(self.folder, manifest)):
            done = replace(done, arrays=write_arrays(self.folder, done))
        if done != manifest:
            done.write(self.folder)
        if self.into is not None:
            self.into.finish(done)
        return done

    def _plan(self, manifest: Manifest) -> Update | None:
        """What an update has to do; None where nothing is finished that could be compared."""
        if not manifest.shards:
            return None
        features = Features(self.folder, manifest)
        limit = manifest.source.limit
        return Update(
            features,
            self.source,
            limit=limit,
            thumbnail=self.thumbnail,
            at_once=self.elsewhere,
        )

    def _report(
        self, start: float, manifest: Manifest, run: Run, resumed: int, changes: Changes | None
    ) -> ExtractReport:
        elapsed = time.perf_counter() - start
        total = manifest.source.items
        return ExtractReport(
            out=self.folder,
            items=total,
            rows=manifest.rows,
            refused=manifest.errors,
            resumed=resumed,
            elapsed=elapsed,
            images_per_second=(total - resumed) / elapsed,
            seconds=run.seconds,
            changes=changes,
            collected=self.into.collected if self.into else None,
            first_refused=list(islice(Features(self.folder, manifest).errors(), FIRST_REFUSED)),
        )

    def _unfinished(self, manifest: Manifest) -> Generator[Task]:
        """The shards to be made; the items of the others are only compared."""
        finished = {shard.first_item: shard for shard in manifest.shards}
        remaining = iter(self.source)
        stamper = Stamper()
        total, size = manifest.source.items, manifest.shard_items
        for first in range(0, total, size):
            items = list(islice(remaining, min(size, total - first)))
            if len(items) < min(size, total - first):
                raise LookalikeError(f"{self.source.name} ended after {first + len(items)} items")
            if first not in finished:
                tracked = [
                    Tracked(item, stamper, thumbnail=self.thumbnail, at_once=self.elsewhere)
                    for item in items
                ]
                yield Task(tracked, partial(self._write, first // size, tracked))
            elif items_digest((i.key, i.uri) for i in items) != finished[first].items_sha256:
                raise ArtefactError(
                    f"{self.folder} was begun on other images: items {first} to "
                    f"{first + len(items) - 1} of {self.source.name} are not those it holds; "
                    "bring it up to date with --update, or extract into another folder"
                )

    def _write(
        self, number: int, tracked: list[Tracked], manifest: Manifest, outcomes: list[Outcome]
    ) -> tuple[Manifest, Shard, None]:
        entries = [entry.entry(out) for entry, out in zip(tracked, outcomes, strict=True)]
        shard = write_shard(self.folder, manifest, number, entries)
        return manifest.with_shard(shard), shard, None

"""Batch extraction: a whole source to a feature folder, every item exactly once.

The source is cut into shards by the items' numbers alone. So a run that was killed knows from the
manifest which shards are finished, passes over their items without reading them, and makes the
others; the result is the one an unbroken run would have made. The manifest's digest over each
shard's keys and uris proves that the source still lists what it listed.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import onnxruntime
import PIL
import pyarrow as pa

from export.encoder_file import Encoder
from images.errors import ArtefactError, LookalikeError, UsageError
from images.files import fsync_directory
from images.items import Item, Source
from images.paths import printable
from serving.embed import BATCH_SIZE, Seconds, embed, in_batches
from serving.feature_manifest import FILE_NAME, Manifest, SourceNote
from serving.feature_shards import items_digest, write_shard
from serving.features import Features, open_features
from serving.locks import Locked, folder_lock
from serving.outcomes import Outcome, Refused

SHARD_ITEMS = 4096
FIRST_REFUSED = 20

Engine = Callable[..., Generator[list[Outcome]]]
"""`embed`, or what does the same elsewhere: called with encoder, batches and ``seconds``."""

Progress = Callable[[int, int], None]
"""Is called with the items done and all items, each time some are done."""


@dataclass(frozen=True, kw_only=True)
class ExtractReport:
    """What a run did.

    Attributes:
        out: the feature folder.
        items: items of the source.
        rows: images with an embedding, of this run and earlier ones.
        refused: images without one.
        resumed: items that an earlier run had finished.
        elapsed: seconds by the clock.
        images_per_second: items of this run over ``elapsed``.
        seconds: where the time went.
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
    limit: int | None = None,
    batch_size: int = BATCH_SIZE,
    shard_items: int = SHARD_ITEMS,
    engine: Engine = embed,
    progress: Progress | None = None,
) -> ExtractReport:
    """Embed a source's images into a feature folder.

    Interrupted by Ctrl-C, kill -9, a full disk or a power cut, it can be continued with ``resume``.

    Args:
        encoder: an open encoder.
        source: the images.
        out: the feature folder; new or empty, unless ``resume``.
        resume: keep what an earlier run finished; also fine where there was none.
        limit: take only the first items.
        batch_size: images the encoder gets at once.
        shard_items: items of a shard; a resumed run keeps what the first one had.
        engine: does the work; ``ray_engine.ray_embed`` on a cluster.
        progress: is told how far the work is.

    Raises:
        UsageError: the folder holds something, or a number is unusable.
        ArtefactError: what is to be resumed is of another encoder or source, or no feature folder.
        LookalikeError: another process works on the folder, or the disk fails.
    """
    for name, number in {"limit": limit, "batch size": batch_size, "shard": shard_items}.items():
        if number is not None and number < 1:
            raise UsageError(f"{name} is {number}; at least 1 is needed")
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
    )
    try:
        with folder_lock(folder):
            manifest = _begin(folder, wanted, resume=resume)
            return _Run(encoder, source, folder, manifest, engine=engine, progress=progress).run(
                batch_size
            )
    except Locked as locked:
        raise LookalikeError(
            f"process {locked.holder or '?'} is extracting into {folder}; give another folder, or "
            "wait until it is done"
        ) from locked


def _versions() -> dict[str, str]:
    packages = {"onnxruntime": onnxruntime, "pyarrow": pa, "pillow": PIL}
    return {
        "lookalike": version("lookalike"),
        **{name: str(module.__version__) for name, module in packages.items()},
    }


def _begin(folder: Path, wanted: Manifest, *, resume: bool) -> Manifest:
    """The manifest to go on with: a new one, or what is left of an earlier run's."""
    if not any(not entry.name.startswith(".") for entry in folder.iterdir()):
        wanted.write(folder)
        return wanted
    if not resume:
        raise UsageError(f"{folder} {_state(folder)}")
    features = open_features(folder)
    earlier = features.manifest
    _check_same(folder, earlier, wanted)
    for stray in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
        stray.unlink()  # of a killed run; the lock says that nobody is writing them
    whole = tuple(shard for shard in earlier.shards if features.is_whole(shard))
    # Where nothing is left that could be compared with the source, its note is made anew.
    note = earlier if whole else wanted
    manifest = replace(note, shard_items=earlier.shard_items, shards=whole)
    manifest.write(folder)
    return manifest


def _state(folder: Path) -> str:
    """Why a folder cannot be extracted into, and what to do."""
    if not (folder / FILE_NAME).is_file():
        return "is not empty and not a feature folder; give the path of a new folder"
    if open_features(folder).manifest.complete:
        return "holds a finished extraction; give another folder, or delete this one"
    return "holds an unfinished extraction; continue it with --resume, or give another folder"


def _check_same(folder: Path, earlier: Manifest, wanted: Manifest) -> None:
    if earlier.encoder_sha256 != wanted.encoder_sha256:
        raise ArtefactError(
            f"{folder} was begun with the encoder {earlier.encoder_sha256[:12]}…, this is "
            f"{wanted.encoder_sha256[:12]}…; resume with that one, or extract into another folder"
        )
    if (earlier.source.items, earlier.source.limit) != (wanted.source.items, wanted.source.limit):
        raise ArtefactError(
            f"{folder} was begun with {_words(earlier.source)}, this is {_words(wanted.source)}; "
            "resume with the same source and --limit, or extract into another folder"
        )


def _words(source: SourceNote) -> str:
    limit = "" if source.limit is None else f" (--limit {source.limit})"
    return f"{source.items} items of {source.name}{limit}"


class _Run:
    """One run over the shards that are not finished."""

    def __init__(
        self,
        encoder: Encoder,
        source: Source,
        folder: Path,
        manifest: Manifest,
        *,
        engine: Engine,
        progress: Progress | None,
    ) -> None:
        self.encoder = encoder
        self.source = source
        self.folder = folder
        self.manifest = manifest
        self.engine = engine
        self.progress = progress or (lambda _done, _total: None)
        self.seconds = Seconds()
        self.begun: deque[tuple[int, list[Item]]] = deque()
        self.writer = ThreadPoolExecutor(1, "writer")
        self.written: Future[None] | None = None

    def run(self, batch_size: int) -> ExtractReport:
        start = time.perf_counter()
        total = self.manifest.source.items
        resumed = done = sum(shard.items for shard in self.manifest.shards)
        self.progress(done, total)
        outcomes: list[Outcome] = []
        # Leaving, for whatever reason, waits for the shard that is being written: it is kept.
        with self.writer, closing(self._outcomes(batch_size)) as batches:
            for batch in batches:
                outcomes += batch
                done += len(batch)
                if len(outcomes) == len(self.begun[0][1]):
                    self._hand_over(outcomes)
                    outcomes = []
                self.progress(done, total)
            self._await_writer()
        elapsed = time.perf_counter() - start
        features = Features(self.folder, self.manifest)
        return ExtractReport(
            out=self.folder,
            items=total,
            rows=self.manifest.rows,
            refused=self.manifest.errors,
            resumed=resumed,
            elapsed=elapsed,
            images_per_second=(total - resumed) / elapsed,
            seconds=self.seconds,
            first_refused=list(islice(features.errors(), FIRST_REFUSED)),
        )

    def _outcomes(self, batch_size: int) -> Generator[list[Outcome]]:
        batches = (batch for items in self._unfinished() for batch in in_batches(items, batch_size))
        yield from self.engine(self.encoder, batches, seconds=self.seconds)

    def _unfinished(self) -> Iterator[list[Item]]:
        """The items of each shard to be made; those of the others are only compared."""
        finished = {shard.first_item: shard for shard in self.manifest.shards}
        remaining = iter(self.source)
        total, size = self.manifest.source.items, self.manifest.shard_items
        for first in range(0, total, size):
            items = list(islice(remaining, min(size, total - first)))
            if len(items) < min(size, total - first):
                raise LookalikeError(f"{self.source.name} ended after {first + len(items)} items")
            if first not in finished:
                self.begun.append((first // size, items))
                yield items
            elif items_digest(items) != finished[first].items_sha256:
                raise ArtefactError(
                    f"{self.folder} was begun on other images: items {first} to "
                    f"{first + len(items) - 1} of {self.source.name} are not those it holds; "
                    "extract into another folder"
                )

    def _hand_over(self, outcomes: list[Outcome]) -> None:
        """Give a shard to the writer; at most one more waits while it writes."""
        self._await_writer()
        self.written = self.writer.submit(self._write, *self.begun.popleft(), outcomes)

    def _await_writer(self) -> None:
        if self.written is not None:
            self.written.result()

    def _write(self, number: int, items: list[Item], outcomes: list[Outcome]) -> None:
        start = time.perf_counter()
        shard = write_shard(self.folder, self.manifest, number, items, outcomes)
        self.manifest = self.manifest.with_shard(shard)
        self.manifest.write(self.folder)
        self.seconds.write += time.perf_counter() - start

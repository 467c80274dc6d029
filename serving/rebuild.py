"""`collection rebuild`: every item embedded again, with another encoder."""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from base.errors import UsageError
from base.progress import OnProgress
from export.encoder_file.encoder_file import Encoder
from serving.collect import FIRST_REFUSED, RECORDS
from serving.collection import Record
from serving.collection.opening import check_folder, open_collection
from serving.collection.upkeep.rebuilding import NewEncoder, Pending, Rebuilder
from serving.collection.upkeep.snapshot import FOLDER
from serving.embedding.embed import BATCH_SIZE, embed, in_batches
from serving.embedding.results import EmbeddedImage, RefusedImage


@dataclass(kw_only=True)
class RebuildReport:
    """What a rebuilding did.

    Attributes:
        items: of the collection.
        resumed: items that an earlier, interrupted run had done.
        refused: items whose image cannot be read any more.
        done: whether the collection is of the new encoder now.
        first_refused: the first of the refused.
    """

    items: int
    resumed: int
    refused: int = 0
    done: bool = False
    first_refused: list[RefusedImage] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def rebuild(
    path: str | Path,
    encoder: Encoder,
    *,
    drop_unreadable: bool = False,
    on_progress: OnProgress | None = None,
) -> RebuildReport:
    """Embed the images of all items again, from their uris, and bring the collection over.

    Searches go on with the old vectors until all new ones are there; writers are refused meanwhile.
    Interrupted, the same call goes on. Keys, labels and metadata stay.

    Args:
        path: the collection's folder.
        encoder: the new one.
        drop_unreadable: remove the items whose image cannot be used; else nothing is brought
            over while there are some, and what was embedded is kept for the next call.
        on_progress: called with the items done and all items.

    Raises:
        UsageError: it is the encoder the collection has.
        CollectionBusy: another process writes.
        LookalikeError: the disk fails.
    """
    folder = check_folder(path)
    new = NewEncoder(
        sha256=encoder.digest, dim=encoder.embedding_dim, path=str(encoder.path.resolve())
    )
    with open_collection(folder, load_index=False) as collection:
        if collection.encoder_digest == new.sha256:
            raise UsageError(f"{folder} is a collection of {encoder.path} already")
        with collection.rebuilding(new) as rebuilder:
            report = RebuildReport(items=len(collection), resumed=rebuilder.begin())
            dropped = _embed_pending(rebuilder, encoder, report, on_progress)
            if dropped and not drop_unreadable:
                return report
            rebuilder.finish(dropped)
            shutil.rmtree(folder / FOLDER, ignore_errors=True)  # of the old vectors
    with open_collection(folder) as rebuilt:
        rebuilt.tune()
    report.done = True
    return report


def _embed_pending(
    rebuilder: Rebuilder, encoder: Encoder, report: RebuildReport, on_progress: OnProgress | None
) -> list[int]:
    """Make what is missing; returns the numbers of the items that cannot be embedded."""
    refused: list[int] = []
    done = report.resumed
    for pending in _blocks(rebuilder):
        numbers = {one.item.key: one.number for one in pending}
        made: list[tuple[int, Record]] = []
        for outcomes in embed(encoder, in_batches((one.item for one in pending), BATCH_SIZE)):
            for outcome in outcomes:
                if isinstance(outcome, EmbeddedImage):
                    made.append((numbers[outcome.key], _record(outcome)))
                else:
                    refused.append(numbers[outcome.key])
                    report.first_refused += [outcome][: FIRST_REFUSED - len(report.first_refused)]
        rebuilder.store(made)
        done += len(pending)
        if on_progress:
            on_progress(done, report.items)
    report.refused = len(refused)
    return refused


def _blocks(rebuilder: Rebuilder) -> Iterator[list[Pending]]:
    after = 0
    while pending := rebuilder.pending(after, RECORDS):
        yield pending
        after = pending[-1].number


def _record(outcome: EmbeddedImage) -> Record:
    return Record(
        key=outcome.key,
        vector=outcome.embedding,
        uri=outcome.uri,
        width=outcome.width,
        height=outcome.height,
        sha256=outcome.sha256,
    )

"""Rebuilding a collection: every item embedded again, with another encoder."""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from base.errors import UsageError
from base.progress import OnProgress
from export.encoder_file.encoder_file import Encoder
from images.items import RefusedImage
from serving.collect import FIRST_REFUSED, RECORDS, record_of
from serving.collection.opening import check_folder, open_collection
from serving.collection.upkeep.rebuilding import NewEncoder, Pending, Rebuilder
from serving.collection.upkeep.snapshot import FOLDER
from serving.embedding.embed import BATCH_SIZE, embed, in_batches
from serving.embedding.results import EmbeddedImage


@dataclass(kw_only=True)
class RebuildReport:
    """What a rebuild did.

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
        """Return the report, ready for JSON."""
        return asdict(self)


def rebuild(
    path: str | Path,
    encoder: Encoder,
    *,
    drop_unreadable: bool = False,
    on_progress: OnProgress | None = None,
) -> RebuildReport:
    """Embed the images of all items again, from their uris, and switch the collection over.

    Searches use the old vectors until all new ones are there; writers are refused meanwhile.
    Interrupted, the same call resumes. Keys, labels and metadata stay.

    Args:
        path: the collection's folder.
        encoder: the new one.
        drop_unreadable: remove the items whose image cannot be used; else the collection is not
            switched over while there are some, and what was embedded is kept for the next call.
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
    """Embed what is missing; return the numbers of the items that cannot be embedded."""
    refused: list[int] = []
    done = report.resumed
    for pending in _blocks(rebuilder):
        numbers = {entry.item.key: entry.number for entry in pending}
        records = []
        for outcomes in embed(encoder, in_batches((entry.item for entry in pending), BATCH_SIZE)):
            for outcome in outcomes:
                if isinstance(outcome, EmbeddedImage):
                    records.append((numbers[outcome.key], record_of(outcome)))
                else:
                    refused.append(numbers[outcome.key])
                    report.first_refused += [outcome][: FIRST_REFUSED - len(report.first_refused)]
        rebuilder.store(records)
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

"""Filling a collection: from a feature folder, or from images embedded on the way."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from base.errors import ArtifactError
from base.progress import OnProgress
from export.encoder_file.encoder_file import Encoder
from images.items import RefusedImage, Source
from serving.collection import AnyCollection, KeyExists, OnDuplicate, Record
from serving.collection.contract.records import UNKNOWN_TO_IMAGES
from serving.collection.exporting import count_and_keys, read_export
from serving.collection.thumbnails import keep_all, thumbnails_beside
from serving.embedding.embed import BATCH_SIZE, embed, in_batches
from serving.embedding.results import EmbeddedImage
from serving.features.reader import FeatureBlock, Features

RECORDS = 1024  # items of one transaction; each costs the disk one wait
FIRST_REFUSED = 20


@dataclass(kw_only=True)
class CollectReport:
    """What an addition did.

    Attributes:
        added: items that were new.
        replaced: items whose key was there with other content.
        unchanged: items that were there already, the same in every field.
        refused: images of a source that cannot be used.
        elapsed: seconds by the clock.
        first_refused: the first of the refused.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    refused: int = 0
    elapsed: float = 0.0
    first_refused: list[RefusedImage] = field(default_factory=list)

    @property
    def items(self) -> int:
        """The number of items dealt with so far."""
        return self.added + self.replaced + self.unchanged + self.refused

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for JSON."""
        return asdict(self)


def add_features(
    collection: AnyCollection,
    features: Features,
    *,
    on_duplicate: OnDuplicate,
    on_progress: OnProgress,
) -> CollectReport:
    """Add the rows of a feature folder.

    The items are added in batches, each safe once it is in; interrupted, the same command with
    `on_duplicate="replace"` adds the rest and leaves what is there as it is.

    Raises:
        ArtifactError: the features are of another encoder, unfinished or damaged.
        KeyExists: `on_duplicate` is "refuse" and keys are there; nothing has been added then.
    """
    start = time.perf_counter()
    collection.check_encoder(features.manifest.encoder_sha256)
    if not features.manifest.complete:
        raise ArtifactError(
            f"{features.path} is an unfinished extraction; finish it with "
            "lookalike extract … --resume, then add it"
        )
    if on_duplicate == "refuse":
        refuse_existing(collection, features.keys())
    records = (record for block in features.blocks() for record in _records(block))
    report = CollectReport()
    _add(
        collection,
        records,
        len(features),
        on_duplicate=on_duplicate,
        report=report,
        on_progress=on_progress,
    )
    _keep_thumbnails(collection, features)
    report.elapsed = time.perf_counter() - start
    return report


def _keep_thumbnails(collection: AnyCollection, features: Features) -> None:
    location = thumbnails_beside(collection.location)
    if location is None or not features.manifest.thumbnails:
        return
    for shard in features.manifest.shards:
        names = features.columns(shard, "key", "sha256")
        keys, digests = names["key"].to_pylist(), names["sha256"].to_pylist()
        keep_all(location, zip(keys, digests, features.thumbnails(shard), strict=True))


def add_block(collection: AnyCollection, block: FeatureBlock) -> CollectReport:
    """Add the rows of one shard; what is there under the same keys is replaced."""
    report = CollectReport()
    _add(
        collection,
        _records(block),
        len(block.keys),
        on_duplicate="replace",
        report=report,
        on_progress=lambda _done, _total: None,
    )
    return report


def add_source(
    collection: AnyCollection,
    encoder: Encoder,
    source: Source,
    *,
    on_duplicate: OnDuplicate,
    limit: int | None = None,
    on_progress: OnProgress,
) -> CollectReport:
    """Embed a source's images and add them; otherwise as `add_features`.

    Raises:
        ArtifactError: the encoder is not the collection's.
        KeyExists: `on_duplicate` is "refuse" and keys are there; nothing has been embedded then.
    """
    start = time.perf_counter()
    collection.check_encoder(encoder.digest)
    total = len(source) if limit is None else min(limit, len(source))
    if on_duplicate == "refuse":
        refuse_existing(collection, (item.key for item in islice(source, total)))
    report = CollectReport()
    with closing(embed(encoder, in_batches(islice(source, total), BATCH_SIZE))) as batches:
        embedded = _embedded((outcome for batch in batches for outcome in batch), report)
        _add(
            collection,
            embedded,
            total,
            on_duplicate=on_duplicate,
            report=report,
            on_progress=on_progress,
        )
    report.elapsed = time.perf_counter() - start
    return report


def _add(
    collection: AnyCollection,
    records: Iterable[Record],
    total: int,
    *,
    on_duplicate: OnDuplicate,
    report: CollectReport,
    on_progress: OnProgress,
) -> None:
    on_progress(0, total)
    remaining = iter(records)
    while batch := list(islice(remaining, RECORDS)):
        added = collection.add(batch, on_duplicate)
        report.added += added.added
        report.replaced += added.replaced
        report.unchanged += added.unchanged
        on_progress(report.items, total)


def refuse_existing(collection: AnyCollection, keys: Iterable[str]) -> None:
    """Refuse keys that a collection has, before any batch is added that would stay.

    Raises:
        KeyExists: the first keys that are there.
    """
    remaining = iter(keys)
    while chunk := list(islice(remaining, RECORDS)):
        if existing := collection.existing(chunk):
            raise KeyExists(existing)


def _embedded(
    outcomes: Iterable[EmbeddedImage | RefusedImage], report: CollectReport
) -> Iterator[Record]:
    for outcome in outcomes:
        if isinstance(outcome, RefusedImage):
            report.refused += 1
            report.first_refused += [outcome][: FIRST_REFUSED - len(report.first_refused)]
            continue
        yield record_of(outcome)


def record_of(image: EmbeddedImage) -> Record:
    """Return what a collection keeps of an embedded image."""
    return Record(
        key=image.key,
        vector=image.embedding,
        uri=image.uri,
        label=image.label,
        width=image.width,
        height=image.height,
        sha256=image.sha256,
        metadata=_metadata(image.metadata),
        keep=_unknown(image.label, image.metadata),
    )


def _unknown(label: str | None, metadata: str | None) -> frozenset[str]:
    """Return the fields that the source says nothing about: metadata and label, if it has none."""
    unknown = frozenset() if metadata is not None else UNKNOWN_TO_IMAGES
    return unknown | ({"label"} if label is None else set())


def _metadata(text: str | None) -> dict[str, Any]:
    return {} if text is None else json.loads(text)


def add_export(
    collection: AnyCollection, path: str, *, on_duplicate: OnDuplicate, on_progress: OnProgress
) -> CollectReport:
    """Add what was exported from a collection; otherwise as `add_features`.

    Raises:
        ArtifactError: it is of another encoder, or damaged.
        KeyExists: `on_duplicate` is "refuse" and keys are there; nothing has been added then.
    """
    start = time.perf_counter()
    blocks = read_export(path, collection.encoder_digest)
    items, keys = count_and_keys(path)
    if on_duplicate == "refuse":
        refuse_existing(collection, iter(keys))
    report = CollectReport()
    _add(
        collection,
        (record for block in blocks for record in block),
        items,
        on_duplicate=on_duplicate,
        report=report,
        on_progress=on_progress,
    )
    report.elapsed = time.perf_counter() - start
    return report


def _records(block: FeatureBlock) -> Iterator[Record]:
    columns = (
        block.keys,
        block.embeddings,
        block.uris,
        block.labels,
        block.widths.tolist(),
        block.heights.tolist(),
        block.sha256,
        block.metadata,
    )
    for key, vector, uri, label, width, height, sha256, text in zip(*columns, strict=True):
        metadata, keep = _metadata(text), _unknown(label, text)
        yield Record(key, vector, uri, label, width, height, sha256, metadata, keep=keep)

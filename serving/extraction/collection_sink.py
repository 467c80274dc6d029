"""From an extraction straight into a collection: each image once, whatever interrupts it.

A shard is added when the feature folder has it for good. What has been added is noted beside the
shards, in `.into.json`: by file, the digests of the tables that are in. The note follows the
addition, so that after a kill a shard may be added again; that changes nothing, because an item
with the same key and content stays what it is. Where a source has changed, what was deleted, or can
no longer be used, is taken out again.
"""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from base.files import write_json_atomic
from serving.collect import add_block, refuse_existing
from serving.collection import AnyCollection, KeyExists
from serving.collection.contract.errors import some
from serving.collection.thumbnails import keep_all, thumbnails_beside
from serving.extraction.report import CollectionChanges
from serving.features.manifest import Manifest, ShardEntry
from serving.features.reader import Features

NOTE = ".into.json"
KEYS = 1024  # removed at once


class CollectionSink:
    """Adds the shards of a feature folder to a collection.

    Attributes:
        changes: what has been done.

    Raises:
        ArtifactError: the collection is of another encoder.
    """

    def __init__(self, collection: AnyCollection, folder: Path, encoder_sha256: str) -> None:
        collection.check_encoder(encoder_sha256)
        self.changes = CollectionChanges()
        self._collection = collection
        self._folder = folder
        self._note = folder / NOTE
        self._identity = [collection.location, str(collection.stats().get("created"))]
        self._added: dict[str, str] | None = self._read_note()

    def begin(self, keys: Iterable[str], *, update: bool) -> None:
        """Make sure, before any work is done, that no key of the source is another item's.

        Raises:
            KeyExists: keys are there that this folder has not added; an update may replace them.
        """
        if self._added is None:
            if not update:
                _refuse_existing(self._collection, keys)
            self._added = {}
            self._write_note()

    def add_shard(self, manifest: Manifest, shard: ShardEntry) -> None:
        """Add a shard, unless it is in already."""
        assert self._added is not None
        digest = " ".join(table.sha256 for table in shard.tables)
        if self._added.get(shard.file) == digest:
            return
        features = Features(self._folder, manifest)
        block = features.block(shard)
        added = add_block(self._collection, block)
        self.changes.added += added.added
        self.changes.replaced += added.replaced
        self.changes.unchanged += added.unchanged
        location = thumbnails_beside(self._collection.location)
        if location is not None and (images := features.thumbnails(shard)):
            keep_all(location, zip(block.keys, block.sha256, images, strict=True))
        if manifest.updates:
            self._remove(features, shard)
        self._added[shard.file] = digest
        self._write_note()

    def finish(self, manifest: Manifest) -> None:
        """Add what earlier runs have left, and forget the shards that no longer exist."""
        assert self._added is not None
        named = {shard.file for shard in manifest.shards}
        self._added = {file: digest for file, digest in self._added.items() if file in named}
        for shard in manifest.shards:
            self.add_shard(manifest, shard)

    def _remove(self, features: Features, shard: ShardEntry) -> None:
        deleted = [row.key for row in features.deleted(shard)]
        remaining = iter(deleted + [entry.outcome.key for entry in features.refused(shard)])
        while keys := list(islice(remaining, KEYS)):
            self.changes.removed += len(self._collection.remove(keys))

    def _read_note(self) -> dict[str, str] | None:
        """Return what has been added to this very collection; None where that is not noted."""
        try:
            content: Any = json.loads(self._note.read_bytes())
            if content["collection"] == self._identity:
                return dict(content["shards"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # the worst that follows is that all is added again
        return None

    def _write_note(self) -> None:
        write_json_atomic(self._note, {"collection": self._identity, "shards": self._added})


def _refuse_existing(collection: AnyCollection, keys: Iterable[str]) -> None:
    try:
        refuse_existing(collection, keys)
    except KeyExists as error:
        message = f"in the collection already: {some(error.keys)}; remove them first, or replace"
        raise KeyExists(error.keys, f"{message} them with --update") from error

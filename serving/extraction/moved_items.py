"""Images that have only been renamed or moved: their embeddings are known by their content."""

import threading
from collections.abc import Callable
from dataclasses import replace

from base.errors import ArtifactError
from images.items import Item, metadata_text
from serving.embedding.results import EmbeddedImage, Entry
from serving.extraction.existing_items import ExistingItems, Kind, State
from serving.features.reader import Features

KEPT = 4  # shards in memory


class MovedItems:
    """What a feature folder has of images that are no longer where they were, by their SHA-256.

    Nothing is kept in memory but their digests and the last few shards asked for: the shards' files
    must stay as long as this is used. For many threads.
    """

    def __init__(self, features: Features, existing: ExistingItems) -> None:
        self._features = features
        self._shards: dict[bytes, int] = {}
        self._loaded: dict[int, dict[str, Entry]] = {}
        self._lock = threading.Lock()
        for index, shard in enumerate(features.manifest.shards):
            first = existing.starts[index]
            kinds, states = (
                column[first : first + shard.rows] for column in (existing.kinds, existing.states)
            )
            pairs = zip(kinds, states, strict=True)
            gone = [kind == Kind.EMBEDDED and state == State.GONE for kind, state in pairs]
            if any(gone):
                digests = features.columns(shard, "sha256")["sha256"].to_pylist()
                for digest, is_gone in zip(digests, gone, strict=True):
                    if is_gone:
                        self._shards[bytes.fromhex(digest)] = index

    def __bool__(self) -> bool:
        return bool(self._shards)

    def entry(self, item: Item, stamp: str | None, sha256: Callable[[], str]) -> Entry | None:
        """Return what is to be kept of an item if the folder has its content, else None."""
        if not self._shards:
            return None
        digest = sha256()
        index = self._shards.get(bytes.fromhex(digest))
        if index is None:
            return None
        try:
            old = self._entries(index)[digest]
        except (ArtifactError, KeyError):  # damaged, so it is embedded again
            return None
        assert isinstance(old.outcome, EmbeddedImage)
        outcome = replace(
            old.outcome,
            key=item.key,
            uri=item.uri,
            label=item.label,
            metadata=metadata_text(item.metadata),
        )
        return replace(old, outcome=outcome, stamp=stamp)

    def _entries(self, index: int) -> dict[str, Entry]:
        with self._lock:
            if index not in self._loaded:
                if len(self._loaded) == KEPT:
                    del self._loaded[next(iter(self._loaded))]
                entries = self._features.entries(self._features.manifest.shards[index])
                self._loaded[index] = {
                    entry.outcome.sha256: entry
                    for entry in entries
                    if isinstance(entry.outcome, EmbeddedImage)
                }
            return self._loaded[index]

"""Items on their way through an extraction: what else is to be noted when one is read."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from base.errors import ImageRefused, RefusalReason
from base.files import sha256_bytes
from images.items import Content, Item
from images.sources.uris import own_scheme, stamp_of
from serving.embedding.results import Entry, Outcome
from serving.extraction.moved_items import MovedItems

Thumbnailer = Callable[[Content], bytes | None]


class Stamper:
    """Returns the stamp of a uri; archives and array files are looked at once. For many threads."""

    def __init__(self) -> None:
        self._stamps: dict[str, str | None] = {}
        self._lock = threading.Lock()

    def __call__(self, uri: str) -> str | None:
        """Return the stamp, or None if the file does not have one."""
        if own_scheme(uri) is None:
            return stamp_of(uri)
        file = uri.rpartition("#")[0]
        with self._lock:
            if file not in self._stamps:
                self._stamps[file] = stamp_of(uri)
            return self._stamps[file]


@dataclass(frozen=True, kw_only=True)
class ItemTracker:
    """Tracks the items of one run.

    Attributes:
        remote: other machines read the items: the stamp is taken here, before an item leaves, and
            thumbnails cannot be made.
        thumbnailer: makes a thumbnail, where the folder has them.
        stamper: gives the stamps.
    """

    remote: bool = False
    thumbnailer: Thumbnailer | None = None
    stamper: Stamper = field(default_factory=Stamper)

    def track(
        self, item: Item, *, expected: str | None = None, moved: MovedItems | None = None
    ) -> "TrackedItem":
        """Return an item that notes what is read.

        Args:
            item: the item.
            expected: the digest of its old content.
            moved: entries that are the item's, if it has their content.
        """
        return TrackedItem(item, self, expected, moved)


class TrackedItem:
    """An item that notes, when it is read, its stamp, its thumbnail, and whether it is the same.

    Attributes:
        unchanged: its content turned out to be the one expected; then `read` refuses to go
            further, and what the folder has of the item stays.
        stamp: of its file; None before it is read.
    """

    def __init__(
        self, item: Item, tracker: ItemTracker, expected: str | None, moved: MovedItems | None
    ) -> None:
        self.unchanged = False
        self.stamp = tracker.stamper(item.uri) if tracker.remote else None
        self._original = item
        self._tracker = tracker
        self._expected = expected
        self._thumbnail: bytes | None = None
        self._moved = moved
        self._former: Entry | None = None  # of the same content under another key

    @property
    def reused(self) -> bool:
        """Whether what the folder has of its content stays, so that it is not embedded."""
        return self.unchanged or self._former is not None

    @property
    def key(self) -> str:
        """The item's key."""
        return self._original.key

    @property
    def item(self) -> Item:
        """The item as the pipeline takes it: its `read` is this object.

        It is not kept: the two would keep each other alive.
        """
        return replace(self._original, read=self)

    def __call__(self) -> Content:
        """Read the item. Raises ImageRefused as it does, and where the content is unchanged."""
        if not self._tracker.remote:
            # Before the bytes: a file that changes in between is looked at again by an update.
            self.stamp = self._tracker.stamper(self._original.uri)
        content = self._original.read()
        if self._expected is not None and _digest(content) == self._expected:
            self.unchanged = True
            raise ImageRefused(RefusalReason.UNREADABLE, "the content is unchanged")
        if self._moved is not None:
            original, stamp = self._original, self.stamp
            self._former = self._moved.entry(original, stamp, lambda: _digest(content))
            if self._former is not None:
                raise ImageRefused(RefusalReason.UNREADABLE, "the content is known")
        if self._tracker.thumbnailer is not None:
            self._thumbnail = self._tracker.thumbnailer(content)
        return content

    def entry(self, outcome: Outcome) -> Entry:
        """Return what is to be kept, now that the outcome is there."""
        if self._former is not None:
            return self._former
        return Entry(outcome, self.stamp, self._thumbnail)


def _digest(content: Content) -> str:
    data = content if isinstance(content, bytes) else np.ascontiguousarray(content).tobytes()
    return sha256_bytes(data)

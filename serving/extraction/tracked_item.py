"""Items on their way through an extraction: what else is to be noted when one is read."""

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from base.errors import ImageRefused, RefusalReason
from base.files import sha256_bytes
from images.items import Content, Item
from images.sources.uris import own_scheme, stamp_of
from serving.embedding.results import Entry, Outcome

Thumbnailer = Callable[[Content], bytes | None]


class Stamper:
    """Gives the stamp of a uri; archives and array files are looked at once. For many threads."""

    def __init__(self) -> None:
        self._known: dict[str, str | None] = {}
        self._lock = threading.Lock()

    def __call__(self, uri: str) -> str | None:
        """Return the stamp, or None if it cannot be told."""
        if own_scheme(uri) is None:
            return stamp_of(uri)
        file = uri.rpartition("#")[0]
        with self._lock:
            if file not in self._known:
                self._known[file] = stamp_of(uri)
            return self._known[file]


class Tracked:
    """An item that notes, when it is read, its stamp, its thumbnail, and whether it is the same.

    Attributes:
        unchanged: its content turned out to be the one expected; then `read` refuses to go on,
            and what was known of the item stays.
    """

    def __init__(
        self,
        item: Item,
        stamper: Stamper,
        *,
        expected: str | None = None,
        thumbnail: Thumbnailer | None = None,
        at_once: bool = False,
    ) -> None:
        self.unchanged = False
        self.stamp = stamper(item.uri) if at_once else None
        self._at_once = at_once
        self._own = item
        self._stamper = stamper
        self._expected = expected
        self._thumbnailer = thumbnail
        self._thumbnail: bytes | None = None

    @property
    def key(self) -> str:
        """Of the item."""
        return self._own.key

    @property
    def item(self) -> Item:
        """The item as the pipeline takes it: its `read` is this object.

        It is not kept: the two would keep each other alive.
        """
        return replace(self._own, read=self)

    def __call__(self) -> Content:
        """Read the item. Raises ImageRefused as it does, and where the content is unchanged."""
        if not self._at_once:
            # Before the bytes: a file that changes in between is looked at again by an update.
            self.stamp = self._stamper(self._own.uri)
        content = self._own.read()
        if self._expected is not None and _digest(content) == self._expected:
            self.unchanged = True
            raise ImageRefused(RefusalReason.UNREADABLE, "the content is known and unchanged")
        if self._thumbnailer is not None:
            self._thumbnail = self._thumbnailer(content)
        return content

    def entry(self, outcome: Outcome) -> Entry:
        """Return what is to be kept, once the outcome is known."""
        return Entry(outcome, self.stamp, self._thumbnail)


def _digest(content: Content) -> str:
    data = content if isinstance(content, bytes) else np.ascontiguousarray(content).tobytes()
    return sha256_bytes(data)

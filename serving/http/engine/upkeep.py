"""The index of a collection that several workers have open.

Each worker follows the ledger by itself, so that its searches find what any of them has added.
Renewing the index costs minutes of a processor, so one of them does it for all and saves it; the
others notice the newer one and open the collection again with it.
"""

import logging
import threading
from collections.abc import Callable

from base.errors import LookalikeError
from serving.collection import Collection, CollectionBusy, open_collection
from serving.collection.upkeep.snapshot import FOLDER, MANIFEST

logger = logging.getLogger(__name__)

SECONDS = 5.0  # between two looks


class Upkeep:
    """Looks after one worker's collection in a thread of its own, until it is closed.

    Args:
        collection: opened with `maintain_index=False`.
        encoder_digest: of the service's encoder.
        maintains: renew the index; else adopt the one that another worker has renewed.
        on_newer: called with the collection that replaces the one before.
        grace: seconds for searches that have begun, until the collection before is closed.
    """

    def __init__(
        self,
        collection: Collection,
        encoder_digest: str,
        *,
        maintains: bool,
        on_newer: Callable[[Collection], None],
        grace: float,
    ) -> None:
        self._collection = collection
        self._encoder_digest = encoder_digest
        self._maintains = maintains
        self._on_newer = on_newer
        self._grace = grace
        self._manifest = collection.path / FOLDER / MANIFEST
        self._seen = self._saved()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="index upkeep", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """End; what is being renewed now is dropped."""
        self._closed.set()

    def look(self) -> bool:
        """Do what is due; returns whether anything was.

        Raises:
            LookalikeError: it cannot be done; searches continue with the existing index.
        """
        if self._maintains:
            return self._collection.maintain()
        saved = self._saved()
        if saved == self._seen:
            return False
        newer = open_collection(self._collection.path, encoder_digest=self._encoder_digest)
        older, self._collection, self._seen = self._collection, newer, saved
        self._on_newer(newer)
        closing = threading.Timer(self._grace, older.close)
        closing.daemon = True
        closing.start()
        return True

    def _saved(self) -> tuple[int, int]:
        """Return what changes with the saved index."""
        try:
            stat = self._manifest.stat()
        except OSError:
            return 0, 0
        return stat.st_ino, stat.st_mtime_ns

    def _work(self) -> None:
        while not self._closed.wait(SECONDS):
            try:
                self.look()
            except CollectionBusy as busy:
                logger.info("the renewed index is not saved yet: %s", busy)
            except LookalikeError:
                if not self._closed.is_set():
                    logger.exception("the index could not be renewed; searches continue as before")

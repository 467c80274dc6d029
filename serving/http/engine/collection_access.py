"""The collection of a service and the threads that work with it."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from base.errors import ImageRefused
from export.encoder_file.encoder_file import Encoder
from serving.collection import AnyCollection, Collection, Hit, Record, open_collection
from serving.collection.ledger.ledger import FILE_NAME
from serving.collection.thumbnails import thumbnails_beside
from serving.http.engine.cores import Cores
from serving.http.engine.thumbnails import Thumbnails, no_thumbnail
from serving.http.engine.upkeep import Upkeep
from serving.http.engine.worker import Worker
from serving.http.policy.settings import Settings
from serving.http.telemetry import timing

T = TypeVar("T")
READERS = 4
Query = str | NDArray[np.float32]  # a key or a vector [E]


class CollectionAccess:
    """Searches a collection in a few threads, and changes it in one.

    Attributes:
        current: the collection; another worker's newer index puts another one in its place.
        thumbnails: small images of its items.

    Args:
        collection: an open one, closed by `stop`.
        thumbnails: of its items.
        cores: threads that make thumbnails.
    """

    def __init__(self, collection: AnyCollection, thumbnails: Thumbnails, cores: Cores) -> None:
        self.current = collection
        self._file = _ledger_file(collection)
        self.thumbnails = thumbnails
        self._cores = cores
        self._upkeep: Upkeep | None = None
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="collection")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")

    def share(self, worker: Worker, encoder_digest: str, *, grace: float) -> None:
        """Keep up with the other workers from `start` on, where the collection is a folder.

        Args:
            worker: this one.
            encoder_digest: of the service's encoder.
            grace: seconds that begun searches have after `current` was replaced.
        """
        if isinstance(self.current, Collection):
            self._upkeep = Upkeep(
                self.current,
                encoder_digest,
                maintains=worker.slot == 0,
                on_newer=self._replace,
                grace=grace,
            )

    def start(self) -> None:
        """Begin to look for a newer index."""
        if self._upkeep is not None:
            self._upkeep.start()

    async def stop(self) -> None:
        """Finish what runs and close the collection."""
        for pool in (self._readers, self._writer):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)
        if self._upkeep is not None:
            self._upkeep.close()
        self.current.close()

    def _replace(self, collection: Collection) -> None:
        self.current, self._file = collection, _ledger_file(collection)

    @property
    def replaced(self) -> bool:
        """Whether the collection's folder is another one than was opened, or gone."""
        return self._file != _ledger_file(self.current)

    @property
    def dim(self) -> int:
        """The length of its vectors."""
        return self.current.dim

    async def count(self) -> int:
        """Return how many items it holds."""
        return await self.read(len, self.current)

    async def get(self, key: str) -> Record | None:
        """Return the item of a key, None where there is none."""
        return await self.read(self.current.get, key)

    async def search(
        self,
        vector: NDArray[np.float32],
        k: int,
        *,
        min_score: float | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the word of the HTTP interface
        exact: bool = False,
    ) -> list[Hit]:
        """Return the nearest items of one vector."""
        options: dict[str, Any] = {"min_score": min_score, "filter": filter, "exact": exact}
        (hits,) = await self._timed(partial(self.current.search, vector[None], k, **options))
        return hits

    async def similar(self, key: str, **options: Any) -> list[Hit]:
        """Return the nearest items of an item; see `Collection.similar`."""
        return await self._timed(partial(self.current.similar, key, **options))

    async def search_mixed(
        self, positive: Sequence[Query], negative: Sequence[Query], **options: Any
    ) -> list[Hit]:
        """Return the items like some examples and unlike others; see `Collection.search_mixed`."""
        return await self._timed(partial(self.current.search_mixed, positive, negative, **options))

    async def thumbnail(self, item: Record, size: int) -> bytes:
        """Return a small image of an item; see `Thumbnails.of`."""
        try:
            return await self._cores.decode(self.thumbnails.of, item, size)
        except ImageRefused as refused:
            raise no_thumbnail(item) from refused

    async def thumbnails_to_keep(self, contents: Sequence[bytes]) -> list[bytes | None]:
        """Return what is to be kept of images that were sent; see `Thumbnails.to_keep`."""

        async def one(content: bytes) -> bytes | None:
            with suppress(ImageRefused):  # larger than there is room for
                return await self._cores.decode(self.thumbnails.to_keep, content)
            return None

        return await self._cores.each(one, contents)

    async def read(self, work: Callable[..., T], *args: Any) -> T:
        """Run work with the collection in one of its threads."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work, *args)

    async def write(self, work: Callable[..., T], *args: Any) -> T:
        """Run work that changes the collection, one after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, work, *args)

    async def _timed(self, search: Callable[[], T]) -> T:
        begun = time.perf_counter()
        hits = await self.read(search)
        timing.note("search", time.perf_counter() - begun)
        return hits


def _ledger_file(collection: AnyCollection) -> tuple[int, int] | None:
    """Return device and inode of a folder's ledger; None where there is none."""
    if not isinstance(collection, Collection):
        return None
    try:
        stat = (collection.path / FILE_NAME).stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def open_access(
    settings: Settings, encoder: Encoder, cores: Cores, worker: Worker | None
) -> CollectionAccess | None:
    """Open the collection that the settings name; None where they name none.

    Raises:
        UsageError: there is no collection at that location.
        ArtifactError: it is damaged, or belongs to another encoder.
    """
    if settings.collection is None:
        return None
    collection = open_collection(
        settings.collection, encoder_digest=encoder.digest, maintain_index=worker is None
    )
    thumbnails = Thumbnails(
        settings.thumbnails or thumbnails_beside(settings.collection),
        encoder.preprocess,
        max_pixels=settings.max_pixels,
    )
    access = CollectionAccess(collection, thumbnails, cores)
    if worker is not None:
        access.share(worker, encoder.digest, grace=settings.request_seconds)
    return access

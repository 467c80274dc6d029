"""What the routes of one service work with."""

from dataclasses import dataclass
from pathlib import Path

from base.errors import ArtifactError
from base.memory import available_memory
from export.encoder_file.encoder_file import Encoder, open_encoder
from serving.http.engine.bento import stored_encoder
from serving.http.engine.collection_access import CollectionAccess, open_access
from serving.http.engine.cores import SMALL, Cores
from serving.http.engine.embedding import Embedder
from serving.http.engine.worker import Worker
from serving.http.policy.settings import Settings
from serving.http.request.errors import no_collection
from serving.http.request.fetching import Fetcher
from serving.http.request.in_flight import BytesInFlight
from serving.http.telemetry.metric_store import LocalMetricStore
from serving.http.telemetry.metrics import Metrics

MOST_DECODE_BYTES = 2 * 2**30  # a WebP of as many pixels as one image may have takes 1.6e9


@dataclass(kw_only=True, slots=True)
class Runtime:
    """The open pieces of a service.

    Attributes:
        settings: what it allows.
        metrics: of what it does.
        bytes_in_flight: of all requests' bodies together.
        cores: threads that decode and embed.
        encoder: the open encoder; takes a batch that is the only one.
        embedder: turns images into embeddings.
        fetcher: fetches images by URL; None where the service fetches none.
        access: to the collection; None where it only embeds.
    """

    settings: Settings
    metrics: Metrics
    bytes_in_flight: BytesInFlight
    cores: Cores
    encoder: Encoder
    embedder: Embedder
    fetcher: Fetcher | None
    access: CollectionAccess | None

    @property
    def collection(self) -> CollectionAccess:
        """Access to the collection; raises HttpError where there is none."""
        if self.access is None:
            raise no_collection()
        return self.access

    @property
    def ready(self) -> bool:
        """Whether the encoder is warm and the collection still the one that was opened."""
        return self.embedder.warm and not (self.access is not None and self.access.replaced)

    async def count_items(self) -> int | None:
        """Return the collection's size, None where there is none."""
        return None if self.access is None else await self.access.count()


def open_runtime(settings: Settings, worker: Worker | None, cpus: int) -> Runtime:
    """Open the encoder and the collection.

    Args:
        settings: of the service.
        worker: which of several this process is; None: it is the only one.
        cpus: how many it may use.

    Raises:
        UsageError: no encoder is named, or a path is wrong.
        ArtifactError: a file is damaged, the encoder is not the one that the other workers have,
            or the collection belongs to another encoder.
    """
    path = settings.encoder or stored_encoder()
    encoder, single = open_encoder(path, threads=settings.threads), None
    if encoder.provider == "cpu" and encoder.threads > 1:
        single = open_encoder(path, threads=1)
    _check_same(path, encoder, single, worker)
    cores = Cores(cpus, decode_bytes(settings))
    access = open_access(settings, encoder, cores, worker)
    metrics = Metrics(worker.metric_store() if worker else LocalMetricStore())
    bytes_in_flight = BytesInFlight(settings.max_bytes_in_flight)
    bytes_in_flight.on_change = metrics.body_bytes.set
    return Runtime(
        settings=settings,
        metrics=metrics,
        bytes_in_flight=bytes_in_flight,
        cores=cores,
        encoder=encoder,
        embedder=Embedder(encoder, single, cores=cores, settings=settings, metrics=metrics),
        fetcher=Fetcher(settings) if settings.url_prefixes else None,
        access=access,
    )


def decode_bytes(settings: Settings) -> int:
    """Return what large images may take together while one process decodes them."""
    if settings.max_decode_bytes is not None:
        return settings.max_decode_bytes
    available = available_memory() or MOST_DECODE_BYTES
    return min(MOST_DECODE_BYTES, max(SMALL, available // 2 // settings.workers))


def _check_same(
    path: Path, encoder: Encoder, single: Encoder | None, worker: Worker | None
) -> None:
    """Refuse an encoder file that was replaced: all of a service have one encoder.

    Raises:
        ArtifactError: with both digests.
    """
    first = worker.encoder_digest if worker else None
    for own in (encoder, single):
        if own is not None and own.digest != (first or encoder.digest):
            raise ArtifactError(
                f"the encoder file {path} was replaced while the service runs: it was "
                f"{(first or encoder.digest)[:12]}… and is {own.digest[:12]}…. Start the whole "
                "service again to use the new one, or put the former file back"
            )

"""One of several workers: its slot, its share of the CPUs, its metrics."""

from dataclasses import dataclass
from pathlib import Path

from serving.http.telemetry.metric_store import SharedMetricStore


@dataclass(frozen=True, slots=True)
class Worker:
    """One of several processes that share a listening socket.

    Attributes:
        slot: its number, from 0; a worker that replaces it has the same.
        cpus: its share of the machine's.
        folder: where all of them keep their metrics.
        encoder_digest: SHA-256 of the encoder file when the service was started; None in a bento.
    """

    slot: int
    cpus: int
    folder: Path
    encoder_digest: str | None = None

    def metric_store(self) -> SharedMetricStore:
        """Return where its metrics are kept, to be added up with those of the others."""
        return SharedMetricStore(self.folder, self.slot)

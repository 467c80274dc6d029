"""What one of several workers knows of itself."""

from dataclasses import dataclass
from pathlib import Path

from serving.http.telemetry.metric_store import SharedFigures


@dataclass(frozen=True, slots=True)
class Worker:
    """One of several processes that share a listening socket.

    Attributes:
        slot: its number, from 0; whoever replaces it has the same.
        cpus: its share of the machine's.
        folder: where all of them keep their figures.
    """

    slot: int
    cpus: int
    folder: Path

    def figures(self) -> SharedFigures:
        """Its figures, added up with those of the others."""
        return SharedFigures(self.folder, self.slot)

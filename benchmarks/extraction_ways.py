"""The ways to extract features that extraction_speed compares."""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.folders import fetched, forget
from benchmarks.workers import Worker
from export.encoder_file.encoder_file import Encoder
from images.sources.sources import open_source
from serving.extraction.extract import extract

CORES = 2


Way = Callable[[], "int | tuple[int, float]"]


@dataclass
class Ours:
    """An encoder of ours and the folder that it reads.

    Attributes:
        seconds: where they went in the last extraction, in ms a photo.
    """

    encoder: Encoder
    folder: Path
    count: int
    out: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self) -> tuple[int, float]:
        """Extract everything into a new folder; returns images and seconds."""
        start = time.perf_counter()
        report = extract(self.encoder, open_source(str(self.folder)), self.out)
        seconds = time.perf_counter() - start
        assert report.rows == self.count, f"{report.refused} images were refused"
        spent = asdict(report.seconds).items()
        self.seconds = {name: round(1e3 * value / self.count, 3) for name, value in spent}
        shutil.rmtree(self.out)
        return self.count, seconds


def cold(ours: Ours) -> dict[str, float]:
    """Our rate with nothing in the page cache, and with all; and what came from the disk."""
    files = sorted({file.resolve() for file in ours.folder.glob("*/*.jpg")})
    forget(files)
    before = fetched()
    images, seconds = ours()
    from_disk = fetched() - before
    again, warm = ours()
    total = sum(file.stat().st_size for file in files)
    return {
        "cold": round(images / seconds, 1),
        "warm": round(again / warm, 1),
        "mib_from_disk": round(from_disk / 2**20, 1),
        "mib_of_files": round(total / 2**20, 1),
    }


def rival_way(worker: Worker, notes: dict[str, str], name: str) -> Way:
    """Return a way that another process measures; what it says of its setting is noted."""

    def way() -> tuple[int, float]:
        answer = worker.ask()
        notes[name] = answer["setting"]
        return answer["images"], answer["seconds"]

    return way


def alone(worker: Worker) -> Way:
    """Return the floor: as if each core did what one does while the others rest."""

    def way() -> tuple[int, float]:
        answer = worker.ask()
        return CORES * answer["images"], answer["seconds"]

    return way


def at_once(workers: list[Worker]) -> Way:
    """All cores at once, until the last is through."""

    def way() -> tuple[int, float]:
        for worker in workers:
            worker.begin()
        answers = [worker.answer() for worker in workers]
        return sum(a["images"] for a in answers), max(a["seconds"] for a in answers)

    return way

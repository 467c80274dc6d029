"""The table [teacher] of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from training.errors import require

if TYPE_CHECKING:
    from training.data.settings import DataSettings

START = "start"  # the weights that the run starts from


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """Whose embeddings are learned, and in which form; without `encoder` nobody's."""

    encoder: str | None = None  # an encoder file (.onnx), or "start": the run's own start
    image_size: int | None = None  # px, of what the start sees as a teacher; what it was made for
    sha256: str | None = None  # of that file; filled in when a run starts
    weight: float = 1.0  # of the distillation loss; the contrastive one has 1 - weight
    embedding_dim: int = 256  # E, of the student: that many principal directions of the teacher's
    neighbors: int = 5  # rows that a target is the mean of, see `targets.py`; 1: only its own
    labels: bool = False  # targets of labeled images are the means of their classes

    def __post_init__(self) -> None:
        require(0 < self.weight <= 1, f"teacher.weight = {self.weight}: must be above 0, at most 1")
        require(
            self.embedding_dim >= 2,
            f"teacher.embedding_dim = {self.embedding_dim}: must be at least 2",
        )
        require(self.neighbors >= 1, f"teacher.neighbors = {self.neighbors}: must be at least 1")
        require(
            self.encoder is not None or self.sha256 is None,
            "teacher.sha256 without teacher.encoder",
        )
        require(
            self.image_size is None or (self.encoder == START and self.image_size >= 8),
            f'teacher.image_size = {self.image_size}: for teacher.encoder = "start", at least 8',
        )


def start_data(data: DataSettings, teacher: TeacherSettings) -> DataSettings:
    """Return how the start sees images as a teacher: whole ones, at the size it was made for."""
    size = teacher.image_size or data.image_size
    return replace(data, image_size=size, stored_size=None, evaluation_resize=None)

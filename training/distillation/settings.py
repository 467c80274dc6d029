"""The table [teacher] of a recipe."""

from dataclasses import dataclass

from training.errors import require


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """Whose embeddings are learned, and in which form; without `encoder` nobody's."""

    encoder: str | None = None  # an encoder file (.onnx)
    sha256: str | None = None  # of that file; filled in when a run starts
    weight: float = 1.0  # of the distillation loss; the contrastive one has 1 - weight
    embedding_dim: int = 256  # E, of the student: that many principal directions of the teacher's
    neighbors: int = 5  # rows that a target is the mean of, see `targets.py`; 1: only its own

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

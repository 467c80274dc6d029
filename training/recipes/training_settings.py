"""The table [training] of a recipe: how long, in which batches, with which bookkeeping."""

from dataclasses import dataclass
from typing import Literal

from training.errors import require


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Length, batch and bookkeeping. Exactly one of `epochs` and `samples` gives the length."""

    batch_size: int  # images, over all processes; twice as many views
    micro_batch: int | None = None  # images at a time in memory, see `gradient_cache.py`
    epochs: float | None = None
    samples: int | None = None  # images seen, repetitions counted
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: the faster, see `precision.py`
    compile: bool = False  # see `compute.compiled`
    log_every: int = 10  # steps per line of metrics.jsonl
    checkpoint_minutes: float = 5.0
    progressive: tuple[tuple[float, int], ...] | None = None  # (share of the run, px of a view)
    evaluations: int = 10  # measurements spread over the run
    held_out: float = 0.0  # share of the images to measure on and not to train on, without --eval

    def __post_init__(self) -> None:
        require(
            self.batch_size >= 2, f"training.batch_size = {self.batch_size}: must be at least 2"
        )
        micro = self.batch_size if self.micro_batch is None else self.micro_batch
        require(
            micro >= 2 and self.batch_size % micro == 0,
            f"training.micro_batch = {micro}: must be at least 2 and divide batch_size = "
            f"{self.batch_size}",
        )
        require(
            (self.epochs is None) != (self.samples is None),
            "training needs its length: either epochs or samples, not both",
        )
        length = self.epochs if self.samples is None else self.samples
        require(length is not None and length > 0, f"training length {length}: must be above 0")
        require(self.seed >= 0, f"training.seed = {self.seed}: must not be negative")
        require(self.log_every >= 1, f"training.log_every = {self.log_every}: must be at least 1")
        require(self.checkpoint_minutes >= 0, "training.checkpoint_minutes must not be negative")
        share = self.held_out
        require(0 <= share < 1, f"training.held_out = {share}: must be from 0 to below 1")
        require(self.evaluations >= 0, "training.evaluations must not be negative")
        if self.progressive is not None:
            starts = [start for start, _ in self.progressive]
            require(
                starts[0] == 0 and starts == sorted(set(starts)) and starts[-1] < 1,
                f"training.progressive begins its stages at {starts}: must rise from 0 to below 1",
            )
            sizes = [size for _, size in self.progressive]
            require(min(sizes) >= 8, f"training.progressive has sizes of {sizes} px: at least 8")

"""A recipe: everything that decides a training run but the images and the machine.

One frozen dataclass per TOML table, checked where it is built. `recipe_files.py` reads and writes
them; `recipes/` holds the ones that come with the project, with the source of each number.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from base.files import sha256_bytes
from training.augment.augment import Augmentation
from training.errors import RecipeError, did_you_mean, need
from training.models.encoders import check_encoder
from training.optim.schedule import peak_learning_rate, warmup_cosine
from training.recipes.recipe_data import Data
from training.recipes.toml_dataclass import Value, read_table, table_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """f(.), see `encoders.build_encoder`; all but the name is for ResNets."""

    name: str = "resnet18"
    width: float = 1.0
    stem: Literal["auto", "imagenet", "small", "small-stride2"] = "auto"
    zero_init_residual: bool = True
    selective_kernels: bool = False  # SimCLR v2
    weights: str | None = None  # to start from, see `start_weights.py`; default: random ones
    weights_sha256: str | None = None  # of the file they were in; filled in when a run starts

    def __post_init__(self) -> None:
        check_encoder(
            self.name,
            width=self.width,
            stem=self.stem,
            selective_kernels=self.selective_kernels,
        )
        need(
            self.weights is not None or self.weights_sha256 is None,
            "encoder.weights_sha256 without encoder.weights",
        )


@dataclass(frozen=True, kw_only=True)
class Head:
    """g(.), see `heads.projection_head`."""

    kind: Literal["v1", "v2"] = "v1"
    hidden: int | None = None  # default: the encoder's feature_dim
    out_dim: int = 128

    def __post_init__(self) -> None:
        need(self.hidden is None or self.hidden > 0, f"head.hidden = {self.hidden}: must be > 0")
        need(self.out_dim > 0, f"head.out_dim = {self.out_dim}: must be above 0")


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Which loss, see `losses.py`; a field of another loss is not looked at."""

    name: Literal["nt-xent", "nt-logistic", "margin", "decoupled"] = "nt-xent"
    temperature: float = 0.1  # all but margin
    margin: float = 0.8  # margin; of cosine similarities, which lie in [-1, 1]
    semi_hard: bool = False  # nt-logistic, margin: only the hardest of the easier negatives

    def __post_init__(self) -> None:
        need(self.temperature > 0, f"loss.temperature = {self.temperature}: must be above 0")
        need(self.margin >= 0, f"loss.margin = {self.margin}: must not be negative")
        need(
            not self.semi_hard or self.name in {"nt-logistic", "margin"},
            f'loss.semi_hard is for "nt-logistic" and "margin": {self.name} weighs its negatives',
        )


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """See `optimizers.build_optimizer`; a field of another optimizer is not looked at."""

    name: Literal["lars", "sgd", "adamw"] = "lars"
    weight_decay: float = 1e-6
    momentum: float = 0.9  # lars, sgd
    nesterov: bool = False  # sgd
    trust_coefficient: float = 0.001  # lars
    betas: tuple[float, float] = (0.9, 0.999)  # adamw

    def __post_init__(self) -> None:
        need(self.weight_decay >= 0, f"optimizer.weight_decay = {self.weight_decay}: must be >= 0")
        need(0 <= self.momentum < 1, f"optimizer.momentum = {self.momentum}: must be in [0,1)")
        need(self.trust_coefficient > 0, "optimizer.trust_coefficient must be above 0")
        need(0 <= min(self.betas) <= max(self.betas) < 1, "optimizer.betas must be in [0,1)")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Warm-up and cosine, see `schedule.warmup_cosine`. Give at most one length of warm-up."""

    learning_rate: float
    scaling: Literal["linear", "sqrt", "none"] = "linear"
    warmup_epochs: float | None = None
    warmup_fraction: float | None = None  # of the run

    def __post_init__(self) -> None:
        need(self.learning_rate > 0, f"schedule.learning_rate = {self.learning_rate}: not above 0")
        need(
            self.warmup_epochs is None or self.warmup_fraction is None,
            "schedule has warmup_epochs and warmup_fraction: give one of them",
        )
        fraction = self.warmup_fraction or 0.0
        need(0 <= fraction < 1, f"schedule.warmup_fraction = {fraction}: must be in [0,1)")
        need((self.warmup_epochs or 0.0) >= 0, "schedule.warmup_epochs must not be negative")


@dataclass(frozen=True, kw_only=True)
class Training:
    """Length, batch and bookkeeping. Exactly one of `epochs` and `samples` gives the length."""

    batch_size: int  # images, over all processes; twice as many views
    micro_batch: int | None = None  # images at a time in memory, see `gradient_cache.py`
    epochs: float | None = None
    samples: int | None = None  # images seen, repetitions counted
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the hardware has it
    compile: bool = False  # see `compute.compiled`
    log_every: int = 10  # steps per line of metrics.jsonl
    checkpoint_minutes: float = 5.0
    progressive: tuple[tuple[float, int], ...] | None = None  # (share of the run, px of a view)
    evaluations: int = 10  # kNN measurements spread over the run, if there are labels

    def __post_init__(self) -> None:
        need(self.batch_size >= 2, f"training.batch_size = {self.batch_size}: must be at least 2")
        micro = self.batch_size if self.micro_batch is None else self.micro_batch
        need(
            micro >= 2 and self.batch_size % micro == 0,
            f"training.micro_batch = {micro}: must be at least 2 and divide batch_size = "
            f"{self.batch_size}",
        )
        need(
            (self.epochs is None) != (self.samples is None),
            "training needs its length: either epochs or samples, not both",
        )
        length = self.epochs if self.samples is None else self.samples
        need(length is not None and length > 0, f"training length {length}: must be above 0")
        need(self.seed >= 0, f"training.seed = {self.seed}: must not be negative")
        need(self.log_every >= 1, f"training.log_every = {self.log_every}: must be at least 1")
        need(self.checkpoint_minutes >= 0, "training.checkpoint_minutes must not be negative")
        need(self.evaluations >= 0, "training.evaluations must not be negative")
        if self.progressive is not None:
            starts = [start for start, _ in self.progressive]
            need(
                starts[0] == 0 and starts == sorted(set(starts)) and starts[-1] < 1,
                f"training.progressive begins its stages at {starts}: must rise from 0 to below 1",
            )
            sizes = [size for _, size in self.progressive]
            need(min(sizes) >= 8, f"training.progressive has sizes of {sizes} px: at least 8")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All tables of a recipe file; `name` is a label and no part of the digest."""

    name: str
    data: Data
    encoder: Encoder
    head: Head
    augmentation: Augmentation
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    training: Training

    def __post_init__(self) -> None:
        stages, stored = self.training.progressive, self.data.stored_side
        if stages is None:
            return
        need(
            stages[-1][1] == self.data.image_size,
            f"training.progressive ends at {stages[-1][1]} px: must end at data.image_size = "
            f"{self.data.image_size}, what the encoder is used at",
        )
        largest = max(size for _, size in stages)
        need(
            largest <= stored,
            f"training.progressive has views of {largest} px: data.stored_size is {stored}",
        )

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Recipe:
        """Build a recipe from a parsed TOML document; an absent table has its defaults.

        Raises:
            RecipeError: an unknown table or key, a missing key, a value out of type or range.
        """
        tables = {field.name for field in fields(cls)} - {"name"}
        for key, value in document.items():
            if key not in tables and key != "name":
                raise RecipeError(f"unknown table [{key}]{did_you_mean(key, tables)}")
            if key != "name" and not isinstance(value, dict):
                raise RecipeError(f"'{key}' must be a table: write [{key}]")
        kinds = (Data, Encoder, Head, Augmentation, Loss, Optimizer, Schedule, Training)
        built: dict[str, Any] = {
            kind.__name__.lower(): read_table(
                kind, document.get(kind.__name__.lower(), {}), kind.__name__.lower()
            )
            for kind in kinds
        }
        return cls(name=str(document.get("name", "unnamed")), **built)

    def to_dict(self) -> dict[str, str | dict[str, Value]]:
        """Return the inverse of `from_dict`."""
        tables = {f.name: table_of(getattr(self, f.name)) for f in fields(self) if f.name != "name"}
        return {"name": self.name, **tables}

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of all tables."""
        tables = {key: value for key, value in self.to_dict().items() if key != "name"}
        return sha256_bytes(json.dumps(tables, sort_keys=True).encode())

    def steps(self, images: int) -> int:
        """Length of a run over so many images, at least 1; the last broken batch is dropped."""
        per_epoch = images // self.training.batch_size
        if self.training.samples is not None:
            return max(1, round(self.training.samples / self.training.batch_size))
        assert self.training.epochs is not None
        return max(1, round(self.training.epochs * per_epoch))

    def learning_rates(self, images: int) -> NDArray[np.float64]:
        """Return the learning rate of each step, [steps(images)]."""
        steps = self.steps(images)
        if self.schedule.warmup_epochs is not None:
            warmup = self.schedule.warmup_epochs * (images // self.training.batch_size)
        else:
            warmup = (self.schedule.warmup_fraction or 0.0) * steps
        peak = peak_learning_rate(
            self.schedule.learning_rate, self.schedule.scaling, self.training.batch_size
        )
        # a run shorter than its warm-up (a quick try) still ends with a falling rate
        return warmup_cosine(peak, steps, min(math.floor(warmup), steps // 2))

    def view_sizes(self, images: int) -> NDArray[np.int64]:
        """Side of the views of each step in pixels, [steps(images)]; see training.progressive."""
        steps = self.steps(images)
        sizes = np.full(steps, self.data.image_size)
        for start, size in self.training.progressive or ():
            sizes[math.floor(start * steps) :] = size
        return sizes

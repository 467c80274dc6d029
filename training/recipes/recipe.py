"""A recipe: everything that decides a training run but the images and the machine.

One frozen dataclass per TOML table, which stands beside what it configures and is checked where it
is built; here they are put together. `recipe_files.py` reads and writes recipes; the TOML files of
this folder come with the project, with the source of each number.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from base.files import sha256_bytes
from base.text import did_you_mean
from training.augment.augment import Augmentation
from training.data.settings import DataSettings
from training.distillation.settings import TeacherSettings
from training.errors import RecipeError, require
from training.models.encoders import EncoderSettings
from training.models.projection_head import HeadSettings
from training.optim.adaptation import AdaptationSettings
from training.optim.losses import LossSettings
from training.optim.optimizers import OptimizerSettings
from training.optim.schedule import ScheduleSettings, peak_learning_rate, warmup_cosine
from training.recipes.toml_dataclass import Value, read_table, table_of
from training.recipes.training_settings import TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


TABLES: dict[
    str, type[Any]
] = {  # of a recipe file, in the order in which they are read and checked
    "data": DataSettings,
    "encoder": EncoderSettings,
    "head": HeadSettings,
    "augmentation": Augmentation,
    "loss": LossSettings,
    "optimizer": OptimizerSettings,
    "schedule": ScheduleSettings,
    "training": TrainingSettings,
    "adaptation": AdaptationSettings,
    "teacher": TeacherSettings,
}
LATER = ("adaptation", "teacher")  # tables that the first version did not have


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All tables of a recipe file; `name` is a label and not in the digest."""

    name: str
    data: DataSettings
    encoder: EncoderSettings
    head: HeadSettings
    augmentation: Augmentation
    loss: LossSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    training: TrainingSettings
    adaptation: AdaptationSettings = field(default_factory=AdaptationSettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)

    def __post_init__(self) -> None:
        stages, stored = self.training.progressive, self.data.stored_side
        if stages is None:
            return
        require(
            stages[-1][1] == self.data.image_size,
            f"training.progressive ends at {stages[-1][1]} px: must end at data.image_size = "
            f"{self.data.image_size}, what the encoder is used at",
        )
        largest = max(size for _, size in stages)
        require(
            largest <= stored,
            f"training.progressive has views of {largest} px: data.stored_size is {stored}",
        )

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Recipe:
        """Build a recipe from a parsed TOML document; an absent table has its defaults.

        Raises:
            RecipeError: an unknown table or key, a missing key, a value out of type or range.
        """
        for key, value in document.items():
            if key not in TABLES and key != "name":
                raise RecipeError(f"unknown table [{key}]{did_you_mean(key, TABLES)}")
            if key != "name" and not isinstance(value, dict):
                raise RecipeError(f"'{key}' must be a table: write [{key}]")
        tables = {
            name: read_table(kind, document.get(name, {}), name) for name, kind in TABLES.items()
        }
        return cls(name=str(document.get("name", "unnamed")), **tables)

    def to_dict(self) -> dict[str, str | dict[str, Value]]:
        """Return the inverse of `from_dict`."""
        return {"name": self.name, **{name: table_of(getattr(self, name)) for name in TABLES}}

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of all tables.

        A setting that an earlier version did not have is left out where it changes nothing, so that
        the runs of that version keep their digest.
        """
        tables = {name: table_of(getattr(self, name)) for name in TABLES}
        if not self.training.held_out:
            del tables["training"]["held_out"]
        for name in LATER:
            if getattr(self, name) == TABLES[name]():
                del tables[name]
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

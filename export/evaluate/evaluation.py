"""The settings and the outcome of an evaluation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from base.errors import UsageError

if TYPE_CHECKING:
    from images.items import RefusedImage
    from training.protocols.intervals import Interval

Protocol = Literal["knn", "linear", "finetune", "retrieval"]
PROTOCOLS: tuple[Protocol, ...] = ("knn", "linear", "finetune", "retrieval")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The protocols' numbers; a protocol ignores those that are not its own."""

    k: int | None = None  # knn; None: from the sizes of the classes, see `choose_k`
    temperature: float = 0.1  # knn
    solver: Literal["lbfgs", "sgd"] = "lbfgs"  # linear
    label_fraction: float | None = None  # of the training labels; all, finetune: 0.01
    seeds: int = 1  # of the fraction and of the learning; scores are averaged
    epochs: int | None = None  # linear by sgd: 90; finetune: 60 up to 3 % of the labels, else 30
    batch_size: int = 256  # linear by sgd, finetune
    from_head: bool = False  # finetune from the head's first layer (v2)

    def __post_init__(self) -> None:
        fraction = self.label_fraction
        if fraction is not None and not 0 < fraction <= 1:
            raise UsageError(f"--label-fraction {fraction}: must be above 0 and at most 1")
        if self.temperature <= 0:
            raise UsageError(f"--temperature {self.temperature}: must be above 0")
        if (
            min(1 if self.k is None else self.k, self.seeds, self.epochs or 1) < 1
            or self.batch_size < 2
        ):
            raise UsageError("-k, --seeds and --epochs must be at least 1, --batch-size 2")


@dataclass(frozen=True, kw_only=True)
class Score:
    """A share in [0,1] and its 95 % confidence interval."""

    value: float
    interval: Interval


Scores = dict[str, Score]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The outcome of `evaluate`."""

    protocol: Protocol
    spaces: dict[str, Scores]  # the first is what the subject is for
    queries: int  # tested images
    gallery: int  # images searched or learned from
    refused: tuple[RefusedImage, ...]
    settings: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, float]:
        """The values of the first space."""
        return {name: score.value for name, score in next(iter(self.spaces.values())).items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome, ready for JSON; `refused` is a count."""
        return {
            "protocol": self.protocol,
            "scores": self.scores,
            "spaces": {
                space: {name: asdict(score) for name, score in scores.items()}
                for space, scores in self.spaces.items()
            },
            "queries": self.queries,
            "gallery": self.gallery,
            "refused": len(self.refused),
            "settings": self.settings,
            "details": self.details,
        }

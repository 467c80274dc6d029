"""The table and the JSON line of `encoder_quality`."""

import statistics
from dataclasses import dataclass, field

import numpy as np
from rich.table import Table

from benchmarks.report import publish


@dataclass
class Outcome:
    """The scores of one row, a seed each."""

    name: str
    recall: list[float] = field(default_factory=list)
    map_at_r: list[float] = field(default_factory=list)
    knn: list[float] = field(default_factory=list)
    interval: float = 0.0  # of recall@1, half its width
    cpu_s: list[float] = field(default_factory=list)
    images_per_s: float | None = None
    queries: int = 0


def half_width(share: float, queries: int) -> float:
    """Half of the 95 % interval of a share."""
    return 1.96 * float(np.sqrt(share * (1 - share) / max(1, queries)))


def report(outcomes: list[Outcome], missing: dict[str, str], *, short: bool, seeds: int) -> None:
    """Print the table and the JSON line."""
    table = Table(title="Neighbors of unseen pictures, %")
    for column in ("row", "recall@1", "95 %", "mAP@R", "kNN", "images/s", "CPU s"):
        table.add_column(column)
    by_name = {outcome.name: outcome for outcome in outcomes}
    for outcome in outcomes:
        table.add_row(
            outcome.name,
            shown(outcome.recall),
            f"{100 * outcome.interval:.1f}",
            shown(outcome.map_at_r),
            shown(outcome.knn),
            "" if outcome.images_per_s is None else f"{outcome.images_per_s:.0f}",
            ", ".join(f"{seconds:.0f}" for seconds in outcome.cpu_s),
        )

    def mean(name: str, score: str) -> float | None:
        values = getattr(by_name[name], score) if name in by_name else []
        return round(100 * statistics.fmean(values), 2) if values else None

    def difference(one: float | None, other: float | None) -> float | None:
        return None if one is None or other is None else round(one - other, 2)

    speeds = [by_name[n].images_per_s if n in by_name else None for n in ("student", "teacher")]
    publish(
        "encoder_quality",
        metrics={
            "clothing_scratch_r1": mean("scratch", "recall"),
            "clothing_scratch_mapr": mean("scratch", "map_at_r"),
            "clothing_adapt_r1": mean("adapt", "recall"),
            "clothing_adapt_mapr": mean("adapt", "map_at_r"),
            "adapt_minus_start_mapr": difference(
                mean("adapt", "map_at_r"), mean("start", "map_at_r")
            ),
            "tuned_mapr": mean("tuned", "map_at_r"),
            "student_r1": mean("student", "recall"),
            "student_mapr": mean("student", "map_at_r"),
            "student_speed_vs_teacher": round(speeds[0] / speeds[1], 2)
            if speeds[0] and speeds[1]
            else None,
            "cifar_knn": mean("cifar", "knn"),
        },
        details={
            "rows": {o.name: vars(o) for o in outcomes},
            "missing": missing,
            "seeds": seeds,
            "short": short,
        },
        tables=[table],
        packages=("torch", "torchvision", "onnxruntime"),
    )


def shown(values: list[float]) -> str:
    """Return the mean in percent, with the range where there are several."""
    if not values:
        return ""
    text = f"{100 * statistics.fmean(values):.1f}"
    if len(values) > 1:
        text += f" ({100 * min(values):.1f}-{100 * max(values):.1f})"
    return text

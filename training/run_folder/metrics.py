"""The figures of a run: `metrics.jsonl` and TensorBoard events.

Each line of `metrics.jsonl` is one JSON object with "step" (finished steps) and "samples"
(images seen). Training lines add "epoch", "loss" (mean since the last line), "learning_rate",
"samples_per_s" and "elapsed_s"; evaluation lines add "alignment", "uniformity", "rankme",
"feature_std" and, where there are labels, "knn_accuracy" (see `monitor.py`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Self

from torch.utils.tensorboard import SummaryWriter

from base.files import write_bytes_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

METRICS = "metrics.jsonl"


def read_metrics(run: Path) -> list[dict[str, float]]:
    """All whole lines; a line that a killed process left half-written is passed over."""
    path = run / METRICS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


class Metrics:
    """Appends to a run's figures; opening drops what lies beyond `step`.

    So a run that was killed after its last checkpoint and is resumed there has no step twice.
    """

    def __init__(self, run: Path, step: int) -> None:
        kept = [line for line in read_metrics(run) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_bytes_atomic(run / METRICS, text.encode())
        self._file = (run / METRICS).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, samples: int, **figures: float) -> None:
        """One line, flushed, and one TensorBoard scalar per figure."""
        line: Mapping[str, float] = {"step": step, "samples": samples, **figures}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._board.close()
